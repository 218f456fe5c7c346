"""Images with mask overlays, side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

UInt8Image = NDArray[np.uint8]
BoolMask = NDArray[np.bool_]

_GOLDEN = 0.618034  # steps of the golden ratio keep neighbouring hues apart
_PROMPT = (255, 196, 0)
_OFF = (230, 60, 60)
_GAP, _TITLE = 8, 26


def overlay(
    image: UInt8Image,
    masks: Sequence[BoolMask],
    boxes_xyxy: Sequence[tuple[float, float, float, float]] = (),
    points_xy: Sequence[tuple[float, float]] = (),
    labels: Sequence[int] = (),
    colours: Sequence[int] | None = None,
) -> Image.Image:
    """Draw masks, each in its own colour and smaller masks above larger ones, and the prompts.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (H, W) bool each.
        boxes_xyxy: Boxes in pixels.
        points_xy: Points in pixels.
        labels: For each point, 1 (drawn yellow) or 0 (drawn red).
        colours: Number of each mask's colour; counted from 0 if None.

    Returns:
        An RGB image of the same size.
    """
    pixels = image.astype(np.float32)
    order = sorted(range(len(masks)), key=lambda i: -int(np.count_nonzero(masks[i])))
    numbers = range(len(masks)) if colours is None else colours
    for i in order:
        mask = masks[i]
        colour = 255 * np.array(colorsys.hsv_to_rgb((0.58 + numbers[i] * _GOLDEN) % 1, 0.85, 1.0), np.float32)
        pixels[mask] = pixels[mask] * 0.5 + colour * 0.5
        pixels[mask & ~inner_pixels(mask)] = colour
    drawn = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    stroke = max(1, round(max(drawn.size) / 200))
    for left, top, right, bottom in boxes_xyxy:
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=_PROMPT, width=stroke)
    for (x, y), label in zip(points_xy, labels, strict=True):
        circle = (x - 3 * stroke, y - 3 * stroke, x + 3 * stroke, y + 3 * stroke)
        draw.ellipse(circle, fill=_PROMPT if label else _OFF, outline=(0, 0, 0))
    return drawn


def side_by_side(panels: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Place images of one size side by side, each under its title."""
    font = ImageFont.load_default(16)
    width, height = panels[0].size
    sheet = Image.new("RGB", (len(panels) * (width + _GAP) + _GAP, height + _TITLE + _GAP), (250, 250, 250))
    draw = ImageDraw.Draw(sheet)
    for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = _GAP + index * (width + _GAP)
        draw.text((left, 4), title, fill=(20, 20, 20), font=font)
        sheet.paste(panel, (left, _TITLE))
    return sheet


def inner_pixels(mask: BoolMask) -> BoolMask:
    """Return the mask without the pixels of its border."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner
