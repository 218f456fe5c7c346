"""EXIF orientations: between the pixel grid that a file stores and the upright image."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def known_orientation(value: Any) -> int:
    """Return an EXIF orientation, 2 to 8; any other value means upright, 1."""
    return int(value) if value in range(2, 9) else 1


def upright(array: NDArray[T], orientation: int) -> NDArray[T]:
    """Undo an EXIF orientation of stored pixels (H, W, ...)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def as_stored(array: NDArray[T], orientation: int) -> NDArray[T]:
    """Turn an upright image or mask (H, W, ...) back to the pixel grid of its file.

    >>> as_stored(np.array([[1, 2, 3]]), 6).tolist()
    [[3], [2], [1]]
    """
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    return np.ascontiguousarray(array)


def stored_hw(upright_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return height and width of a file's pixel grid, given those of the upright image."""
    height, width = upright_hw
    return (width, height) if orientation >= 5 else (height, width)
