"""A sheet of pictures with masks and prompts drawn, one row an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from quantsam.errors import InputError
from quantsam.report.overlay import inner_pixels

UInt8Image = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_CELL = 224
_GAP = 6
_HEADER = 26
_COLOURS = {"truth": (38, 166, 91), "mask": (30, 120, 240)}
_PROMPT = (255, 196, 0)


@dataclass(frozen=True, slots=True)
class Row:
    """One object on the sheet.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) bool, the annotated mask.
        masks: What each model said, (H, W) bool, in the order of the sheet's columns.
        ious: IoU of each of them with the truth, 0 to 1.
        box_xyxy: The box prompt in pixels, if there was one.
        points_xy: Click prompts in pixels.
    """

    image: UInt8Image
    truth: BoolMask
    masks: Sequence[BoolMask]
    ious: Sequence[float]
    box_xyxy: tuple[float, float, float, float] | None = None
    points_xy: Sequence[tuple[float, float]] = ()


def contact_sheet(rows: Sequence[Row], columns: Sequence[str]) -> Image.Image:
    """Draw rows of image with prompt, ground truth, and each model's mask with its IoU.

    Args:
        rows: At least one object.
        columns: A title for each mask of a row.

    Returns:
        An RGB picture, `2 + len(columns)` cells wide.

    Raises:
        InputError: There is no row, or one has not a mask and an IoU for each column.
    """
    _check(rows, columns)
    titles = ["image and prompt", "ground truth", *columns]
    width = len(titles) * (_CELL + _GAP) + _GAP
    height = _HEADER + len(rows) * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for index, title in enumerate(titles):
        draw.text((_GAP + index * (_CELL + _GAP), 6), _shortened(draw, title, font), fill=(20, 20, 20), font=font)
    for number, row in enumerate(rows):
        top = _HEADER + number * (_CELL + _GAP)
        cells = [_prompted(row), _overlaid(row.image, row.truth, _COLOURS["truth"])]
        cells += [_overlaid(row.image, mask, _COLOURS["mask"]) for mask in row.masks]
        for index, cell in enumerate(cells):
            sheet.paste(_fitted(cell), (_GAP + index * (_CELL + _GAP), top))
        for index, iou in enumerate(row.ious, start=2):
            _badge(draw, (_GAP + index * (_CELL + _GAP) + 4, top + 4), f"IoU {100 * iou:.0f} %", font)
    return sheet


def _check(rows: Sequence[Row], columns: Sequence[str]) -> None:
    if not rows:
        raise InputError("a contact sheet needs at least one object, got none: give it rows")
    for number, row in enumerate(rows, start=1):
        if not len(row.masks) == len(row.ious) == len(columns):
            raise InputError(
                f"row {number} of a contact sheet must have a mask and an IoU for each of the {len(columns)} columns, "
                f"got {len(row.masks)} masks and {len(row.ious)} IoUs"
            )


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: Font) -> str:
    """Return the text, cut to the width of a cell."""
    if draw.textlength(text, font=font) <= _CELL:
        return text
    while text and draw.textlength(f"{text}...", font=font) > _CELL:
        text = text[:-1]
    return f"{text}..."


def _badge(draw: ImageDraw.ImageDraw, xy: tuple[int, int], text: str, font: Font) -> None:
    left, top, right, bottom = draw.textbbox(xy, text, font=font)
    draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill=(0, 0, 0))
    draw.text(xy, text, fill=(255, 255, 255), font=font)


def _fitted(image: Image.Image) -> Image.Image:
    scale = _CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    cell = Image.new("RGB", (_CELL, _CELL), (235, 235, 235))
    resized = image.resize(size, Image.Resampling.LANCZOS)
    cell.paste(resized, ((_CELL - size[0]) // 2, (_CELL - size[1]) // 2))
    return cell


def _prompted(row: Row) -> Image.Image:
    image = Image.fromarray(row.image).copy()
    draw = ImageDraw.Draw(image)
    stroke = max(1, round(max(image.size) / 160))
    if row.box_xyxy is not None:
        left, top, right, bottom = row.box_xyxy
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=_PROMPT, width=stroke)
    for x, y in row.points_xy:
        draw.ellipse((x - 3 * stroke, y - 3 * stroke, x + 3 * stroke, y + 3 * stroke), fill=_PROMPT, outline=(0, 0, 0))
    return image


def _overlaid(image: UInt8Image, mask: BoolMask, colour: tuple[int, int, int]) -> Image.Image:
    """Dim what is outside, tint what is inside, and draw the border."""
    pixels = image.astype(np.float32)
    pixels[~mask] = pixels[~mask] * 0.45 + 60
    pixels[mask] = pixels[mask] * 0.55 + np.array(colour, np.float32) * 0.45
    pixels[mask & ~inner_pixels(mask)] = colour
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
