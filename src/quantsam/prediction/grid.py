"""Prompts of "segment everything": an image's crops, the grid of points in each crop, and the settings."""

from __future__ import annotations

import itertools
import math
import reprlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantsam.data.images import MAX_PIXELS
from quantsam.errors import InputError
from quantsam.models.variants import VARIANTS

Box = tuple[int, int, int, int]
"""x0 y0 x1 y1 in whole pixels, right and bottom exclusive."""

_WHOLE = {  # lowest, highest, hint
    "points_per_side": (1, 1024, "SAM takes 32"),
    "points_per_batch": (1, 65536, "take 64, or fewer where memory is short"),
    "crop_layers": (0, 5, "layer i has 4^i crops; 0 looks at the whole image only"),
    "crop_points_downscale": (1, 1024, "1 asks as many points in every crop as in the image"),
    "min_region_area": (0, MAX_PIXELS, "it is in pixels; 0 leaves masks as they are"),
}
_REAL = {
    "iou_threshold": (0.0, 1.0, "SAM takes 0.88; 0 keeps all masks"),
    "stability_threshold": (0.0, 1.0, "SAM takes 0.95; 0 keeps all masks"),
    "stability_offset": (0.0, 100.0, "it shifts logits; SAM takes 1.0"),
    "box_nms_threshold": (0.0, 1.0, "SAM takes 0.7; 1 drops no duplicates"),
    "crop_nms_threshold": (0.0, 1.0, "SAM takes 0.7; 1 drops no duplicates"),
    "crop_overlap_ratio": (0.0, 0.9, "it is a fraction of the shorter side; SAM takes 512/1500"),
}


@dataclass(frozen=True, slots=True)
class GridSettings:
    """The prompts of `segment_everything` and the masks it keeps; the defaults are SAM's.

    Source: Kirillov et al., 2023, arXiv:2304.02643, appendix B. The numbers come from the reference
    implementation.

    Attributes:
        points_per_side: Points along each side of the grid, 1 to 1024.
        points_per_batch: Points decoded at once; larger batches are faster but take more memory.
        iou_threshold: Keep masks with a greater predicted IoU; 0 keeps all.
        stability_threshold: Keep masks with at least this stability; 0 keeps all.
        stability_offset: Shift of the threshold on logits, up and down, that measures the stability.
        box_nms_threshold: If the boxes of two masks of one crop have a greater IoU, one mask is dropped.
        crop_layers: Layers of crops to segment besides the image; layer i has 2^i by 2^i crops.
        crop_nms_threshold: Like `box_nms_threshold`, between masks of different crops.
        crop_overlap_ratio: Overlap of the first layer's crops, as a fraction of the image's shorter side;
            halved from layer to layer.
        crop_points_downscale: `points_per_side` is divided by this to the power of the layer.
        min_region_area: Remove holes and islands with fewer pixels from masks; 0 removes none.

    Raises:
        InputError: A value is out of range.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    stability_offset: float = 1.0
    box_nms_threshold: float = 0.7
    crop_layers: int = 0
    crop_nms_threshold: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_points_downscale: int = 1
    min_region_area: int = 0

    def __post_init__(self) -> None:
        for name, (low, high, hint) in _WHOLE.items():
            _check(name, getattr(self, name), (int, np.integer), low, high, hint)
        for name, (least, most, hint) in _REAL.items():
            _check(name, getattr(self, name), (int, float, np.integer, np.floating), least, most, hint)

    def points_in_layer(self, layer: int) -> int:
        """Return the number of points along each side of a crop in a layer; the image is layer 0."""
        return max(1, int(self.points_per_side // self.crop_points_downscale**layer))


def usual_settings(model: str, **others: float) -> GridSettings:
    """Return a model's default settings: SAM's numbers, or other thresholds for a small model.

    Args:
        model: Name of the model.
        others: Settings that override the defaults.

    >>> usual_settings("l0").iou_threshold, usual_settings("nano-outlier", points_per_side=16).iou_threshold
    (0.88, 0.5)
    """
    variant = VARIANTS.get(model)
    usual = (
        {} if variant is None else {name: getattr(variant, name) for name in ("iou_threshold", "stability_threshold")}
    )
    return GridSettings(**{**usual, **others})


def _check(name: str, value: object, types: tuple[type, ...], low: float, high: float, hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:  # type: ignore[operator]
        rule = "a number" if float in types else "a whole number"
        raise InputError(f"{name} must be {rule} from {low:g} to {high:,g}, got {reprlib.repr(value)}: {hint}")


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """Return (points_per_side^2, 2) x y in the unit square, row by row: the centres of equal cells.

    >>> point_grid(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def crop_boxes(image_hw: tuple[int, int], layers: int, overlap_ratio: float) -> list[tuple[Box, int]]:
    """Return the image and its crops, each with its layer, layer by layer.

    Args:
        image_hw: Height and width of the image in pixels.
        layers: Number of layers besides the image; layer i has 2^i by 2^i crops, column by column. An
            image too small for that many has fewer.
        overlap_ratio: Overlap in layer 1, as a fraction of the shorter side; layer i has 2 / 2^i of it.

    >>> crop_boxes((100, 200), layers=1, overlap_ratio=0.2)[:3]
    [((0, 0, 200, 100), 0), ((0, 0, 110, 60), 1), ((0, 40, 110, 100), 1)]
    """
    height, width = image_hw
    found: dict[Box, int] = {(0, 0, width, height): 0}
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(image_hw) * (2 / count))
        columns, rows = _intervals(width, count, overlap), _intervals(height, count, overlap)
        for (x0, x1), (y0, y1) in itertools.product(columns, rows):
            found.setdefault((x0, y0, x1, y1), layer)
    return list(found.items())


def _intervals(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """Return at most `count` overlapping intervals that cover [0, length); only the last may be shorter."""
    size = math.ceil((length + overlap * (count - 1)) / count)
    starts = range(0, count * (size - overlap), size - overlap)
    return [(start, min(start + size, length)) for start in starts if start < length]
