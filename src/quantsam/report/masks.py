"""Gallery entries as image layers: transparent masks that overlay the image, which all panels share."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantsam.data.coco_masks import decode_mask
from quantsam.data.dataset import BoolMask
from quantsam.errors import DatasetError, StoreError
from quantsam.report.overlay import inner_pixels
from quantsam.report.theme import COMMON, EXTRA, MISSED
from quantsam.results.gallery import GalleryEntry, Rle

_LONGEST = 512
_MOST_PIXELS = 2**26
_INSIDE, _BORDER = 130, 255  # opacity


@dataclass(frozen=True, slots=True)
class Panel:
    """One view of an object.

    Attributes:
        title: What the panel shows.
        alt: The same for readers who cannot see it, with its figures.
        overlay: Transparent PNG as a data URI; empty for the bare image with its prompt.
        iou: IoU with the ground truth, 0..1; None if there is nothing to compare.
    """

    title: str
    alt: str
    overlay: str = ""
    iou: float | None = None


def panels(entry: GalleryEntry, label: str, repaired: GalleryEntry | None = None) -> list[Panel]:
    """Return the views of an object: image and prompt, ground truth, FP32, quantized, repaired.

    Args:
        entry: The object.
        label: Name of the quantized scheme.
        repaired: The same object under the same scheme after repairs.

    Raises:
        StoreError: A mask is damaged.
    """
    truth = _decoded(entry.truth, entry)
    shown = [
        Panel("image and prompt", f"Image {entry.image_id} with the prompt"),
        Panel("ground truth", f"The annotated mask, {int(truth.sum())} pixels", _layer(truth, truth)),
    ]
    answers = [("FP32", entry.fp32, entry.fp32_iou), (label, entry.quantized, entry.iou)]
    answers += [] if repaired is None else [("repaired", repaired.quantized, repaired.iou)]
    for title, mask, iou in answers:
        answer = _decoded(mask, entry)
        missed, extra = int((truth & ~answer).sum()), int((answer & ~truth).sum())
        alt = f"{title}'s mask, IoU {100 * iou:.0f} %: {missed} pixels missed, {extra} too many"
        shown.append(Panel(title, alt, _layer(answer, truth), iou))
    return shown


def picture_uri(entry: GalleryEntry) -> str | None:
    """Return the image as a data URI; None if it is missing or not a JPEG."""
    if entry.picture is None:
        return None
    try:
        with Image.open(io.BytesIO(entry.picture), formats=["JPEG"]) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            image.load()
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(entry.picture).decode()}"


def _decoded(rle: Rle, entry: GalleryEntry) -> BoolMask:
    height, width = entry.image_hw
    where = f"the gallery's mask of annotation {entry.annotation_id}"
    if not 0 < height * width <= _MOST_PIXELS:
        raise StoreError(f"{where} must have 1 to {_MOST_PIXELS:,} pixels, got {height} x {width}: evaluate again")
    try:
        return decode_mask(dict(rle), (height, width), where)
    except DatasetError as error:
        raise StoreError(f"{error}: evaluate again") from error


def _layer(answer: BoolMask, truth: BoolMask) -> str:
    """Colour what an answer shares with the ground truth, what it misses, and its excess. Borders are opaque."""
    regions = (answer & truth, truth & ~answer, answer & ~truth)
    codes: NDArray[np.uint8] = np.zeros(answer.shape, np.uint8)
    for number, region in enumerate(regions):
        codes[region] = 2 * number + 1
        codes[region & ~inner_pixels(region)] = 2 * number + 2
    image = Image.fromarray(codes, "P")
    colours = [(0, 0, 0)] + [colour for colour in (COMMON, MISSED, EXTRA) for _ in range(2)]
    image.putpalette([channel for colour in colours for channel in colour])
    scale = _LONGEST / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, "PNG", transparency=bytes([0] + [_INSIDE, _BORDER] * 3), optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
