"""Files of masks to keep: a mask and a cut-out as PNG, all objects as COCO's annotations."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from quantsam.app.answers import Answer, MaskRequest
from quantsam.app.catalogue import where
from quantsam.app.pictures import Picture
from quantsam.app.segmenting import Prompted
from quantsam.data.coco_masks import encode_mask
from quantsam.data.dataset import BoolMask
from quantsam.data.orientation import as_stored
from quantsam.errors import InputError
from quantsam.prediction.regions import tight_box

KINDS = {"mask": "image/png", "cutout": "image/png", "coco": "application/json"}
"""What can be saved, and its media type."""


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """What to save.

    Attributes:
        masks: What was segmented.
        scheme: Whose masks, perhaps FP32's.
        kind: One of `KINDS`.
        chosen: The number of the one object that a PNG shows; None: all together.
        numbers: Of each prompt's masks the one that is meant; empty: those of highest predicted IoU.
        file_name: The picture's, for the annotations.
    """

    masks: MaskRequest
    scheme: str
    kind: str
    chosen: int | None
    numbers: tuple[int, ...]
    file_name: str


def saved_file(request: SaveRequest, picture: Picture, answer: Answer) -> bytes:
    """Return the file.

    Raises:
        InputError: There is no such object or mask, or nothing to cut out.
    """
    masks = _masks(request, picture, answer)
    if request.kind == "coco":
        return _coco(request, picture, masks)
    mask = _one(request, [mask for mask, _ in masks], picture.image_hw)
    if request.kind == "mask":
        return _png(Image.fromarray(mask.view(np.uint8) * np.uint8(255)))
    if not mask.any():
        raise InputError(f"the mask of {request.scheme} is empty: there is nothing to cut out")
    left, top, right, bottom = tight_box(mask)
    cut = np.s_[top:bottom, left:right]
    alpha = mask[cut]
    pixels = np.dstack([picture.pixels[cut] * alpha[..., None], alpha.view(np.uint8) * np.uint8(255)])
    return _png(Image.fromarray(pixels))


def _masks(request: SaveRequest, picture: Picture, answer: Answer) -> list[tuple[BoolMask, float]]:
    """Return the meant mask of each object, at the picture's resolution, and its predicted IoU."""
    if not isinstance(answer.segmented, Prompted):
        if request.numbers:
            raise InputError("numbers are of prompts, and everything was segmented: leave them out")
        return [(picture.from_view(mask.mask), mask.predicted_iou) for mask in answer.found or ()]
    objects = answer.segmented.objects
    numbers = request.numbers or tuple(masks.best for masks in objects)
    if len(numbers) != len(objects):
        raise InputError(f"there must be one number for each of {len(objects)} objects, got {len(numbers)}")
    meant = []
    for masks, number in zip(objects, numbers, strict=True):
        if number >= len(masks.candidates):
            raise InputError(f"a prompt has masks 0 to {len(masks.candidates) - 1}, got {number}: choose one of them")
        candidate = masks.candidates[number]
        meant.append((candidate.mask(), candidate.predicted_iou))
    return meant


def _one(request: SaveRequest, masks: list[BoolMask], image_hw: tuple[int, int]) -> BoolMask:
    if request.chosen is None:
        together = np.zeros(image_hw, np.bool_)
        for mask in masks:
            together |= mask
        return together
    if request.chosen >= len(masks):
        raise InputError(f"there are {len(masks)} objects, counted from 0, got {request.chosen}: choose one of them")
    return masks[request.chosen]


def _coco(request: SaveRequest, picture: Picture, masks: list[tuple[BoolMask, float]]) -> bytes:
    """Return COCO's annotations: they mean the pixels as the picture's file stores them, before any EXIF rotation."""
    asked = request.masks
    height, width = as_stored(picture.pixels, picture.orientation).shape[:2]
    document = {
        "info": {"description": f"quantsam app: {request.scheme} of {asked.model}, {where(asked.engine)}"},
        "images": [{"id": 1, "file_name": request.file_name, "width": width, "height": height}],
        "annotations": [
            _annotation(number, as_stored(mask, picture.orientation), predicted_iou)
            for number, (mask, predicted_iou) in enumerate(masks, start=1)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _annotation(number: int, mask: BoolMask, predicted_iou: float) -> dict[str, Any]:
    area = int(np.count_nonzero(mask))
    left, top, right, bottom = tight_box(mask) if area else (0, 0, 0, 0)
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "segmentation": encode_mask(mask),
        "bbox": [left, top, right - left, bottom - top],
        "area": area,
        "iscrowd": 0,
        "score": predicted_iou,
    }


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
