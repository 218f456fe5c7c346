"""A histogram of a stream whose range is not known beforehand. Histograms merge exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from quantsam.errors import CalibrationError

_TENSOR_BINS = 16384
_CHANNEL_BINS = 2048
_SMALLEST_EXPONENT = -126
NOTHING_SEEN = "an observer must see at least one sample, got none: calibrate with images"


class Histogram:
    """Counts over [-2^k, 2^k) per row. k grows with the row's data; pairs of bins are then added up.

    Ranges are powers of two, so the bins of any two histograms of one kind line up. Merging is therefore
    exact and independent of order. Rows are channels.

    Args:
        bins: Number of bins per row, a power of two, at least 4. Default: 16,384 for a single row, 2,048 for several.
    """

    def __init__(self, bins: int | None = None) -> None:
        assert bins is None or (bins >= 4 and bins.bit_count() == 1), "pairs of bins must add up again and again"
        self._bins = bins
        self.counts: Tensor | None = None  # (C, bins) int64
        self.low: Tensor | None = None  # (C,) exact extremes
        self.high: Tensor | None = None
        self.exponents: Tensor | None = None  # (C,) int64, k of each row

    def add(self, values: Tensor) -> None:
        """Count values.

        Args:
            values: (C, n) float, n > 0. If a value is not finite, nothing is counted, but `range` shows the value.
        """
        low, high = values.amin(1), values.amax(1)
        if self.counts is None or self.exponents is None:
            bins = self._bins or (_TENSOR_BINS if len(values) == 1 else _CHANNEL_BINS)
            self.counts = torch.zeros(len(values), bins, dtype=torch.int64, device=values.device)
            self.exponents = torch.full((len(values),), _SMALLEST_EXPONENT, device=values.device)
            self.low, self.high = low, high
        else:
            self.low, self.high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        largest = torch.maximum(low.abs(), high.abs())
        if not torch.isfinite(largest).all():
            return
        needed = torch.where(largest > 0, torch.frexp(largest).exponent, _SMALLEST_EXPONENT)
        counts = self._grow(needed)
        self.counts = _counted(counts, values, counts.shape[1] // 2 / _power_of_two(self.exponents))

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts."""
        if other.counts is None or other.exponents is None:
            return
        if self.counts is None:
            self.counts, self.exponents = other.counts.clone(), other.exponents  # counts alone are changed in place
            self.low, self.high = other.low, other.high
            return
        assert self.counts.shape == other.counts.shape, "histograms of one kind have the same rows and bins"
        counts = self._grow(other.exponents)
        assert self.exponents is not None
        self.counts = counts + _coarsened(other.counts, self.exponents - other.exponents)
        self.low, self.high = torch.minimum(self._low, other._low), torch.maximum(self._high, other._high)

    def total(self) -> Histogram:
        """Return one row for all rows together, the same as if all values had been in a single row."""
        if self.counts is None or self.exponents is None:
            raise CalibrationError(NOTHING_SEEN)
        whole = Histogram(self.counts.shape[1])
        whole.exponents = self.exponents.amax(0, keepdim=True)
        _, bins, found = _moved(self.counts, whole.exponents - self.exponents)
        whole.counts = torch.zeros_like(self.counts[:1])
        whole.counts[0].index_add_(0, bins, found)
        whole.low, whole.high = self._low.amin(0, keepdim=True), self._high.amax(0, keepdim=True)
        return whole

    def bin_width(self) -> Tensor:
        """Return the width of each row's bins, (C,) float64, a power of two; bin `bins / 2` begins at zero."""
        if self.counts is None or self.exponents is None:
            raise CalibrationError(NOTHING_SEEN)
        return _power_of_two(self.exponents) / (self.counts.shape[1] // 2)

    def range(self) -> tuple[Tensor, Tensor]:
        """Return each row's smallest and largest value, (C,)."""
        return self._low, self._high

    def centres(self) -> Tensor:
        """Return the value each bin stands for, (C, bins) float32."""
        if self.counts is None or self.exponents is None:
            raise CalibrationError(NOTHING_SEEN)
        bins = self.counts.shape[1]
        index = torch.arange(bins, device=self.counts.device, dtype=torch.float64) - bins // 2 + 0.5
        return (index * self.bin_width()[:, None]).float()

    @property
    def _low(self) -> Tensor:
        if self.low is None:
            raise CalibrationError(NOTHING_SEEN)
        return self.low

    @property
    def _high(self) -> Tensor:
        if self.high is None:
            raise CalibrationError(NOTHING_SEEN)
        return self.high

    def _grow(self, needed: Tensor) -> Tensor:
        """Widen each row to at least 2^needed; return the counts."""
        assert self.counts is not None
        assert self.exponents is not None
        wider = torch.maximum(self.exponents, needed)
        self.counts = _coarsened(self.counts, wider - self.exponents)
        self.exponents = wider
        return self.counts


def _counted(counts: Tensor, values: Tensor, bins_per_unit: Tensor) -> Tensor:
    """Add the counts of values (C, n) to counts (C, bins), perhaps in place; float64 makes the products exact."""
    if values.device.type == "cpu":
        from quantsam.quant import kernels  # compiles on first use: not at import

        if kernels.supports(values):
            kernels.count_(counts, values, bins_per_unit)
            return counts
    rows, bins = counts.shape
    index = torch.floor(values.double() * bins_per_unit[:, None]).long().add_(bins // 2)
    index += torch.arange(rows, device=values.device)[:, None] * bins
    return counts + torch.bincount(index.flatten(), minlength=counts.numel()).reshape(counts.shape)


def _power_of_two(exponents: Tensor) -> Tensor:
    """Return 2^k exactly for k in -1022 ... 1023, float64: write k into the exponent bits."""
    return ((exponents + 1023) << 52).view(torch.float64)


def _coarsened(counts: Tensor, doublings: Tensor) -> Tensor:
    """Return the counts when each row's range gets 2^doublings times as wide and keeps its number of bins."""
    grown = doublings.nonzero()[:, 0]
    if not len(grown):
        return counts
    rows, bins, found = _moved(counts[grown], doublings[grown])
    if not len(rows):
        return counts  # a histogram's first values: there is nothing to move yet
    counts = counts.clone()
    counts[grown] = 0
    return counts.index_put_((grown[rows], bins), found, accumulate=True)


def _moved(counts: Tensor, doublings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, new bin and count of every filled bin when each row's range gets 2^doublings times as wide."""
    half = counts.shape[1] // 2
    rows, bins = counts.nonzero(as_tuple=True)
    most = half.bit_length()  # by then all counts are in the middle two bins
    return rows, ((bins - half) >> doublings.clamp(max=most)[rows]) + half, counts[rows, bins]
