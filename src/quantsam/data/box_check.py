"""Do the annotated boxes fit the annotated masks? Boxes in another order or unit would be scored silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_api
from numpy.typing import NDArray

from quantsam.data.dataset import Annotation
from quantsam.metrics.segmentations import check_rle

SHARE = 0.1  # in the COCO, LVIS and SA-1B samples that the tests read, every box fits
_LEAST_IOU = 0.5
_SLACK_PX = 3.0
_EXPLAINS = 0.8
_Boxes = NDArray[np.float64]

# Other meanings of the four numbers: (the numbers, the images' width, height, width, height) -> the box.
_READINGS: dict[str, Callable[[_Boxes, _Boxes], _Boxes]] = {
    "left, top, right, bottom": lambda b, s: b,
    "centre x, centre y, width, height": lambda b, s: _from_centre(b),
    "y, x, height, width": lambda b, s: _to_xyxy(b[:, [1, 0, 3, 2]]),
    "top, left, bottom, right": lambda b, s: b[:, [1, 0, 3, 2]],
    "fractions of the image: x, y, width, height": lambda b, s: _to_xyxy(b * s),
    "fractions of the image: left, top, right, bottom": lambda b, s: b * s,
    "fractions of the image: centre x, centre y, width, height": lambda b, s: _from_centre(b * s),
}


def wrong_boxes(annotations: Mapping[int, Sequence[Annotation]], image_hw: Mapping[int, tuple[int, int]]) -> str | None:
    """Say how many boxes do not fit their own masks, and what they look like; None if almost all fit.

    A box fits if its IoU with its mask's bounds is at least 0.5, or if its edges are within 3 pixels of them.

    Args:
        annotations: Annotations by image id; their segmentations are already checked.
        image_hw: Height and width of each image, by image id.
    """
    scored = [a for objects in annotations.values() for a in objects if a.area >= 1]
    if not scored:
        return None
    boxes = np.array([a.box_xyxy for a in scored], np.float64)
    masks = np.array([_bounds(a.segmentation, image_hw[a.image_id]) for a in scored], np.float64)
    bad = ~_fits(boxes, masks)
    count = int(np.count_nonzero(bad))
    if count <= SHARE * len(scored):
        return None
    first = scored[int(np.argmax(bad))]
    sizes = np.array([image_hw[a.image_id][::-1] * 2 for a in scored], np.float64)[bad]
    given = np.concatenate([boxes[bad][:, :2], boxes[bad][:, 2:] - boxes[bad][:, :2]], axis=1)
    explained = {name: float(_fits(read(given, sizes), masks[bad]).mean()) for name, read in _READINGS.items()}
    likeliest = max(explained, key=lambda name: explained[name])
    meant = f"they look like {likeliest}" if explained[likeliest] >= _EXPLAINS else _outside(boxes[bad], sizes)
    return (
        f"{count:,} of {len(scored):,} boxes do not fit their own masks (the first: annotation {first.id} of image "
        f"{first.image_id}), {meant}: correct `bbox`, which is x, y, width, height in pixels"
    )


def _outside(boxes: _Boxes, sizes: _Boxes) -> str:
    beyond = (boxes[:, 2:] > sizes[:, :2] + _SLACK_PX).any(axis=1) | (boxes[:, :2] < -_SLACK_PX).any(axis=1)
    count = int(np.count_nonzero(beyond))
    return f"{count:,} of these reach outside the image" if count else "nor in any other order or unit that is usual"


def _fits(boxes: _Boxes, masks: _Boxes) -> NDArray[np.bool_]:
    """Return which boxes fit; boxes and masks' bounds are left, top, right, bottom."""
    shared = np.minimum(boxes[:, 2:], masks[:, 2:]) - np.maximum(boxes[:, :2], masks[:, :2])
    overlap = np.prod(np.maximum(shared, 0), axis=1)
    union = _area(boxes) + _area(masks) - overlap
    close = (np.abs(boxes - masks) <= _SLACK_PX).all(axis=1)
    result: NDArray[np.bool_] = close | (overlap >= _LEAST_IOU * union)
    return result


def _area(boxes: _Boxes) -> _Boxes:
    area: _Boxes = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    return area


def _to_xyxy(boxes: _Boxes) -> _Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_centre(boxes: _Boxes) -> _Boxes:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _bounds(segmentation: Any, image_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return a mask's left, top, right, bottom."""
    if isinstance(segmentation, list):
        xs, ys = [p[::2] for p in segmentation], [p[1::2] for p in segmentation]
        return min(map(min, xs)), min(map(min, ys)), max(map(max, xs)), max(map(max, ys))
    left, top, width, height = coco_api.toBbox(check_rle(segmentation, image_hw, "a mask")).tolist()
    return left, top, left + width, top + height
