"""Non-maximum suppression: among boxes that overlap, keep the one with the highest score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantsam.errors import InputError


def nms(boxes_xyxy: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.intp]:
    """Go through boxes by descending score and drop each that overlaps one already kept.

    Boxes with equal scores keep their order. Memory holds one row of the boxes' IoU matrix at a time,
    never the whole matrix.

    Args:
        boxes_xyxy: (N, 4) x0 y0 x1 y1, right and bottom exclusive: the area is (x1 - x0) (y1 - y0).
            Boxes without area overlap nothing. (SAM uses the last pixel as x1, so its boxes are one
            pixel narrower and lower, and its IoU of small boxes differs a little.)
        scores: (N,) numbers.
        iou_threshold: A box is dropped when its IoU with a kept one is greater than this.

    Returns:
        (K,) indices of the kept boxes, by descending score.

    Raises:
        InputError: The shapes do not match, or a number is NaN or infinite.

    >>> nms([[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10]], [0.7, 0.9, 0.8], iou_threshold=0.5).tolist()
    [1, 2]
    """
    boxes, values = _numbers(boxes_xyxy), _numbers(scores)
    if not boxes.size:  # an empty list has no second dimension
        boxes = boxes.reshape(-1, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or values.shape != boxes.shape[:1]:
        raise InputError(
            f"nms needs boxes (N, 4) with scores (N,), got {boxes.shape} and {values.shape}: "
            "give x0 y0 x1 y1 and one score for each box"
        )
    rest = np.argsort(-values, kind="stable")
    kept: list[np.intp] = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        rest = rest[_iou_with(boxes[best], boxes[rest]) <= iou_threshold]
    return np.array(kept, np.intp)


def _numbers(values: Any) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise InputError("boxes and scores for nms must be finite, got NaN or infinity: leave those boxes out")
    return array


def _iou_with(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU (N,) of a box (4,) with others (N, 4); 0 if both have no area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])  # (N, 2)
    intersection = np.clip(sides, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - intersection
    iou: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
