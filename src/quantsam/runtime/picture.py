"""Segment one picture by prompts that a person gives, whoever computes, and compare two answers. Without PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantsam.data.coco_masks import encode_mask
from quantsam.data.dataset import BoolMask, UInt8Image
from quantsam.errors import InputError
from quantsam.metrics.iou import mask_iou
from quantsam.prediction.everything import FoundMask
from quantsam.prediction.grid import Box, GridSettings
from quantsam.prediction.regions import tight_box
from quantsam.prediction.tally import Tally
from quantsam.progress import Progress

BoxXyxy = tuple[float, float, float, float]
Float32 = NDArray[np.float32]


class Segmenter(Protocol):
    """What answers prompts on a picture: a bundle, or the full model."""

    def set_image(self, image: UInt8Image) -> None:
        """Encode a picture (H, W, 3)."""
        ...

    def best_masks(
        self, *, points: Float32 | None = None, labels: Float32 | None = None, boxes: Float32 | None = None
    ) -> tuple[NDArray[np.bool_], Float32]:
        """Return the best mask of each prompt, (B, H, W), and its predicted IoU (B,)."""
        ...

    def segment_everything(
        self, image: UInt8Image, settings: GridSettings | None, progress: Progress | None, tally: Tally | None = None
    ) -> list[FoundMask]:
        """Find the masks of a picture without a prompt."""
        ...


@dataclass(frozen=True, slots=True)
class PicturePrompts:
    """What to segment in a picture; coordinates in its pixels.

    Points together are one prompt, and with one box beside them they refine that box. Boxes alone are a prompt each.
    Without any, everything is segmented.

    Attributes:
        boxes_xyxy: Left, top, right, bottom.
        points_xy: Points.
        labels: For each point 1, on the object, or 0, off it.
    """

    boxes_xyxy: tuple[BoxXyxy, ...] = ()
    points_xy: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether there is no prompt."""
        return not self.boxes_xyxy and not self.points_xy

    def check(self, image_hw: tuple[int, int]) -> None:
        """Make sure that the prompts mean something on a picture of this height and width.

        Raises:
            InputError: A point or box lies outside the picture, a box has no area, coordinates are shares of the
                picture's sides, there are points and several boxes, or no point lies on the object.
        """
        height, width = image_hw
        size = f"the picture, {width} x {height} pixels"
        for x, y in self.points_xy:
            _check_pixels("a point", (x, y), image_hw)
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"a point must lie in {size}, got {x:g},{y:g}: x counts from the left, y from the top")
        for box in self.boxes_xyxy:
            left, top, right, bottom = box
            _check_pixels("a box", box, image_hw)
            shown = ",".join(f"{value:g}" for value in box)
            if not (left < right and top < bottom):
                raise InputError(f"a box must have left < right and top < bottom, got {shown}: give x0,y0,x1,y1")
            if not (left < width and top < height and right > 0 and bottom > 0):
                raise InputError(f"a box must overlap {size}, got {shown}: give x0,y0,x1,y1 in its pixels")
        if self.points_xy and len(self.boxes_xyxy) > 1:
            raise InputError(
                f"points may go with one box, got {len(self.boxes_xyxy)} boxes: give the boxes in a call of their own"
            )
        if self.points_xy and not self.boxes_xyxy and 1 not in self.labels:
            raise InputError("at least one point must lie on the object, got only label 0: add a point with label 1")

    def within(self, image_hw: tuple[int, int]) -> PicturePrompts:
        """Return the prompts with boxes cut to a picture of this height and width; `check` them first.

        A box that reaches beyond the picture is unlike all that the model was trained on: its masks are often empty.
        """
        height, width = image_hw
        boxes = tuple(
            (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
            for left, top, right, bottom in self.boxes_xyxy
        )
        return dataclasses.replace(self, boxes_xyxy=boxes)


def _check_pixels(name: str, values: tuple[float, ...], image_hw: tuple[int, int]) -> None:
    """Refuse coordinates that are shares of the picture's sides, as some tools and models give them."""
    height, width = image_hw
    is_share = all(0 <= value <= 1 for value in values) and any(value != int(value) for value in values)
    if is_share and min(height, width) > 2:
        sides = (width, height) * (len(values) // 2)
        pixels = ",".join(f"{value * side:g}" for value, side in zip(values, sides, strict=True))
        shown = ",".join(f"{value:g}" for value in values)
        raise InputError(
            f"{name} must be in pixels of the picture, {width} x {height}, got {shown}: if these are shares of its "
            f"sides, give {pixels}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class PictureMask:
    """One mask of a picture.

    Attributes:
        mask: (H, W) bool.
        area: Pixels of the mask.
        box_xyxy: The tight box around it, right and bottom exclusive; all 0 where the mask is empty.
        predicted_iou: The model's own estimate.
        asked: What the mask was asked for, in JSON values.
        found: The same mask where everything was segmented.
    """

    mask: BoolMask
    area: int
    box_xyxy: Box
    predicted_iou: float
    asked: Mapping[str, Any] = field(default_factory=dict)
    found: FoundMask | None = None

    def to_json_dict(self) -> dict[str, Any]:
        """Return `segmentation` (a compressed RLE), `area`, `bbox` (x y width height), `predicted_iou`, and `asked`.

        Compressing the mask of a large picture takes a fifth of a second.
        """
        if self.found is not None:
            return self.found.to_json_dict()
        left, top, right, bottom = self.box_xyxy
        return {
            "segmentation": encode_mask(self.mask),
            "area": self.area,
            "bbox": [left, top, right - left, bottom - top],
            "predicted_iou": self.predicted_iou,
            **self.asked,
        }


def segment_picture(
    segmenter: Segmenter,
    image: UInt8Image,
    prompts: PicturePrompts,
    *,
    grid: GridSettings | None = None,
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> list[PictureMask]:
    """Segment a picture: for each prompt the mask of highest predicted IoU, or everything.

    Args:
        segmenter: What answers.
        image: (H, W, 3) uint8 RGB.
        prompts: What to segment.
        grid: How everything is looked for, where there is no prompt; as is usual for the model if None.
        progress: Wraps the work on everything.
        tally: Counts what is left out of everything.

    Raises:
        InputError: The prompts do not fit the picture.
    """
    image_hw = (image.shape[0], image.shape[1])
    prompts.check(image_hw)
    prompts = prompts.within(image_hw)
    if prompts.everything:
        found = segmenter.segment_everything(image, grid, progress, tally)
        return [PictureMask(m.mask(), m.area, m.box_xyxy, m.predicted_iou, found=m) for m in found]
    segmenter.set_image(image)
    boxes = np.asarray(prompts.boxes_xyxy, np.float32) if prompts.boxes_xyxy else None
    if not prompts.points_xy:
        masks, iou = segmenter.best_masks(boxes=boxes)
        asked = [{"box_xyxy": list(box)} for box in prompts.boxes_xyxy]
        return [_answered(*answer) for answer in zip(masks, iou.tolist(), asked, strict=True)]
    masks, iou = segmenter.best_masks(
        points=np.asarray([prompts.points_xy], np.float32), labels=np.asarray([prompts.labels], np.float32), boxes=boxes
    )
    told: dict[str, Any] = {"points_xy": [list(xy) for xy in prompts.points_xy], "labels": list(prompts.labels)}
    if prompts.boxes_xyxy:
        told["box_xyxy"] = list(prompts.boxes_xyxy[0])
    return [_answered(masks[0], float(iou[0]), told)]


def agreements(
    reference: Sequence[PictureMask], other: Sequence[PictureMask], paired: bool, progress: Progress | None = None
) -> list[float]:
    """Return for each mask of the reference its IoU with the other's: its own, or where unpaired the best one.

    Two empty masks agree, unlike in `mask_iou`, which scores answers.

    Args:
        reference: Masks of one picture.
        other: Masks of the same picture.
        paired: Whether they answer the same prompts, in order.
        progress: Wraps the iteration over the reference, given its length: unpaired, each of its masks is
            compared with all of the other's.
    """
    candidates_of = [[mask] for mask in other] if paired else [other] * len(reference)
    compared: Iterable[tuple[PictureMask, Sequence[PictureMask]]] = zip(reference, candidates_of, strict=True)
    if progress is not None:
        compared = progress(compared, len(reference))
    return [max((_agreement(mask, each) for each in candidates), default=0.0) for mask, candidates in compared]


def _agreement(a: PictureMask, b: PictureMask) -> float:
    if not a.area and not b.area:
        return 1.0
    (left, top, right, bottom), (x0, y0, x1, y1) = a.box_xyxy, b.box_xyxy
    if left >= x1 or x0 >= right or top >= y1 or y0 >= bottom:
        return 0.0
    both = np.s_[min(top, y0) : max(bottom, y1), min(left, x0) : max(right, x1)]  # no pixel of either lies outside
    return mask_iou(a.mask[both], b.mask[both])


def _answered(mask: BoolMask, predicted_iou: float, asked: Mapping[str, Any]) -> PictureMask:
    area = int(np.count_nonzero(mask))
    return PictureMask(mask, area, tight_box(mask) if area else (0, 0, 0, 0), predicted_iou, asked)
