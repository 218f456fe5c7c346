"""Intersection over union of two masks, and the trivial mask that a model must beat."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quantsam.errors import InputError


def mask_iou(prediction: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks.

    Two empty masks score 0.0, as in EfficientViT's own evaluation (which divides by the union plus 1e-7). An object
    whose polygon covers no pixel therefore never raises a mean.

    Args:
        prediction: Bool, (height, width).
        target: Bool, same shape as `prediction`.

    Returns:
        A value in 0..1.

    Raises:
        InputError: A mask is not bool, not two-dimensional, or the shapes differ.

    >>> left, right = np.zeros((1, 4), dtype=bool), np.zeros((1, 4), dtype=bool)
    >>> left[:, :3], right[:, 1:] = True, True
    >>> mask_iou(left, right)  # 2 pixels in common, 4 in either
    0.5
    """
    for name, mask in (("prediction", prediction), ("target", target)):
        if mask.dtype != np.bool_ or mask.ndim != 2:
            raise InputError(f"{name} must be a bool mask (height, width), got {mask.dtype} {mask.shape}")
    if prediction.shape != target.shape:
        raise InputError(f"prediction and target must have one shape, got {prediction.shape} and {target.shape}")
    intersection = np.count_nonzero(prediction & target)
    union = np.count_nonzero(prediction) + np.count_nonzero(target) - intersection
    return float(intersection / union) if union else 0.0


def box_mask(box_xyxy: tuple[float, float, float, float], image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the filled box as a mask: the baseline that answers a box prompt with the box itself.

    A pixel belongs to the box when its centre does, `left <= x + 0.5 < right`, so boxes that share an edge share no
    pixel. The part outside the image is cut off.

    Args:
        box_xyxy: Left, top, right, bottom in pixels of the image.
        image_hw: Height and width of the image in pixels.

    Returns:
        Bool, (height, width); empty if right <= left or bottom <= top.

    Raises:
        InputError: A coordinate is not finite.

    >>> box_mask((0.6, 0.0, 2.5, 1.0), (1, 4)).tolist()
    [[False, True, False, False]]
    """
    if not all(math.isfinite(edge) for edge in box_xyxy):
        raise InputError(f"box_xyxy must be four finite numbers, got {tuple(box_xyxy)}")
    # The first pixel whose centre is at or after an edge, for each of the four edges.
    left, top, right, bottom = (max(0, math.ceil(edge - 0.5)) for edge in box_xyxy)
    mask = np.zeros(image_hw, dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask
