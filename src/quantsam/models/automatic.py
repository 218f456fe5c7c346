"""Segment everything: ask for a mask at every point of a grid and keep the good ones, each once.

Source: Segment Anything (Kirillov et al., 2023, arXiv:2304.02643), appendix B.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsam.data.coco_masks import Rle, decode_mask, encode_mask
from quantsam.data.dataset import BoolMask, UInt8Image
from quantsam.data.images import check_image_array
from quantsam.models.grid import Box, GridSettings, crop_boxes, point_grid
from quantsam.models.image_decoder import ImageDecoder
from quantsam.models.nms import nms
from quantsam.models.predictor import MASK_THRESHOLD
from quantsam.models.regions import remove_small_regions, tight_box
from quantsam.models.sam import EfficientViTSam
from quantsam.models.transforms import MaskResize, mask_resize, preprocess, scale_coordinates

__all__ = ["FoundMask", "GridSettings", "Progress", "Rle", "segment_everything"]

Progress = Callable[[Iterable[Any], int | None], Iterable[Any]]

EDGE_TOLERANCE_PX = 20
_LOGITS_AT_ONCE = 2**24  # up-sampled at a time: 64 MiB in float32, whatever points_per_batch; at least one mask


@dataclass(frozen=True, slots=True, eq=False)
class FoundMask:
    """One mask of `segment_everything`; everything is in pixels of the picture.

    Attributes:
        rle: The mask, compressed.
        area: Pixels of the mask, at least 1.
        box_xyxy: The tight box around it, right and bottom exclusive.
        predicted_iou: The model's own estimate of the mask's quality.
        stability: Pixels of the mask with the threshold on its logits raised, over those with it lowered.
        point_xy: The point that was asked for.
        crop_box_xyxy: The crop in which it was asked, right and bottom exclusive.
    """

    rle: Rle
    area: int
    box_xyxy: Box
    predicted_iou: float
    stability: float
    point_xy: tuple[float, float]
    crop_box_xyxy: Box

    def mask(self) -> BoolMask:
        """Return the mask, bool, (H, W) of the picture."""
        height, width = self.rle["size"]
        return decode_mask(self.rle, (height, width), "the found mask")

    def to_json_dict(self) -> dict[str, Any]:
        """Return the mask in the form of the SA-1B dataset and of SAM's own generator.

        Boxes are x, y, width, height. Width and height count all of the mask's pixels, as COCO's do;
        SAM's generator writes one less, because it takes the last pixel for the box's edge.
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


DEFAULT_SETTINGS = GridSettings()


def segment_everything(
    model: EfficientViTSam,
    image: UInt8Image,
    settings: GridSettings = DEFAULT_SETTINGS,
    progress: Progress | None = None,
) -> list[FoundMask]:
    """Find the masks of a picture without a prompt.

    Every point of a grid over the picture, and over each of its crops where these are asked for, gives
    three masks. Dropped are those of low predicted IoU, those that change with the threshold on their
    logits, those that a crop's border cuts, empty ones, and duplicates. Equal inputs on one machine
    give equal results.

    Args:
        model: A model in eval mode; any encoder will do.
        image: (H, W, 3) uint8 RGB.
        settings: The grid and the thresholds.
        progress: Wraps the iteration over batches of points, given their number.

    Returns:
        The masks by descending predicted IoU, equal ones in the order of their points; perhaps none.

    Raises:
        InputError: The image is not such an array.
    """
    check_image_array(image)
    image_hw = (image.shape[0], image.shape[1])
    crops = crop_boxes(image_hw, settings.crop_layers, settings.crop_overlap_ratio)
    counts = [math.ceil(settings.points_in_layer(layer) ** 2 / settings.points_per_batch) for _, layer in crops]
    batches: Iterable[tuple[Box, NDArray[np.float64]]] = _batches(crops, settings)
    if progress is not None:
        batches = progress(batches, sum(counts))
    found: list[FoundMask] = []
    for crop, group in itertools.groupby(batches, key=lambda batch: batch[0]):
        view = _View(model.prepare(_encode(model, image, crop)), model.variant.prompt_size, crop, image_hw)
        in_crop = [mask for _, points in group for mask in _segment_points(view, points, settings)]
        found += _unique(in_crop, [mask.predicted_iou for mask in in_crop], settings.box_nms_threshold)
    if len(crops) > 1:  # masks of small crops are the finer ones
        found = _unique(found, [-_box_area(mask.crop_box_xyxy) for mask in found], settings.crop_nms_threshold)
    found.sort(key=lambda mask: -mask.predicted_iou)
    return _without_small_regions(found, settings)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A crop as the mask decoder sees it."""

    decoder: ImageDecoder
    prompt_size: int
    crop: Box
    image_hw: tuple[int, int]

    @property
    def crop_hw(self) -> tuple[int, int]:
        x0, y0, x1, y1 = self.crop
        return y1 - y0, x1 - x0

    @property
    def resize(self) -> MaskResize:
        """How its masks come to its resolution."""
        return mask_resize(self.crop_hw, self.decoder.low_size, self.prompt_size)


def _batches(crops: list[tuple[Box, int]], settings: GridSettings) -> Iterator[tuple[Box, NDArray[np.float64]]]:
    """Yield each crop with a batch of points (B, 2), x y in pixels of that crop."""
    for crop, layer in crops:
        x0, y0, x1, y1 = crop
        points = point_grid(settings.points_in_layer(layer)) * (x1 - x0, y1 - y0)
        for start in range(0, len(points), settings.points_per_batch):
            yield crop, points[start : start + settings.points_per_batch]


@torch.inference_mode()
def _encode(model: EfficientViTSam, image: UInt8Image, crop: Box) -> Tensor:
    x0, y0, x1, y1 = crop
    x = preprocess(image[y0:y1, x0:x1], model.variant.input_size)
    return model.image_encoder(x.to(next(model.mask_decoder.parameters()).device))


@torch.inference_mode()
def _segment_points(view: _View, points: NDArray[np.float64], settings: GridSettings) -> list[FoundMask]:
    """Return the masks of a batch of points (B, 2) that pass every filter but that of duplicates, in order."""
    low_res, predicted_iou = _decode(view, points)
    # Up-sampling is what takes time: masks that cannot pass are dropped before it. It mixes neighbours
    # with weights >= 0, so a mask that is empty before it is so after it.
    lowest = settings.iou_threshold or -math.inf
    candidates = (predicted_iou > lowest) & (low_res.amax((1, 2)) > MASK_THRESHOLD)
    indices = candidates.nonzero()[:, 0]
    at_once = max(1, _LOGITS_AT_ONCE // math.prod(view.crop_hw))
    found: list[FoundMask] = []
    for start in range(0, len(indices), at_once):
        chunk = indices[start : start + at_once]
        logits = view.resize(low_res[chunk])  # (K, H, W) of the crop
        stability = _stability(logits, settings.stability_offset)
        stable = stability >= settings.stability_threshold
        masks = (logits[stable] > MASK_THRESHOLD).cpu().numpy()
        for index, score, mask in zip(chunk[stable].tolist(), stability[stable].tolist(), masks, strict=True):
            x, y = points[index // (len(low_res) // len(points))].tolist()
            one = _found(view, mask, (x, y), float(predicted_iou[index]), score)
            if one is not None:
                found.append(one)
    return found


def _decode(view: _View, points: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Return the logits (3 B, h, w) and predicted IoU (3 B,) of points (B, 2), point by point."""
    xy = torch.as_tensor(points, dtype=torch.float32, device=view.decoder.device)[:, None]  # (B, 1, 2)
    xy = scale_coordinates(xy, view.crop_hw, view.prompt_size)
    labels = torch.ones(xy.shape[:2], dtype=torch.long, device=xy.device)
    low_res, predicted_iou = view.decoder.decode(points=(xy, labels), multimask=True, low_hw=view.resize.low_hw)
    return low_res.flatten(0, 1), predicted_iou.flatten()


