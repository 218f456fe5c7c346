"""A histogram of a stream whose range is not known beforehand; merges exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantsam.errors import CalibrationError

_TENSOR_BINS = 16384
_CHANNEL_BINS = 2048
_SMALLEST_EXPONENT = -126
NOTHING_SEEN = "an observer must see at least one sample, got none: calibrate with images"


class Histogram:
    """Counts over [-2^k, 2^k) for each row; k grows with the row's data, and pairs of bins are then added up.

    Because ranges are powers of two, the bins of any two histograms of one kind line up: merging is
    exact and independent of order. Rows are channels; a single row has more bins.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None  # (C, bins) int64
        self.low: Tensor | None = None  # (C,) exact extremes
        self.high: Tensor | None = None
        self.exponents: Tensor | None = None  # (C,) int64, k of each row

    def add(self, values: Tensor) -> None:
        """Count values.

        Args:
            values: (C, n) float, n > 0. If one is not finite, `range` shows it and nothing is counted.
        """
        low, high = values.amin(1), values.amax(1)
        if self.counts is None or self.exponents is None:
            bins = _TENSOR_BINS if len(values) == 1 else _CHANNEL_BINS
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
        bins = counts.shape[1]
        half = bins // 2
        index = torch.floor(values.double() * (half / _power_of_two(self.exponents))).long().add_(half)
        index += torch.arange(len(values), device=values.device)[:, None] * bins
        self.counts = counts + torch.bincount(index.flatten(), minlength=counts.numel()).reshape(counts.shape)

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts."""
        if other.counts is None or other.exponents is None:
            return
        if self.counts is None:
            self.counts, self.exponents = other.counts, other.exponents
            self.low, self.high = other.low, other.high
            return
        counts = self._grow(other.exponents)
        assert self.exponents is not None
        self.counts = counts + _coarsened(other.counts, self.exponents - other.exponents)
        self.low, self.high = torch.minimum(self._low, other._low), torch.maximum(self._high, other._high)

    def range(self) -> tuple[Tensor, Tensor]:
        """Return each row's smallest and largest value, (C,)."""
        return self._low, self._high

    def centres(self) -> Tensor:
        """Return the value each bin stands for, (C, bins) float32."""
        if self.counts is None or self.exponents is None:
            raise CalibrationError(NOTHING_SEEN)
        bins = self.counts.shape[1]
        index = torch.arange(bins, device=self.counts.device, dtype=torch.float64) - bins // 2 + 0.5
        return (index * (_power_of_two(self.exponents) / (bins // 2))).float()

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


def _power_of_two(exponents: Tensor) -> Tensor:
    """Exact 2^k, (C, 1) float64."""
    powers = [math.ldexp(1.0, k) for k in exponents.tolist()]
    return torch.tensor(powers, dtype=torch.float64, device=exponents.device)[:, None]


def _coarsened(counts: Tensor, doublings: Tensor) -> Tensor:
    """Counts with each row's range 2^doublings times as wide, with as many bins."""
    half = counts.shape[1] // 2
    remaining = doublings.clamp(max=half.bit_length())  # by then all counts are in the middle two bins
    for step in range(int(remaining.max())):
        rows = remaining > step
        pairs = counts[rows].reshape(-1, half, 2).sum(2)
        counts = counts.clone()
        counts[rows] = torch.nn.functional.pad(pairs, (half // 2, half // 2))
    return counts
