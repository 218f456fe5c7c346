"""Segment everything with any decoder: a grid of points over an image and its crops, and the choice of masks.

This module does not import PyTorch. Source: Segment Anything (Kirillov et al., 2023, arXiv:2304.02643), appendix B.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantsam.data.coco_masks import Rle, decode_mask, encode_mask
from quantsam.data.dataset import BoolMask
from quantsam.prediction.grid import Box, GridSettings, crop_boxes, point_grid
from quantsam.prediction.nms import nms
from quantsam.prediction.regions import remove_small_regions, tight_box
from quantsam.prediction.tally import Tally
from quantsam.progress import Progress

EDGE_TOLERANCE_PX = 20


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask of a crop that passed the thresholds on quality and stability.

    Attributes:
        point: Number of the prompt point within its batch.
        predicted_iou: The model's own estimate of the mask's quality.
        stability: Stability of the mask, 0..1.
        mask: (h, w) bool, in the crop's pixels.
    """

    point: int
    predicted_iou: float
    stability: float
    mask: BoolMask


class CropDecoder(Protocol):
    """An encoded crop of an image that takes points as prompts."""

    def candidates(self, points: NDArray[np.float64], settings: GridSettings, tally: Tally) -> Iterable[Candidate]:
        """Yield the good masks at points (B, 2), x y in pixels of the crop: at most three per point, in order.

        `tally` counts the others.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FoundMask:
    """One mask of `segment_everything`. All coordinates are in pixels of the image.

    Attributes:
        rle: The mask, compressed.
        area: Pixels of the mask, at least 1.
        box_xyxy: The tight box around the mask, right and bottom exclusive.
        predicted_iou: The model's own estimate of the mask's quality.
        stability: Pixels of the mask with a raised threshold on its logits, over pixels with a lowered threshold.
        point_xy: The prompt point.
        crop_box_xyxy: The crop that contains the prompt, right and bottom exclusive.
    """

    rle: Rle
    area: int
    box_xyxy: Box
    predicted_iou: float
    stability: float
    point_xy: tuple[float, float]
    crop_box_xyxy: Box

    def mask(self) -> BoolMask:
        """Return the mask, bool, (H, W) of the image."""
        height, width = self.rle["size"]
        return decode_mask(self.rle, (height, width), "the found mask")

    def to_json_dict(self) -> dict[str, Any]:
        """Return the mask in the format of the SA-1B dataset and of SAM's own generator.

        Boxes are x, y, width, height. Width and height count all pixels of the mask, as in COCO.
        SAM's generator writes one less, because it uses the last pixel as the box's edge.
        """
        return {
            "segmentation": {"size": list(self.rle["size"]), "counts": self.rle["counts"]},
            "area": self.area,
            "bbox": _xywh(self.box_xyxy),
            "predicted_iou": self.predicted_iou,
            "point_coords": [list(self.point_xy)],
            "stability_score": self.stability,
            "crop_box": _xywh(self.crop_box_xyxy),
        }


def find_masks(
    image_hw: tuple[int, int],
    settings: GridSettings,
    open_crop: Callable[[Box], CropDecoder],
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> list[FoundMask]:
    """Find the masks of an image without a prompt; see `segment_everything`.

    Args:
        image_hw: Height and width of the image.
        settings: The grid and the thresholds.
        open_crop: Encodes a crop, given as x0 y0 x1 y1.
        progress: Wraps the iteration over batches of points, given their number.
        tally: Counts the dropped masks.
    """
    tally = Tally() if tally is None else tally
    crops = crop_boxes(image_hw, settings.crop_layers, settings.crop_overlap_ratio)
    counts = [math.ceil(settings.points_in_layer(layer) ** 2 / settings.points_per_batch) for _, layer in crops]
    batches: Iterable[tuple[Box, NDArray[np.float64]]] = _batches(crops, settings)
    if progress is not None:
        batches = progress(batches, sum(counts))
    found: list[FoundMask] = []
    for crop, group in itertools.groupby(batches, key=lambda batch: batch[0]):
        decoder = open_crop(crop)
        in_crop: list[FoundMask] = []
        for _, points in group:
            for candidate in decoder.candidates(points, settings, tally):  # one whole mask at a time is in memory
                if not candidate.mask.any():
                    tally.empty += 1
                elif (mask := _found(crop, image_hw, points, candidate)) is None:
                    tally.cut += 1
                else:
                    in_crop.append(mask)
        found += _unique(in_crop, [mask.predicted_iou for mask in in_crop], settings.box_nms_threshold)
        tally.repeated += len(in_crop)
    if len(crops) > 1:  # masks of small crops are finer
        found = _unique(found, [-_box_area(mask.crop_box_xyxy) for mask in found], settings.crop_nms_threshold)
    found.sort(key=lambda mask: -mask.predicted_iou)
    found = _without_small_regions(found, settings)
    tally.repeated -= len(found)
    return found


def _batches(crops: list[tuple[Box, int]], settings: GridSettings) -> Iterator[tuple[Box, NDArray[np.float64]]]:
    """Yield each crop with a batch of points (B, 2), x y in pixels of that crop."""
    for crop, layer in crops:
        x0, y0, x1, y1 = crop
        points = point_grid(settings.points_in_layer(layer)) * (x1 - x0, y1 - y0)
        for start in range(0, len(points), settings.points_per_batch):
            yield crop, points[start : start + settings.points_per_batch]


def _found(crop: Box, image_hw: tuple[int, int], points: NDArray[np.float64], candidate: Candidate) -> FoundMask | None:
    """Return a crop's mask, which must not be empty, in the image; None if the crop's border cuts it."""
    mask = candidate.mask
    x0, y0, x1, y1 = crop
    left, top, right, bottom = tight_box(mask)
    box = (left + x0, top + y0, right + x0, bottom + y0)
    if _is_cut(box, crop, image_hw):
        return None
    whole = np.zeros(image_hw, np.bool_, order="F")
    whole[y0:y1, x0:x1] = mask
    x, y = points[candidate.point].tolist()
    return FoundMask(
        rle=encode_mask(whole),
        area=int(np.count_nonzero(mask)),
        box_xyxy=box,
        predicted_iou=candidate.predicted_iou,
        stability=candidate.stability,
        point_xy=(x + x0, y + y0),
        crop_box_xyxy=crop,
    )


def _is_cut(box: Box, crop: Box, image_hw: tuple[int, int]) -> bool:
    """Return whether a box is near an edge of its crop, but not near the image's edge.

    Here, right and bottom edges are exclusive. SAM compares the mask's last pixel with the crop's
    exclusive edge, so SAM's tolerance on the right and at the bottom is one pixel smaller.
    """
    height, width = image_hw
    edges = zip(box, crop, (0, 0, width, height), strict=True)
    return any(abs(a - b) <= EDGE_TOLERANCE_PX < abs(a - c) for a, b, c in edges)


def _unique(found: list[FoundMask], scores: list[float] | list[int], threshold: float) -> list[FoundMask]:
    """Return the masks that NMS keeps, in the given order."""
    kept = nms([mask.box_xyxy for mask in found], scores, threshold)
    return [found[i] for i in sorted(kept.tolist())]


def _without_small_regions(found: list[FoundMask], settings: GridSettings) -> list[FoundMask]:
    """Return masks without small holes and islands. If masks became duplicates, keep the unchanged one.

    Predicted IoU and stability keep their values from before. `found` is sorted by descending predicted IoU, and so
    is the result.
    """
    if not settings.min_region_area:
        return found
    cleaned = [_cleaned(mask, settings.min_region_area) for mask in found]
    unchanged = [int(new is old) for new, old in zip(cleaned, found, strict=True)]
    return _unique(cleaned, unchanged, max(settings.box_nms_threshold, settings.crop_nms_threshold))


def _cleaned(found: FoundMask, min_area: int) -> FoundMask:
    """Remove small regions from a mask; return `found` itself if there are none."""
    before = found.mask()
    mask = remove_small_regions(before, min_area)
    if np.array_equal(mask, before):
        return found
    area = int(np.count_nonzero(mask))
    return dataclasses.replace(found, rle=encode_mask(mask), area=area, box_xyxy=tight_box(mask))


def _box_area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _xywh(box: Box) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
