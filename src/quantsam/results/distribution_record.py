"""How the values of each site are distributed, and how much of them its grid covers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from quantsam.results.record import JsonValue, Record, parsed_items
from quantsam.results.typed import typed

KIND = "distributions"


@dataclass(frozen=True, slots=True)
class Bins:
    """Counts of values in adjacent bins of equal width; there are no values outside the bins.

    Attributes:
        start: Lower edge of the first bin.
        width: Width of a bin.
        counts: Number of values in each bin.
    """

    start: float
    width: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OutlierChannel:
    """A channel with a much larger range than the other channels of its site.

    Attributes:
        index: Index of the channel, zero-based.
        ratio: The channel's largest magnitude divided by the median of all channels' largest magnitudes.
        clipped: Share of the channel's values outside the grid, 0 to 1, as for the site; None in float.
        bins: Histogram of the channel.
    """

    index: int
    ratio: float
    clipped: float | None
    bins: Bins


@dataclass(frozen=True, slots=True)
class SiteDistribution:
    """The values of one tensor over a stream of images, or of one weight.

    Attributes:
        site: Name of the site in the whole model, such as `stage3:4:2/input`.
        kind: Kind of the site's layer.
        role: `weight` or `activation`.
        format: The scheme's format for the site; None if the scheme leaves it in float.
        per_channel: Whether each channel has its own grid.
        values: Number of values seen.
        low: Smallest value.
        high: Largest value.
        grid_low: Smallest value that the grid can represent; if there are several grids, that of the widest; None in
            float.
        grid_high: Largest value that the grid can represent, likewise.
        clipped: Share of the values more than half a step outside their grid, 0 to 1; None in float. A value closer
            than that is no further from the grid than a value halfway between two codes.
        sqnr_db: Power of the values over power of the rounding error, in dB; None in float, or if rounding changes
            nothing.
        outlier_ratio: Largest `ratio` of the site's channels; None if their median is zero.
        bins: Histogram of all values.
        channel_lows: Smallest value of each channel, to three digits. Channels are the output channels of weights, and
            the heads in attention.
        channel_highs: Largest value of each channel, to three digits.
        outliers: The channels with the largest ratios, largest first; empty if the median is zero.
        position_ratio: Largest magnitude at any position of an image divided by the median over its positions; the
            largest ratio over all images. If it is in the hundreds, a few positions cause damage that per-channel
            scales cannot repair. None for weights, within attention, if the median is zero, and in older records.
    """

    site: str
    kind: str
    role: str
    format: str | None
    per_channel: bool
    values: int
    low: float
    high: float
    grid_low: float | None
    grid_high: float | None
    clipped: float | None
    sqnr_db: float | None
    outlier_ratio: float | None
    bins: Bins
    channel_lows: tuple[float, ...]
    channel_highs: tuple[float, ...]
    outliers: tuple[OutlierChannel, ...]
    position_ratio: float | None = None

    @property
    def layer(self) -> str:
        """Address of the site's layer."""
        return self.site.partition("/")[0]

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionRecord(Record):
    """The distributions of weights and activations."""

    kind: str = KIND

    @property
    def sites(self) -> list[SiteDistribution]:
        """The sites, in the order of the forward pass.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "sites", _site)

    def table(self) -> list[dict[str, Any]]:
        """Return the sites as plain values, without histograms and channels."""
        left_out = ("bins", "channel_lows", "channel_highs", "outliers")
        return [{k: v for k, v in dataclasses.asdict(site).items() if k not in left_out} for site in self.sites]


def _site(entry: dict[str, Any]) -> SiteDistribution:
    outliers = tuple(typed(OutlierChannel, {**o, "bins": _bins(o["bins"])}) for o in entry["outliers"])
    lows, highs = tuple(entry["channel_lows"]), tuple(entry["channel_highs"])
    parts = {"bins": _bins(entry["bins"]), "outliers": outliers, "channel_lows": lows, "channel_highs": highs}
    if not lows or len(lows) != len(highs):
        raise ValueError(f"{entry.get('site')!r} must have a low and a high for each channel")
    return typed(SiteDistribution, {**entry, **parts})


def _bins(entry: dict[str, Any]) -> Bins:
    bins = typed(Bins, {**entry, "counts": tuple(entry["counts"])})
    if not bins.counts or bins.width <= 0:
        raise ValueError(f"bins must have counts and a width above 0, got {len(bins.counts)} of {bins.width}")
    return bins
