"""A histogram of a stream whose range is not known beforehand; merges exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantsam.errors import CalibrationError

_TENSOR_BINS = 16384
_CHANNEL_BINS = 2048
_SMALLEST_EXPONENT = -126


class Histogram:
    """Counts over [-2^k, 2^k); k grows with the data, and pairs of bins are then added up.

    Because ranges are powers of two, the bins of any two histograms of one kind line up: merging is
    exact and independent of order. Rows are channels; a single row has more bins.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None  # (C, bins) int64
        self.low: Tensor | None = None  # (C,) exact extremes
        self.high: Tensor | None = None
        self.exponent = _SMALLEST_EXPONENT

    def add(self, values: Tensor) -> None:
        """Count values.

        Args:
            values: (C, n) float.

        Raises:
            CalibrationError: A value is not finite.
        """
        low, high = values.amin(1), values.amax(1)
        largest = max(abs(float(low.min())), abs(float(high.max())))
        if not math.isfinite(largest):
            raise CalibrationError(f"calibration values must be finite, got {largest}: check images and weights")
        if self.counts is None:
            bins = _TENSOR_BINS if len(values) == 1 else _CHANNEL_BINS
            self.counts = torch.zeros(len(values), bins, dtype=torch.int64, device=values.device)
            self.low, self.high = low, high
        else:
            self.low, self.high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        if largest >= 2.0**self.exponent:
            self._grow(math.frexp(largest)[1])
        bins = self.counts.shape[1]
        half = bins // 2
        index = torch.floor(values.double() * (half / 2.0**self.exponent)).long().add_(half).clamp_(0, bins - 1)
        index += torch.arange(len(values), device=values.device)[:, None] * bins
        self.counts += torch.bincount(index.flatten(), minlength=self.counts.numel()).reshape(self.counts.shape)

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts."""
        if other.counts is None:
            return
        if self.counts is None:
            self.counts, self.exponent = other.counts.clone(), other.exponent
            self.low, self.high = other._low.clone(), other._high.clone()
            return
        top = max(self.exponent, other.exponent)
        self._grow(top)
        self.counts += _coarsened(other.counts, top - other.exponent)
        self.low, self.high = torch.minimum(self._low, other._low), torch.maximum(self._high, other._high)

    def range(self) -> tuple[Tensor, Tensor]:
        """Return each row's smallest and largest value, (C,)."""
        return self._low, self._high

    def centres(self) -> Tensor:
        """Return the value each bin stands for, (bins,) float32."""
        if self.counts is None:
            raise CalibrationError("an observer must see at least one sample, got none: calibrate with images")
        bins = self.counts.shape[1]
        index = torch.arange(bins, device=self.counts.device, dtype=torch.float64) - bins // 2 + 0.5
        return (index * (2.0**self.exponent / (bins // 2))).float()

    @property
    def _low(self) -> Tensor:
        if self.low is None:
            raise CalibrationError("an observer must see at least one sample, got none: calibrate with images")
        return self.low

    @property
    def _high(self) -> Tensor:
        if self.high is None:
            raise CalibrationError("an observer must see at least one sample, got none: calibrate with images")
        return self.high

    def _grow(self, exponent: int) -> None:
        if exponent > self.exponent and self.counts is not None:
            self.counts = _coarsened(self.counts, exponent - self.exponent)
        self.exponent = max(self.exponent, exponent)


def _coarsened(counts: Tensor, doublings: int) -> Tensor:
    """Counts over a range 2^doublings times as wide, with as many bins."""
    rows, bins = counts.shape
    half = bins // 2
    for _ in range(min(doublings, half.bit_length())):
        pairs = counts.reshape(rows, half, 2).sum(2)
        counts = torch.zeros_like(counts)
        counts[:, half // 2 : half // 2 + half] = pairs
    return counts
