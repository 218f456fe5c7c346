"""Prompts made from the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from quantsam.data.dataset import Annotation, BoolMask
from quantsam.errors import InputError, nearest


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """Prompts for some objects of one picture, in its pixels.

    Attributes:
        boxes: (B, 4) float32 x0 y0 x1 y1, or None.
        points: (B, N, 2) float32 x y, or None.
        labels: (B, N) int64, or None.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None


def central_pixel(mask: BoolMask) -> tuple[int, int]:
    """Return x and y of the pixel deepest inside a mask, the first one in reading order among equals.

    Depth is the exact Euclidean distance to the nearest pixel outside; beyond the picture is outside.
    A mask without pixels gives (0, 0): it scores 0 whatever is answered.
    """
    depth: NDArray[np.float64] = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(x), int(y)


def _boxes(annotations: Sequence[Annotation], masks: Sequence[BoolMask]) -> PromptBatch:
    return PromptBatch(boxes=torch.tensor([a.box_xyxy for a in annotations], dtype=torch.float32))


def _click(annotations: Sequence[Annotation], masks: Sequence[BoolMask]) -> PromptBatch:
    points = torch.tensor([[central_pixel(mask)] for mask in masks], dtype=torch.float32)
    return PromptBatch(points=points, labels=torch.ones(len(masks), 1, dtype=torch.int64))


PROMPTS: dict[str, Callable[[Sequence[Annotation], Sequence[BoolMask]], PromptBatch]] = {
    "box": _boxes,  # the annotated box
    "click": _click,  # one positive click at the object's centre
}


def check_prompt(name: str) -> None:
    """Make sure that a kind of prompt exists.

    Raises:
        InputError: It does not.
    """
    if name not in PROMPTS:
        raise InputError(f"prompts must be one of {', '.join(PROMPTS)}, got {name!r}: {nearest(name, PROMPTS)}")
