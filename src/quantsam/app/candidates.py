"""The masks of a prompt: SAM gives three, and a user may look at each. Masks are packed to save memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantsam.data.dataset import BoolMask

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One mask.

    Attributes:
        bits: (ceil(H * W / 8),) uint8, eight pixels each, row by row.
        image_hw: Height and width in pixels.
        area: Area of the mask in pixels.
        predicted_iou: The model's own estimate of the IoU.
    """

    bits: NDArray[np.uint8]
    image_hw: tuple[int, int]
    area: int
    predicted_iou: float

    def mask(self) -> BoolMask:
        """Return the mask, bool, (H, W)."""
        height, width = self.image_hw
        pixels = np.unpackbits(self.bits, count=height * width)
        return pixels.view(np.bool_).reshape(height, width)

    def iou(self, other: Candidate) -> float:
        """Return the IoU with another mask of the same size; it is 1 for two empty masks."""
        both = int(_ONES[self.bits & other.bits].sum(dtype=np.int64))
        either = self.area + other.area - both
        return both / either if either else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class ObjectMasks:
    """The masks of one prompt.

    Attributes:
        candidates: Masks at the view's resolution, in the order of the model's outputs.
        best: Number of the mask with the highest predicted IoU.
        full: The best mask at the image's resolution.
    """

    candidates: tuple[Candidate, ...]
    best: int
    full: Candidate


def packed(mask: BoolMask, predicted_iou: float) -> Candidate:
    """Return a mask (H, W) as a candidate.

    >>> packed(np.eye(3, dtype=bool), 0.9).mask().astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    hw = mask.shape[0], mask.shape[1]
    return Candidate(np.packbits(mask), hw, int(np.count_nonzero(mask)), predicted_iou)


def iou_table(reference: ObjectMasks, other: ObjectMasks) -> list[list[float]]:
    """Return the IoU of each mask of the reference (rows) with each mask of the other (columns).

    The best masks are compared at the image's resolution, the others at the view's. For a large image, that takes a
    fraction of the time.
    """
    table = [[mine.iou(theirs) for theirs in other.candidates] for mine in reference.candidates]
    table[reference.best][other.best] = reference.full.iou(other.full)
    return table
