"""How the values of each site are distributed, and what its grid covers of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from quantsam.results.record import JsonValue, Record, parsed_items
from quantsam.results.typed import typed

KIND = "distributions"


@dataclass(frozen=True, slots=True)
class Bins:
    """Counts of values in neighbouring bins of one width; those outside are not empty, there are none.

    Attributes:
        start: Lower edge of the first bin.
        width: Of a bin.
        counts: Values in each bin.
    """

    start: float
    width: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OutlierChannel:
    """A channel whose values reach much further than those of its site's other channels.

    Attributes:
        index: Which channel, from zero.
        ratio: Its largest magnitude over the median of all channels' largest magnitudes.
        clipped: Share of its values outside of the grid, 0 to 1, as for the site; None in float.
        bins: Its histogram.
    """

    index: int
    ratio: float
    clipped: float | None
    bins: Bins


@dataclass(frozen=True, slots=True)
class SiteDistribution:
    """The values of one tensor over a stream of images, or of one weight.

    Attributes:
        site: Its name in the whole model, `stage3:4:2/input`.
        kind: Kind of its layer.
        role: `weight` or `activation`.
        format: The scheme's format for it; None if the scheme leaves it in float.
        per_channel: Whether each channel has a grid of its own.
        values: How many were seen.
        low: The smallest.
        high: The largest.
        grid_low: Smallest value that the grid holds, of several grids that of the one reaching furthest; None in float.
        grid_high: Largest value, likewise.
        clipped: Share of the values more than half a step outside of their grid, 0 to 1; None in float. What is less
            far out is no further from the grid than a value in the middle of two codes.
        sqnr_db: Power of the values over that of what rounding changes; None in float, or where nothing changes.
        outlier_ratio: The largest `ratio` of its channels; None where their median is zero.
        bins: Histogram of all values.
        channel_lows: Smallest value of each channel, to three digits. Channels are output channels of weights, heads in
            attention.
        channel_highs: Largest value of each channel, to three digits.
        outliers: The channels of the largest ratios, largest first; none where the median is zero.
        position_ratio: The largest magnitude at any position of an image over the median of all its positions', of all
            images the largest: where it is in the hundreds, a few positions are what no scale a channel helps. None of
            weights, within attention, where that median is zero, and in older records.
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
        """Address of its layer."""
        return self.site.partition("/")[0]

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionRecord(Record):
    """How weights and activations are distributed."""

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
