"""The connected regions of a mask: its box, its holes and its islands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantsam.data.dataset import BoolMask

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)


def tight_box(mask: BoolMask) -> tuple[int, int, int, int]:
    """Return x0 y0 x1 y1 of a mask, right and bottom exclusive.

    Args:
        mask: (H, W) bool, not empty.

    >>> tight_box(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool))
    (1, 1, 3, 2)
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def remove_small_regions(mask: BoolMask, min_area: int) -> BoolMask:
    """Fill small holes of a mask, then remove small islands.

    Pixels belong together if they touch, even at a corner. If all islands are small, the largest stays,
    so that no mask becomes empty.

    Args:
        mask: (H, W) bool.
        min_area: Remove holes and islands with fewer pixels.

    >>> remove_small_regions(np.array([[1, 1, 0, 0, 1]], dtype=bool), min_area=2).astype(int).tolist()
    [[1, 1, 0, 0, 0]]
    """
    labels, sizes = _regions(~mask)
    filled = mask | (sizes < min_area)[labels] & ~mask
    labels, sizes = _regions(filled)
    if len(sizes) == 1:
        return filled
    keep = sizes >= min_area
    keep[1 + sizes[1:].argmax()] = True
    keep[0] = False
    kept: BoolMask = keep[labels]
    return kept


def _regions(mask: BoolMask) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Return each pixel's region (H, W), 0 for none, and the regions' sizes in pixels."""
    from scipy import ndimage  # imported here: it is slow to import, and single prompts do not need it

    labels, count = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
