"""Files of masks that a user saves: a mask or a cut-out as PNG, all objects as COCO annotations."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from quantsam.app.asked import SaveRequest
from quantsam.app.candidates import Candidate
from quantsam.app.catalogue import where
from quantsam.app.pictures import Picture
from quantsam.data.coco_masks import encode_mask
from quantsam.data.dataset import BoolMask
from quantsam.data.orientation import as_stored, stored_hw
from quantsam.errors import InputError
from quantsam.prediction.regions import tight_box

KINDS = {"mask": "image/png", "cutout": "image/png", "coco": "application/json"}
"""What can be saved, and its media type."""


def saved_file(request: SaveRequest, picture: Picture, masks: Sequence[Candidate]) -> bytes:
    """Return a file of masks. A PNG shows all masks together; annotations list each one.

    Raises:
        InputError: There is nothing to cut out.
    """
    if request.kind == "coco":
        return _coco(request, picture, masks)
    mask = np.zeros(picture.image_hw, np.bool_)
    for each in masks:
        mask |= each.mask()
    if request.kind == "mask":
        return _png(Image.fromarray(mask.view(np.uint8) * np.uint8(255)))
    if not mask.any():
        raise InputError(f"the mask of {request.scheme} is empty: there is nothing to cut out")
    left, top, right, bottom = tight_box(mask)
    cut = np.s_[top:bottom, left:right]
    alpha = mask[cut]
    pixels = np.dstack([picture.pixels[cut] * alpha[..., None], alpha.view(np.uint8) * np.uint8(255)])
    return _png(Image.fromarray(pixels))


def _coco(request: SaveRequest, picture: Picture, masks: Sequence[Candidate]) -> bytes:
    """Return COCO annotations in the pixels that the image's file stores, before any EXIF rotation."""
    asked = request.masks
    height, width = stored_hw(picture.image_hw, picture.orientation)
    document = {
        "info": {"description": f"quantsam app: {request.scheme} of {asked.model}, {where(asked.engine)}"},
        "images": [{"id": 1, "file_name": request.file_name, "width": width, "height": height}],
        "annotations": [
            _annotation(number, as_stored(each.mask(), picture.orientation), each.predicted_iou)
            for number, each in enumerate(masks, start=1)
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
