"""Activations of an image as small multiples: for each channel, float, quantized, their difference, and histograms."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantsam.report.content import ModelResults
from quantsam.report.layer_tables import activation_table
from quantsam.report.tables import Table
from quantsam.report.theme import FP32, QUANTIZED
from quantsam.results.activation_record import (
    CODES_ASIDE,
    ZERO_CODE,
    ActivationRecord,
    ComparedSite,
    DrawnChannel,
    PairedBins,
    sqnr_text,
)

_SIDE = 100  # side of a histogram, in its own units
_HIGHEST = 96
_SITES_LISTED = 12


@dataclass(frozen=True, slots=True)
class MapView:
    """A map: its title, its text for readers who cannot see it, and a PNG as a data URI."""

    title: str
    alt: str
    uri: str


@dataclass(frozen=True, slots=True)
class HistogramView:
    """Two histograms in a square of 100 x 100 units, with the origin in the upper left corner.

    Attributes:
        alt: Text for readers who cannot see it.
        bars: Outline of the bars of the float values, as data of an SVG path.
        line: Line of the quantized values, as points of an SVG polyline.
    """

    alt: str
    bars: str
    line: str


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A channel: its maps (float, quantized, difference), its histograms and its name."""

    maps: tuple[MapView, ...]
    histogram: HistogramView
    caption: str


@dataclass(frozen=True, slots=True)
class SiteView:
    """A drawn site."""

    title: str
    channels: tuple[ChannelView, ...]


@dataclass(frozen=True, slots=True)
class ActivationsView:
    """A record: a title with model, scheme, placement and image; its drawn sites; a table of its sites."""

    title: str
    sites: tuple[SiteView, ...]
    table: Table


def activation_views(model: ModelResults) -> Iterator[ActivationsView]:
    """Yield the view of each record, the newest first.

    Raises:
        StoreError: A record or a map is damaged.
    """
    for record in model.activations:
        ranked = record.worst_first
        sites = tuple(_site(site) for site in ranked if site.channels)
        yield ActivationsView(_title(record), sites, activation_table(ranked, _SITES_LISTED))


def _title(record: ActivationRecord) -> str:
    only = record.settings.get("site")
    title = f"{record.model}, {record.label}, {record.placement}, {record.dataset}"
    return f"{title}: sites {only}" if only else title


def _site(site: ComparedSite) -> SiteView:
    said = _said(site.sqnr_db, site.largest_difference)
    title = f"{site.site} ({site.kind}), {site.format or 'float'}: {said}"
    return SiteView(title, tuple(_channel(site, channel) for channel in site.channels))


def _channel(site: ComparedSite, channel: DrawnChannel) -> ChannelView:
    fp32, quantized, difference = channel.fp32, channel.quantized, channel.difference
    extent = f"{fp32.low:.3g} to {fp32.high:.3g}"
    name = f"channel {channel.index} of {site.site}"
    said = _said(channel.sqnr_db, difference.high)
    away = f"{name}, quantized less FP32, at most {difference.high:.3g} either way"
    return ChannelView(
        maps=(
            MapView("FP32", f"{name} in FP32, {extent}", _grey(fp32.codes)),
            MapView("quantized", f"{name} quantized, on the same scale", _grey(quantized.codes)),
            MapView("difference", away, _diverging(difference.codes)),
        ),
        histogram=_histogram(channel.bins, name),
        caption=f"{site.site}, {site.format or 'float'}, channel {channel.index}: {extent}, {said}",
    )


def _said(sqnr_db: float | None, difference: float) -> str:
    text = sqnr_text(sqnr_db, difference)
    return text if sqnr_db is None else f"SQNR {text}"


def _grey(codes: NDArray[np.uint8]) -> str:
    return _uri(Image.fromarray(codes))


def _diverging(codes: NDArray[np.uint8]) -> str:
    """Colour codes of a difference. Zero is transparent, so it is light in light mode and dark in dark mode."""
    image = Image.fromarray(codes, "P")
    image.putpalette([part for code in range(256) for part in (FP32 if code < ZERO_CODE else QUANTIZED)])
    shares = [min(1.0, abs(code - ZERO_CODE) / CODES_ASIDE) for code in range(256)]
    return _uri(image, bytes(round(255 * share) for share in shares))


def _uri(image: Image.Image, transparency: bytes | None = None) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True, **({} if transparency is None else {"transparency": transparency}))
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _histogram(bins: PairedBins, name: str) -> HistogramView:
    """Draw counts on a logarithmic scale; the largest count fills the height."""
    most = math.log1p(max(*bins.fp32, *bins.quantized)) or 1.0
    heights = [_heights(counts, most) for counts in (bins.fp32, bins.quantized)]
    step = _SIDE / len(bins.fp32)
    edges = [f"{_short(n * step)},{top} {_short((n + 1) * step)},{top}" for n, top in enumerate(heights[0])]
    middles = [f"{_short((n + 0.5) * step)},{top}" for n, top in enumerate(heights[1])]
    end = bins.start + bins.width * len(bins.fp32)
    alt = f"Histograms of {name} in FP32 and quantized, {bins.start:.3g} to {end:.3g}"
    return HistogramView(alt, f"M0,{_SIDE} L{' '.join(edges)} {_SIDE},{_SIDE} Z", " ".join(middles))


def _heights(counts: Sequence[int], most: float) -> list[str]:
    return [_short(_SIDE - _HIGHEST * math.log1p(count) / most) for count in counts]


def _short(value: float) -> str:
    return f"{value:.4g}"
