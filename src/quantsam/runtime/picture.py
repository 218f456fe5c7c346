"""Segment one image with a user's prompts on any backend, and compare two answers. Needs no PyTorch."""

from __future__ import annotations

import dataclasses
import itertools
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

_SAME_OBJECT = 0.5  # IoU

BoxXyxy = tuple[float, float, float, float]
Float32 = NDArray[np.float32]


class Segmenter(Protocol):
    """An object that answers prompts on an image: a bundle, or the full model."""

    def set_image(self, image: UInt8Image) -> None:
        """Encode an image (H, W, 3)."""
        ...

    def best_masks(
        self, *, points: Float32 | None = None, labels: Float32 | None = None, boxes: Float32 | None = None
    ) -> tuple[NDArray[np.bool_], Float32]:
        """Return the best mask of each prompt, (B, H, W), and its predicted IoU (B,)."""
        ...

    def segment_everything(
        self, image: UInt8Image, settings: GridSettings | None, progress: Progress | None, tally: Tally | None = None
    ) -> list[FoundMask]:
        """Find the masks of an image without a prompt."""
        ...


@dataclass(frozen=True, slots=True)
class PicturePrompts:
    """The prompts for an image; coordinates are in the image's pixels.

    All points together are one prompt; with one box, they refine that box. Without points, each box is a prompt.
    Without any prompt, everything is segmented.

    Attributes:
        boxes_xyxy: Left, top, right, bottom.
        points_xy: Points, x y.
        labels: Label of each point: 1 on the object, 0 off it.
    """

    boxes_xyxy: tuple[BoxXyxy, ...] = ()
    points_xy: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether there is no prompt."""
        return not self.boxes_xyxy and not self.points_xy

    def check(self, image_hw: tuple[int, int]) -> None:
        """Make sure that the prompts are valid on an image of this height and width.

        Raises:
            InputError: A point or box lies outside the image, a box has no area, coordinates are fractions of the
                image's sides, points are combined with several boxes, or no point lies on the object.
        """
        height, width = image_hw
        size = f"the image, {width} x {height} pixels"
        for x, y in self.points_xy:
            _check_pixels("a point", (x, y), image_hw)
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"a point must lie in {size}, got {x:g},{y:g}: x counts from the left, y from the top")
        for box in self.boxes_xyxy:
            left, top, right, bottom = box
            _check_pixels("a box", box, image_hw)
            shown = ",".join(f"{value:g}" for value in box)
            if not (left < right and top < bottom):
                rule = f"a box must have left < right and top < bottom, got {shown}: give x0,y0,x1,y1"
                corners = f"{left:g},{top:g},{left + right:g},{top + bottom:g}"
                is_size = right > 0 and bottom > 0
                raise InputError(rule + (f"; if the last two are width and height, give {corners}" if is_size else ""))
            if not (left < width and top < height and right > 0 and bottom > 0):
                raise InputError(f"a box must overlap {size}, got {shown}: give x0,y0,x1,y1 in its pixels")
        if self.points_xy and len(self.boxes_xyxy) > 1:
            raise InputError(
                f"points may go with one box, got {len(self.boxes_xyxy)} boxes: give the boxes in a call of their own"
            )
        if self.points_xy and not self.boxes_xyxy and 1 not in self.labels:
            raise InputError("at least one point must lie on the object, got only label 0: add a point with label 1")

    def within(self, image_hw: tuple[int, int]) -> PicturePrompts:
        """Return the prompts with boxes clipped to an image of this height and width; call `check` first.

        A box that reaches beyond the image is unlike the training data: its masks are often empty.
        """
        height, width = image_hw
        boxes = tuple(
            (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
            for left, top, right, bottom in self.boxes_xyxy
        )
        return dataclasses.replace(self, boxes_xyxy=boxes)


def _check_pixels(name: str, values: tuple[float, ...], image_hw: tuple[int, int]) -> None:
    """Refuse coordinates that are fractions of the image's sides, as some tools and models give."""
    height, width = image_hw
    is_share = all(0 <= value <= 1 for value in values) and any(value != int(value) for value in values)
    if is_share and min(height, width) > 2:
        sides = (width, height) * (len(values) // 2)
        pixels = ",".join(f"{value * side:g}" for value, side in zip(values, sides, strict=True))
        shown = ",".join(f"{value:g}" for value in values)
        raise InputError(
            f"{name} must be in pixels of the image, {width} x {height}, got {shown}: if these are shares of its "
            f"sides, give {pixels}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class PictureMask:
    """One mask of an image.

    Attributes:
        mask: (H, W) bool.
        area: Number of pixels in the mask.
        box_xyxy: The tight box around the mask, right and bottom exclusive; all 0 if the mask is empty.
        predicted_iou: The model's own estimate of the IoU.
        asked: The prompt of the mask, in JSON values.
        found: The same mask as found when segmenting everything; else None.
    """

    mask: BoolMask
    area: int
    box_xyxy: Box
    predicted_iou: float
    asked: Mapping[str, Any] = field(default_factory=dict)
    found: FoundMask | None = None

    def to_json_dict(self) -> dict[str, Any]:
        """Return `segmentation` (a compressed RLE), `area`, `bbox` (x y width height), `predicted_iou`, and `asked`.

        Compressing the mask of a large image takes 0.2 s.
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
    """Segment an image: return the mask with the highest predicted IoU per prompt, or the masks of everything.

    Args:
        segmenter: The model or bundle that answers the prompts.
        image: (H, W, 3) uint8 RGB.
        prompts: The prompts; none for everything.
        grid: How to search for everything if there is no prompt; the model's usual settings if None.
        progress: Wraps the iteration when segmenting everything.
        tally: Counts the masks that are left out when segmenting everything.

    Raises:
        InputError: The prompts do not fit the image.
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
    """Return each reference mask's IoU with its pair in `other`, or with the best match if unpaired.

    Two empty masks agree here, unlike in `mask_iou`, which scores answers.

    Args:
        reference: Masks of one image.
        other: Masks of the same image.
        paired: Whether both answer the same prompts, in the same order.
        progress: Wraps the iteration over the reference, and receives its length. If unpaired, each reference mask is
            compared with all other masks.
    """
    candidates_of = [[mask] for mask in other] if paired else [other] * len(reference)
    compared: Iterable[tuple[PictureMask, Sequence[PictureMask]]] = zip(reference, candidates_of, strict=True)
    if progress is not None:
        compared = progress(compared, len(reference))
    return [max((_agreement(mask, each) for each in candidates), default=0.0) for mask, candidates in compared]


def matches(reference: Sequence[PictureMask], other: Sequence[PictureMask]) -> list[int]:
    """Return the number of the same object's mask in `reference` for each mask of `other`, or else a number of its own.

    Pairs are formed from the highest IoU on, down to 0.5; numbers of masks without a pair follow those of `reference`.

    Args:
        reference: Masks of one image.
        other: Masks of the same image.
    """
    ious = np.array([[_agreement(a, b) for a in reference] for b in other]).reshape(len(other), len(reference))
    found: dict[int, int] = {}
    while ious.size and ious.max() >= _SAME_OBJECT:
        mine, theirs = map(int, np.unravel_index(ious.argmax(), ious.shape))
        found[mine] = theirs
        ious[mine], ious[:, theirs] = 0, 0
    own = itertools.count(len(reference))
    return [found[number] if number in found else next(own) for number in range(len(other))]


def _agreement(a: PictureMask, b: PictureMask) -> float:
    if not a.area and not b.area:
        return 1.0
    (left, top, right, bottom), (x0, y0, x1, y1) = a.box_xyxy, b.box_xyxy
    if left >= x1 or x0 >= right or top >= y1 or y0 >= bottom:
        return 0.0
    both = np.s_[min(top, y0) : max(bottom, y1), min(left, x0) : max(right, x1)]  # no pixel of either mask lies outside
    return mask_iou(a.mask[both], b.mask[both])


def _answered(mask: BoolMask, predicted_iou: float, asked: Mapping[str, Any]) -> PictureMask:
    area = int(np.count_nonzero(mask))
    return PictureMask(mask, area, tight_box(mask) if area else (0, 0, 0, 0), predicted_iou, asked)