def _stability(logits: Tensor, offset: float) -> Tensor:
    """Return (K,) the IoU of masks (K, H, W) with the threshold raised and lowered by `offset`; 0 if empty."""
    inner = (logits > MASK_THRESHOLD + offset).sum((1, 2), dtype=torch.int32)
    outer = (logits > MASK_THRESHOLD - offset).sum((1, 2), dtype=torch.int32)
    return inner.double() / outer.clamp(min=1)


def _found(
    view: _View, mask: BoolMask, point: tuple[float, float], predicted_iou: float, stability: float
) -> FoundMask | None:
    """Return a mask (H, W) of the crop in the picture; None if it is empty or the crop's border cuts it."""
    if not mask.any():
        return None
    x0, y0, x1, y1 = view.crop
    left, top, right, bottom = tight_box(mask)
    box = (left + x0, top + y0, right + x0, bottom + y0)
    if _is_cut(box, view.crop, view.image_hw):
        return None
    whole = np.zeros(view.image_hw, np.bool_, order="F")
    whole[y0:y1, x0:x1] = mask
    return FoundMask(
        rle=encode_mask(whole),
        area=int(np.count_nonzero(mask)),
        box_xyxy=box,
        predicted_iou=predicted_iou,
        stability=stability,
        point_xy=(point[0] + x0, point[1] + y0),
        crop_box_xyxy=view.crop,
    )


def _is_cut(box: Box, crop: Box, image_hw: tuple[int, int]) -> bool:
    """Return whether a box comes near an edge of its crop that is not near the picture's edge.

    Edges on the right and at the bottom are exclusive here. SAM compares the mask's last pixel with the
    crop's exclusive edge, so there its tolerance is one pixel less than on the left and at the top.
    """
    height, width = image_hw
    edges = zip(box, crop, (0, 0, width, height), strict=True)
    return any(abs(a - b) <= EDGE_TOLERANCE_PX < abs(a - c) for a, b, c in edges)


def _unique(found: list[FoundMask], scores: list[float] | list[int], threshold: float) -> list[FoundMask]:
    """Return the masks that NMS keeps, in the order given."""
    kept = nms([mask.box_xyxy for mask in found], scores, threshold)
    return [found[i] for i in sorted(kept.tolist())]


def _without_small_regions(found: list[FoundMask], settings: GridSettings) -> list[FoundMask]:
    """Return masks without small holes and islands; of those that became duplicates, the unchanged one.

    Predicted IoU and stability stay those of the mask before. `found` is by descending predicted IoU, and so is
    the result.
    """
    if not settings.min_region_area:
        return found
    cleaned = [_cleaned(mask, settings.min_region_area) for mask in found]
    unchanged = [int(new is old) for new, old in zip(cleaned, found, strict=True)]
    return _unique(cleaned, unchanged, max(settings.box_nms_threshold, settings.crop_nms_threshold))


def _cleaned(found: FoundMask, min_area: int) -> FoundMask:
    """Return `found` itself where nothing is to be removed."""
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
