"""Check polygons and RLEs before the evaluator's C code sees them: a damaged string makes it loop forever."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_api
from numpy.typing import NDArray

from quantsam.errors import DatasetError

# The rasterizer takes 40 bytes per outline pixel and multiplies coordinates by 5 in 32-bit integers.
_MAX_OUTLINE_PX = 5_000_000
_MAX_COORDINATE = 1e7


def check_rle(rle: Any, image_hw: tuple[int, int], where: str) -> dict[str, Any]:
    """Return an RLE in compressed form, after checking that its runs fill the image.

    Args:
        rle: `size` and `counts`: a list, or COCO's compressed string as text or bytes.
        image_hw: Height and width of the image in pixels.
        where: Name of the result or annotation, as the start of the error message.

    Raises:
        DatasetError: The value is not an RLE, is damaged, or has another size.

    >>> check_rle({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3), "results[0]")["counts"]
    b'123'
    """
    size = list(image_hw)
    if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), list | str | bytes):
        raise DatasetError(
            f"{where}: `segmentation` must be an RLE with `size` and `counts`, got {reprlib.repr(rle)}: encode the mask"
        )
    if not isinstance(rle.get("size"), list | tuple) or list(rle["size"]) != size:
        raise DatasetError(
            f"{where}: the RLE's `size` must be its image's [height, width] = {size}, got "
            f"{reprlib.repr(rle.get('size'))}: masks are of the stored image, not of the model's input"
        )
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    whole = _whole_numbers(counts, where) if isinstance(counts, list) else _decompressed(counts)
    if not whole or min(whole) < 0 or sum(whole) != size[0] * size[1]:
        raise DatasetError(f"{where}: the RLE's runs do not fill its {size[0]} x {size[1]} pixels: it is damaged")
    if isinstance(counts, bytes):
        return {"size": size, "counts": counts}
    compressed: dict[str, Any] = coco_api.frPyObjects({"size": size, "counts": whole}, *size)
    return compressed


def check_polygons(polygons: Any, where: str) -> list[list[float]]:
    """Return an object's polygons, after checking that they are safe to rasterize.

    Args:
        polygons: Lists of x, y, x, y, ... in pixels; they may reach outside the image.
        where: Name of the annotation, as the start of the error message.

    Raises:
        DatasetError: There is no polygon, one has fewer than 3 points, or one has absurdly large coordinates.
    """
    if not isinstance(polygons, list) or not polygons:
        raise DatasetError(f"{where}: `segmentation` must be an RLE or polygons, got {reprlib.repr(polygons)}")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DatasetError(
                f"{where}: a polygon must be the x, y pairs of at least 3 points, got {reprlib.repr(polygon)}"
            )
        # a comparison, because math.isfinite overflows on the huge integers that JSON allows
        if not all(type(value) in (int, float) and abs(value) <= _MAX_COORDINATE for value in polygon):
            raise DatasetError(
                f"{where}: a polygon's coordinates must be finite numbers within ±{_MAX_COORDINATE:.0e}, "
                f"got {reprlib.repr(polygon)}"
            )
        points = np.array(polygon, np.float64).reshape(-1, 2)
        outline = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
        if outline > _MAX_OUTLINE_PX:
            raise DatasetError(
                f"{where}: a polygon has an outline of {math.ceil(outline):,} pixels: more than {_MAX_OUTLINE_PX:,} "
                "is taken for damage"
            )
    return polygons


def _whole_numbers(runs: list[Any], where: str) -> list[int]:
    """Return the runs as integers; `40.0`, which some tools write, counts as an integer."""
    found = [int(run) if type(run) is float and run.is_integer() else run for run in runs]
    for run in found:
        if type(run) is not int:
            raise DatasetError(
                f"{where}: the RLE's `counts` must be whole numbers, got {reprlib.repr(run)}: correct it"
            )
    return found


def _decompressed(counts: bytes) -> list[int]:
    """Return the runs in COCO's compressed string; empty if the string is damaged.

    Each character carries 5 bits of a number, low bits first, plus 48; 32 says that more characters follow, and 16 in
    the last one is the sign. From the fourth run on, a number is the difference from the run two before (`rleFrString`
    in COCO's maskApi.c).
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return []
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits: more than any run of an image
        return []
    places = np.arange(codes.size) - np.repeat(starts, lengths)
    runs: NDArray[np.int64] = np.add.reduceat((codes & 31) << (5 * places), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    found: list[int] = runs.tolist()
    return found
