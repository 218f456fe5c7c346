"""COCO's segmentations to masks: exactly the COCO API's pixels, but nothing unchecked reaches its C code."""

from __future__ import annotations

import reprlib
from typing import Any, TypedDict

import numpy as np
from faster_coco_eval.core import mask as coco_api
from numpy.typing import NDArray

from quantsam.data.dataset import BoolMask
from quantsam.errors import DatasetError

# The rasterizer takes 40 bytes for each pixel of outline and multiplies coordinates by 5 in 32-bit integers.
MAX_OUTLINE_PX = 5_000_000
MAX_COORDINATE = 1e7


class Rle(TypedDict):
    """COCO's compressed run-length encoding: `size` is [height, width], `counts` its string."""

    size: list[int]
    counts: str


def check_segmentation(segmentation: Any, where: str) -> None:
    """Check a segmentation's form, not its values: quick enough for every annotation of COCO.

    Args:
        segmentation: What the annotation file says.
        where: Which annotation it is, to begin the message with.

    Raises:
        DatasetError: It is neither polygons of at least 3 points nor an RLE.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            raise DatasetError(f"{where} has an empty segmentation: it must have at least one polygon")
        for polygon in segmentation:
            if not isinstance(polygon, list):
                raise DatasetError(f"{where} has a polygon that is not a list: got {reprlib.repr(polygon)}")
            if len(polygon) < 6 or len(polygon) % 2:
                raise DatasetError(
                    f"{where} has a polygon of {len(polygon)} numbers: it must be the x, y pairs of at least 3 points"
                )
    elif isinstance(segmentation, dict):
        if not isinstance(segmentation.get("counts"), list | str):
            raise DatasetError(f"{where} has an RLE without `counts`, which must be a list or a string")
        if not isinstance(segmentation.get("size"), list):
            raise DatasetError(f"{where} has an RLE without `size`, which must be [height, width]")
    else:
        raise DatasetError(
            f"{where} has a segmentation that is neither polygons nor an RLE: got {reprlib.repr(segmentation)}"
        )


def decode_mask(segmentation: Any, image_hw: tuple[int, int], where: str) -> BoolMask:
    """Decode a segmentation as the COCO API's `annToMask` does.

    Args:
        segmentation: Polygons in pixels of the image (parts outside of it are cut off), or an RLE
            whose counts are a list or COCO's compressed string.
        image_hw: The image's height and width.
        where: Which annotation it is, to begin a message with.

    Returns:
        (height, width) bool, contiguous.

    Raises:
        DatasetError: The segmentation is malformed, or is an RLE of another size.
    """
    check_segmentation(segmentation, where)
    height, width = image_hw
    if isinstance(segmentation, list):
        polygons = [_checked_polygon(polygon, where).tolist() for polygon in segmentation]
        rle = coco_api.merge(coco_api.frPyObjects(polygons, height, width))
    else:
        rle = _checked_rle(segmentation, image_hw, where)
    return np.ascontiguousarray(coco_api.decode(rle), dtype=np.bool_)


def _checked_polygon(polygon: list[Any], where: str) -> NDArray[np.float64]:
    """Return the coordinates, (2 * points,), once they are safe to rasterize."""
    for value in polygon:
        # compared, not math.isfinite: that overflows on the huge integers that JSON allows
        if type(value) not in (int, float) or not -MAX_COORDINATE <= value <= MAX_COORDINATE:
            raise DatasetError(
                f"{where} has the polygon coordinate {reprlib.repr(value)}: "
                f"coordinates must be finite numbers within ±{MAX_COORDINATE:.0e}"
            )
    flat = np.array(polygon, np.float64)
    points = flat.reshape(-1, 2)
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)  # (points,): pixels drawn for each edge
    if steps.sum() > MAX_OUTLINE_PX:
        raise DatasetError(
            f"{where} has a polygon with an outline of {steps.sum():,.0f} pixels: "
            f"more than {MAX_OUTLINE_PX:,} is taken for damage"
        )
    return flat


def _checked_rle(rle: dict[str, Any], image_hw: tuple[int, int], where: str) -> Any:
    """Return the RLE in compressed form once its runs are known to fill the image exactly."""
    height, width = image_hw
    if rle["size"] != [height, width]:
        raise DatasetError(
            f"{where} has an RLE of size {reprlib.repr(rle['size'])}: "
            f"it must be the image's [height, width] = [{height}, {width}]"
        )
    counts = rle["counts"]
    runs = counts if isinstance(counts, list) else _decompressed(counts, where)
    area = height * width
    for run in runs:
        if type(run) is not int or not 0 <= run <= area:
            raise DatasetError(
                f"{where} has an RLE with the run {reprlib.repr(run)}: runs must be whole numbers from 0 to "
                f"height x width = {area}"
            )
    if sum(runs) != area:
        raise DatasetError(f"{where} has an RLE of {sum(runs)} pixels: its runs must sum to height x width = {area}")
    if isinstance(counts, list):
        return coco_api.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": counts.encode("ascii")}


def _decompressed(counts: str, where: str) -> list[int]:
    """Return the runs of COCO's compressed string.

    Each character carries 5 bits of a number, low bits first, plus 48; 32 says that more follow, and
    the last one's 16 is the sign. From the fourth on, a number is the difference from the run two before
    (`rleFrString` in COCO's maskApi.c).
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise DatasetError(f"{where} has a compressed RLE that is damaged at the character {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise DatasetError(f"{where} has a compressed RLE that ends within a number")
    return runs


def encode_mask(mask: BoolMask) -> Rle:
    """Return a mask as a compressed RLE in JSON's own types, as results files hold it.

    Args:
        mask: (height, width) bool.

    Returns:
        `{"size": [height, width], "counts": text}`; `decode_mask` gives the mask back.

    >>> encode_mask(np.eye(3, dtype=bool))
    {'size': [3, 3], 'counts': '013000'}
    """
    rle = coco_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
