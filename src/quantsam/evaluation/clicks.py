"""Simulated clicks: where a person who wants an object would click next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from quantsam.data.dataset import BoolMask


@dataclass(frozen=True, slots=True)
class Click:
    """A click on a pixel.

    Attributes:
        x: Column.
        y: Row.
        positive: Whether the click is on the object; else it is off the object.
    """

    x: int
    y: int
    positive: bool


def next_click(answer: BoolMask, truth: BoolMask, earlier: list[Click]) -> Click | None:
    """Return the click that corrects the deepest error, as usual in evaluating interactive segmentation.

    The click is the deepest pixel of the missed region (then it is positive) or of the surplus region (then it is
    negative), whichever is deeper. If both are equal, it is the negative one; then the first in reading order. Depth is
    the exact Euclidean distance to the nearest pixel outside the region; everything beyond the image is outside. A
    pixel is never clicked twice. (Sofiiuk et al., 2021, arXiv:2102.06583, section 4.)

    Args:
        answer: (H, W) bool, the mask so far.
        truth: (H, W) bool, the ground-truth mask.
        earlier: The clicks so far.

    Returns:
        The click; None if every wrong pixel was clicked before.

    >>> truth = np.zeros((5, 9), bool)
    >>> truth[:, 2:7] = True
    >>> next_click(np.zeros_like(truth), truth, [])
    Click(x=4, y=2, positive=True)
    """
    missed = _deepest(truth & ~answer, earlier)
    excess = _deepest(answer & ~truth, earlier)
    if missed[0] > excess[0]:
        return Click(missed[1], missed[2], positive=True)
    return Click(excess[1], excess[2], positive=False) if excess[0] > 0 else None


def _deepest(region: BoolMask, earlier: list[Click]) -> tuple[float, int, int]:
    """Return depth, x and y of a region's deepest unclicked pixel; depth 0 if there is none."""
    columns, rows = np.flatnonzero(region.any(axis=0)), np.flatnonzero(region.any(axis=1))
    if not len(rows):
        return 0.0, 0, 0
    # Each pixel's nearest outside pixel is at most one beyond the region's bounds, so the rest can be cut off.
    left, top = int(columns[0]), int(rows[0])
    inside = region[top : rows[-1] + 1, left : columns[-1] + 1]
    depth: NDArray[np.float64] = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    for click in earlier:
        if 0 <= click.y - top < depth.shape[0] and 0 <= click.x - left < depth.shape[1]:
            depth[click.y - top, click.x - left] = 0
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(depth[y, x]), left + int(x), top + int(y)
