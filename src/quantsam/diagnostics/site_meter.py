"""Statistics of one site's values, in fixed memory: histograms per channel, clipped values, rounding noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantsam.errors import CalibrationError
from quantsam.quant.histogram import Histogram
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import fake_quantize
from quantsam.quant.ranges import clipping_range, grid_range
from quantsam.results.distribution_record import Bins, OutlierChannel, SiteDistribution

OUTLIERS = 4
MOST_BINS = 128  # in a record
_BINS, _FEWEST, _MOST = 1 << 16, 64, 256


def bins_for(channels: int) -> int:
    """Return the number of bins per channel of a tensor: 256, but fewer from 512 channels on.

    This bounds the memory for all sites of XL1 (980,000 channels) to 0.55 GiB; 256 bins each would take 1.9 GiB.

    >>> [bins_for(channels) for channels in (3, 256, 384, 512, 6144)]
    [256, 256, 128, 128, 64]
    """
    return min(_MOST, max(_FEWEST, 1 << (_BINS // max(channels, 1)).bit_length() - 1))


class SiteMeter:
    """Collects statistics of one site's values.

    The state has a fixed size from the first value on. The results depend only on the values, not on how the stream is
    split: counts exactly, sums of squares up to float64 rounding.

    Attributes:
        site: Name of the site, such as `stage3:4:2/input`.
        kind: Kind of the layer.
        role: `weight` or `activation`.
        spec: How the plan quantizes the site; None in float.
        histogram: Histogram with one row per channel.
        clipped: (C,) int64, number of values outside their `clipping_range`.
        power: Sum of the squares of all values, () float64; only for quantized sites.
        noise: Sum of the squared rounding errors, () float64.
        position_ratio: See `SiteDistribution`; None until a position was seen.
    """

    def __init__(
        self, site: str, kind: str, role: str, spec: TensorSpec | None = None, params: QParams | None = None
    ) -> None:
        self.site, self.kind, self.role, self.spec = site, kind, role, spec
        self.histogram: Histogram | None = None
        self.clipped: Tensor | None = None
        self.power = self.noise = torch.zeros((), dtype=torch.float64)
        self.position_ratio: float | None = None
        self._grid: QParams | None = None
        if spec is not None and params is not None:  # below, each channel is a row, whatever the grid's own axis
            self._grid = QParams(params.scale, params.zero_point, None if params.axis is None else 0)
            self._bounds = [bound.reshape(-1) for bound in clipping_range(spec, params)]  # (1,) or (C,)

    def observe(self, x: Tensor) -> None:
        """Add a batch, (N, C, ...) float32; for a weight (1, C, ...). In attention, C counts heads.

        Raises:
            CalibrationError: A value is not finite.
        """
        for sample in x.detach():
            rows = sample.reshape(len(sample), -1)  # (C, n)
            if self.histogram is None:
                self.histogram = Histogram(bins_for(len(rows)))
            self.histogram.add(rows)
            self._check_finite(self.histogram)
            if self.role == "activation" and self.kind != "attention":
                self._look_at_positions(rows)
            if self.spec is not None and self._grid is not None:
                self._compare(rows, self.spec, self._grid)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.counts)

    @property
    def counts(self) -> Tensor:
        """The histogram of every channel, (C, bins) int64."""
        assert self.histogram is not None, "values were seen"
        assert self.histogram.counts is not None, "values were seen"
        return self.histogram.counts

    @property
    def values(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    def state_bytes(self) -> int:
        """Return the memory used by the statistics, in bytes."""
        held = [self.clipped, self.power, self.noise]
        if self.histogram is not None:
            held += [self.histogram.counts, self.histogram.exponents, self.histogram.low, self.histogram.high]
        return sum(t.nbytes for t in held if t is not None)

    def summary(self) -> SiteDistribution:
        """Return the site's entry in a record: at most 128 bins, histograms of at most four channels.

        Numbers have six digits; the extremes of the channels have three.
        """
        assert self.histogram is not None, "values were seen"
        lows, highs = (bound.cpu() for bound in self.histogram.range())
        whole = self.histogram.total()
        assert whole.counts is not None
        ratios = _ratios(torch.maximum(lows.abs(), highs.abs()))
        reach = None if self.spec is None or self._grid is None else grid_range(self.spec, self._grid)
        clipped = None if self.clipped is None else int(self.clipped.sum()) / self.values
        return SiteDistribution(
            site=self.site,
            kind=self.kind,
            role=self.role,
            format=None if self.spec is None else self.spec.format,
            per_channel=self.spec is not None and self.spec.per_channel,
            values=self.values,
            low=_short(float(lows.min())),
            high=_short(float(highs.max())),
            grid_low=None if reach is None else _short(float(reach[0].min())),
            grid_high=None if reach is None else _short(float(reach[1].max())),
            clipped=None if clipped is None else _short(clipped),
            sqnr_db=self._sqnr_db(),
            outlier_ratio=None if ratios is None else _short(float(ratios.max())),
            bins=shown_bins(whole.counts[0], float(whole.bin_width())),
            channel_lows=tuple(_short(v, 3) for v in lows.tolist()),
            channel_highs=tuple(_short(v, 3) for v in highs.tolist()),
            outliers=() if ratios is None else self._outliers(ratios, self.histogram),
            position_ratio=None if self.position_ratio is None else _short(self.position_ratio),
        )

    def _look_at_positions(self, rows: Tensor) -> None:
        """Measure the positions of an image, (C, n)."""
        reach = rows.abs().amax(0)
        median = float(reach.median())
        if median > 0:
            self.position_ratio = max(self.position_ratio or 0.0, float(reach.max()) / median)

    def _compare(self, rows: Tensor, spec: TensorSpec, grid: QParams) -> None:
        """Count the clipped values of (C, n), and add up the rounding errors."""
        sums, clipped = compare(rows, fake_quantize(rows, spec, grid), *self._bounds)
        power, noise = sums.sum(0)
        self.power, self.noise = self.power + power, self.noise + noise
        self.clipped = clipped if self.clipped is None else self.clipped + clipped

    def _check_finite(self, histogram: Histogram) -> None:
        low, high = histogram.range()
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            remedy = "the weights are damaged, load them again" if self.role == "weight" else "check the images"
            raise CalibrationError(
                f"values of {self.site} must be finite, got {float(low.min())} to {float(high.max())}: {remedy}"
            )

    def _sqnr_db(self) -> float | None:
        power, noise = float(self.power), float(self.noise)
        return _short(10 * math.log10(power / noise)) if power > 0 and noise > 0 else None

    def _outliers(self, ratios: Tensor, histogram: Histogram) -> tuple[OutlierChannel, ...]:
        counts, widths = self.counts, histogram.bin_width()
        ranked = sorted(range(len(ratios)), key=lambda channel: -float(ratios[channel]))  # stable: ties in order
        return tuple(
            OutlierChannel(
                index=c,
                ratio=_short(float(ratios[c])),
                clipped=None if self.clipped is None else _short(int(self.clipped[c]) / int(counts[c].sum())),
                bins=shown_bins(counts[c], float(widths[c])),
            )
            for c in ranked[:OUTLIERS]
        )


def shown_bins(counts: Tensor, width: float) -> Bins:
    """Return a histogram from its first to its last filled bin; adjacent bins are merged while there are more than 128.

    Args:
        counts: (bins,) int64, not all zero; the middle edge is at zero.
        width: Width of a bin.
    """
    while True:
        filled = counts.nonzero()[:, 0]
        first, last = int(filled[0]), int(filled[-1])
        if last - first < MOST_BINS:
            break
        counts, width = counts.reshape(-1, 2).sum(1), width * 2
    return Bins((first - len(counts) // 2) * width, width, tuple(counts[first : last + 1].tolist()))


def _ratios(largest: Tensor) -> Tensor | None:
    """Return each channel's largest magnitude divided by the median over channels; None if that is zero."""
    median = largest.double().quantile(0.5) if len(largest) else torch.zeros(())
    return largest.double() / median if float(median) > 0 else None


def compare(rows: Tensor, rounded: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """See `quant.kernels.compare`; on other devices, PyTorch operations give the same result."""
    if rows.device.type == "cpu":
        from quantsam.quant import kernels  # imported here, because it compiles on first use

        if kernels.supports(rows):
            return kernels.compare(rows, rounded, low, high)
    squares = [values.double().square().sum(1) for values in (rows, rounded - rows)]
    beyond = (rows < low[:, None]) | (rows > high[:, None])
    return torch.stack(squares, 1), beyond.sum(1)


def _short(value: float, digits: int = 6) -> float:
    """Round to a few significant digits, because a record lists hundreds of thousands of numbers."""
    return float(f"{value:.{digits}g}") + 0.0  # no negative zero
