"""Draw activations: channels in rows; float, quantized, their difference and both histograms in columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from quantsam.diagnostics.activation_maps import paired_bins, plane
from quantsam.diagnostics.activations import SiteActivations
from quantsam.results.activation_record import PairedBins

_CELL, _GAP, _HEAD = 160, 12, 34
_COLUMNS = ("FP32", "quantized", "difference", "histogram")
_INK, _PAPER, _FP32, _QUANTIZED = (31, 35, 40), (255, 255, 255), (0, 114, 178), (213, 94, 0)


def draw_activations(found: Sequence[SiteActivations], *, channels: int = 6) -> Image.Image:
    """Draw the channels that quantization changes most.

    Float and quantized maps share one grey scale, from a channel's smallest float value to its largest. Differences are
    red above zero and blue below, with full colour for the channel's largest difference.

    Args:
        found: At least one site.
        channels: Number of channels to draw per site.

    Returns:
        The figure, RGB.
    """
    rows = [(site, channel) for site in found for channel in site.worst_channels[:channels]]
    width = _GAP + len(_COLUMNS) * (_CELL + _GAP)
    picture = Image.new("RGB", (width, _GAP + len(rows) * (_CELL + _HEAD)), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for number, (site, channel) in enumerate(rows):
        top = _GAP + number * (_CELL + _HEAD)
        fp32, quantized = (plane(x[channel].numpy()) for x in (site.fp32, site.quantized))
        sqnr = site.channel_sqnr_db[channel]
        said = "no difference" if sqnr == math.inf else f"SQNR {sqnr:.1f} dB"
        extent = f"{float(fp32.min()):.3g} to {float(fp32.max()):.3g}"
        title = f"{site.site}, {site.format or 'float'}, channel {channel}: {extent}, {said}"
        draw.text((_GAP, top), title, fill=_INK, font=font)
        for column, name in enumerate(_COLUMNS):
            draw.text((_GAP + column * (_CELL + _GAP), top + 13), name, fill=_INK, font=font)
        low, high = float(fp32.min()), float(fp32.max())
        cells = [_grey(fp32, low, high), _grey(quantized, low, high), _diverging(quantized - fp32)]
        for column, cell in enumerate(cells):
            shown = Image.fromarray(cell).resize((_CELL, _CELL), Image.Resampling.NEAREST)
            picture.paste(shown, (_GAP + column * (_CELL + _GAP), top + 27))
        _histogram(draw, paired_bins(fp32, quantized), (_GAP + 3 * (_CELL + _GAP), top + 27))
    return picture


def _grey(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Return values on a scale from black to white, (h, w, 3)."""
    shares = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    return np.repeat((255 * shares).round().astype(np.uint8)[..., None], 3, axis=2)


def _diverging(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return values as colours, (h, w, 3): white for zero, red above and blue below."""
    shares = values / (float(np.abs(values).max()) or 1.0)
    colours = np.full((*values.shape, 3), 255.0)
    for sign, colour in ((1, _QUANTIZED), (-1, _FP32)):
        share = np.clip(sign * shares, 0, 1)[..., None]
        colours -= share * (255.0 - np.array(colour))
    return colours.round().astype(np.uint8)


def _histogram(draw: ImageDraw.ImageDraw, bins: PairedBins, corner: tuple[int, int]) -> None:
    """Draw the counts of values on a logarithmic scale: float as bars, quantized as a line."""
    counts = [np.log1p(np.array(count)) for count in (bins.fp32, bins.quantized)]
    most = max(float(count.max()) for count in counts) or 1.0
    left, top = corner
    draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), outline=(216, 221, 227))
    step = _CELL / len(bins.fp32)
    heights = [[top + _CELL - 1 - (_CELL - 4) * float(c) / most for c in count] for count in counts]
    for number, height in enumerate(heights[0]):
        draw.rectangle((left + number * step, height, left + (number + 1) * step - 1, top + _CELL - 1), fill=_FP32)
    line = [(left + (number + 0.5) * step, height) for number, height in enumerate(heights[1])]
    draw.line(line, fill=_QUANTIZED, width=2)
