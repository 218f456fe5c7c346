"""Turn COCO's segmentations into masks: exactly the COCO API's pixels, but its C code sees only checked values."""

from __future__ import annotations

import reprlib
from typing import Any, TypedDict

import numpy as np
from faster_coco_eval.core import mask as coco_api

from quantsam.data.dataset import BoolMask
from quantsam.errors import DatasetError
from quantsam.metrics.segmentations import check_polygons, check_rle


class Rle(TypedDict):
    """COCO's compressed run-length encoding: `size` is [height, width], `counts` the compressed string."""

    size: list[int]
    counts: str


def check_segmentation(segmentation: Any, image_hw: tuple[int, int], where: str) -> None:
    """Check a segmentation's form and values, so that it will decode; takes 30 microseconds per COCO object.

    Args:
        segmentation: The segmentation from the annotation file.
        image_hw: The image's height and width.
        where: Name of the annotation, as the start of the error message.

    Raises:
        DatasetError: The segmentation is neither polygons of at least 3 points nor an RLE of the image's size.
    """
    _check_form(segmentation, where)
    if isinstance(segmentation, list):
        check_polygons(segmentation, where)
    else:
        check_rle(segmentation, image_hw, where)


def _check_form(segmentation: Any, where: str) -> None:
    if isinstance(segmentation, list):
        if not segmentation:
            raise DatasetError(
                f"{where} has an empty segmentation: it must have at least one polygon; a box alone cannot be scored"
            )
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
        segmentation: Polygons in pixels of the image (parts outside the image are cut off), or an RLE with counts as a
            list or as COCO's compressed string.
        image_hw: The image's height and width.
        where: Name of the annotation, as the start of the error message.

    Returns:
        (height, width) bool, contiguous.

    Raises:
        DatasetError: The segmentation is malformed, or is an RLE of another size.
    """
    _check_form(segmentation, where)
    height, width = image_hw
    if isinstance(segmentation, list):
        rle = coco_api.merge(coco_api.frPyObjects(check_polygons(segmentation, where), height, width))
    else:
        rle = check_rle(segmentation, image_hw, where)
    return np.ascontiguousarray(coco_api.decode(rle), dtype=np.bool_)


def encode_mask(mask: BoolMask) -> Rle:
    """Return a mask as a compressed RLE in JSON types, as in results files.

    Args:
        mask: (height, width) bool.

    Returns:
        `{"size": [height, width], "counts": text}`; `decode_mask` gives the mask back.

    >>> encode_mask(np.eye(3, dtype=bool))
    {'size': [3, 3], 'counts': '013000'}
    """
    rle = coco_api.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
