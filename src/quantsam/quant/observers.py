"""Observers find a tensor's range from a stream of batches, in bounded memory.

Every observer takes batches whose first dimension counts samples. The result does not depend on how a
stream is cut into batches. An observer merges with one that saw the next part of the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from quantsam.errors import CalibrationError, SchemeError, one_of
from quantsam.quant.histogram import NOTHING_SEEN, Histogram
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import params_from_range
from quantsam.quant.scale_search import omse_range, ptf_scale


class Observer(Protocol):
    """Collects the statistics needed to choose a grid."""

    count: int
    """Samples seen."""

    def observe(self, x: Tensor) -> None:
        """Take a batch (N, ...)."""
        ...

    def merge(self, later: Any) -> None:
        """Merge an observer of the same kind that saw the later samples."""
        ...

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value, () or (C,), by this observer's definition."""
        ...

    def params(self, spec: TensorSpec) -> QParams:
        """Return the grid for a specification."""
        ...


def _samples(x: Tensor, axis: int | None) -> Tensor:
    """Reshape (N, ...) to (N, 1, rest) or, with a channel axis, (N, C, rest)."""
    if axis is None:
        return x.detach().reshape(len(x), 1, -1)
    return x.detach().movedim(axis, 1).reshape(len(x), x.shape[axis], -1)


def _check_finite(low: Tensor, high: Tensor) -> None:
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise CalibrationError(
            f"calibration values must be finite, got {float(low.min())} to {float(high.max())}: "
            "check the images and the weights"
        )


_JOINED = 64


class _RangeObserver:
    """Shared by observers whose state is a range. `axis` is the channel axis; the batch dimension is 0."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.count = 0
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def range(self) -> tuple[Tensor, Tensor]:
        if self.low is None or self.high is None:
            raise CalibrationError(NOTHING_SEEN)
        if self.axis is None:
            return self.low.reshape(()), self.high.reshape(())
        return self.low, self.high

    def params(self, spec: TensorSpec) -> QParams:
        low, high = self.range()
        _check_finite(low, high)
        return params_from_range(low, high, spec, self.axis)

    def _extrema(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value of each sample, (N, 1) or (N, C)."""
        x = x.detach()
        if self.axis is None:
            pairs = [torch.aminmax(sample) for sample in x]
            return torch.stack([p.min for p in pairs])[:, None], torch.stack([p.max for p in pairs])[:, None]
        rest = [d for d in range(x.ndim) if d not in (0, self.axis % x.ndim)]
        return (x.amin(rest), x.amax(rest)) if rest else (x, x)


class MinMaxObserver(_RangeObserver):
    """Keeps the extremes."""

    def observe(self, x: Tensor) -> None:
        """Take a batch (N, ...)."""
        if not len(x):
            return
        low, high = self._extrema(x)
        self._take(low.amin(0), high.amax(0), len(x))

    def merge(self, later: MinMaxObserver) -> None:
        """Merge the later part's extremes."""
        if later.low is not None and later.high is not None:
            self._take(later.low, later.high, later.count)

    def _take(self, low: Tensor, high: Tensor, count: int) -> None:
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.count += count


class EmaObserver(_RangeObserver):
    """Moving average of each sample's extremes: the first sample sets it, each later sample moves it a little.

    The average is updated sample by sample, so it does not depend on the batch size. Every sample's extremes are kept,
    a few bytes each. Merging replays them and gives the same result to the last bit.
    """

    momentum = 0.01

    def __init__(self, axis: int | None = None) -> None:
        super().__init__(axis)
        self._seen: list[tuple[Tensor, Tensor]] = []  # lows and highs of some samples each

    def observe(self, x: Tensor) -> None:
        """Take a batch (N, ...), sample by sample."""
        if len(x):
            self._move(*self._extrema(x))

    def merge(self, later: EmaObserver) -> None:
        """Merge the later part's samples, as if they came now."""
        for lows, highs in list(later._seen):
            self._move(lows, highs)

    def _move(self, lows: Tensor, highs: Tensor) -> None:
        for low, high in zip(lows, highs, strict=True):
            if self.low is None or self.high is None:
                self.low, self.high = low.clone(), high.clone()
            else:
                self.low = self.low + self.momentum * (low - self.low)
                self.high = self.high + self.momentum * (high - self.high)
            self.count += 1
        self._seen.append((lows, highs))
        if len(self._seen) > _JOINED:  # one large tensor takes less memory than many small ones
            self._seen = [(torch.cat([low for low, _ in self._seen]), torch.cat([high for _, high in self._seen]))]


class PercentileObserver(EmaObserver):
    """Like `EmaObserver`, but averages each sample's 0.00001 and 0.99999 quantiles (linear interpolation)."""

    quantile = 0.99999

    def _extrema(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = _samples(x, self.axis)  # (N, C, rest)
        return -_upper_quantile(-values, self.quantile), _upper_quantile(values, self.quantile)


def _upper_quantile(values: Tensor, quantile: float) -> Tensor:
    """Return a quantile over the last dimension from its few largest values; NaN or infinity if the largest is."""
    size = values.shape[-1]
    position = (1 - quantile) * (size - 1)  # counted from the largest value
    below = int(position)
    top = values.topk(min(below + 2, size), dim=-1).values
    if size == 1:
        return top[..., 0]
    found = torch.lerp(top[..., below], top[..., min(below + 1, size - 1)], position - below)
    return torch.where(torch.isfinite(top[..., 0]), found, top[..., 0])


class _HistogramObserver:
    """Shared by observers that search a grid over the distribution."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.count = 0
        self.histogram = Histogram()

    def observe(self, x: Tensor) -> None:
        if not len(x):
            return
        self.histogram.add(_samples(x, self.axis).transpose(0, 1).flatten(1))  # (C or 1, all values)
        self.count += len(x)

    def merge(self, later: _HistogramObserver) -> None:
        self.histogram.merge(later.histogram)
        self.count += later.count

    def range(self) -> tuple[Tensor, Tensor]:
        low, high = self.histogram.range()
        return (low.reshape(()), high.reshape(())) if self.axis is None else (low, high)


class OmseObserver(_HistogramObserver):
    """Tries 90 ranges in steps of 1 % and keeps the one with the least squared error (Choukroun et al., 2019)."""

    def params(self, spec: TensorSpec) -> QParams:
        """Return the grid with the least squared error."""
        _check_finite(*self.range())
        low, high = omse_range(self.histogram, spec)
        if self.axis is None:
            low, high = low.reshape(()), high.reshape(())
        return params_from_range(low, high, spec, self.axis)


class PtfObserver(_HistogramObserver):
    """Power-of-two factors: one scale for the tensor, times 1, 2, 4 or 8 per channel (FQ-ViT, Lin et al., 2022).

    It needs a channel axis. It keeps each channel's distribution, and chooses the factor with the least
    squared error.
    """

    def __init__(self, axis: int | None = None) -> None:
        if axis is None:
            raise SchemeError("observer 'ptf' must be per channel, got per tensor: set per_channel = true")
        super().__init__(axis)

    def params(self, spec: TensorSpec) -> QParams:
        """Return the tensor's grid with a factor per channel."""
        _check_finite(*self.range())
        scale, zero_point = ptf_scale(self.histogram, spec)
        return QParams(scale, zero_point, self.axis)


OBSERVERS: dict[str, Callable[[int | None], Observer]] = {
    "minmax": MinMaxObserver,
    "ema": EmaObserver,
    "percentile": PercentileObserver,
    "omse": OmseObserver,
    "ptf": PtfObserver,
}


def make_observer(name: str, axis: int | None = None) -> Observer:
    """Make an observer.

    Args:
        name: A key of `OBSERVERS`.
        axis: The channel axis of the observed batches, counting the batch dimension as 0; None for one
            range for the whole tensor.

    Raises:
        SchemeError: No observer has that name, or the observer needs an axis.
    """
    if name not in OBSERVERS:
        raise SchemeError(one_of("observer", name, OBSERVERS))
    return OBSERVERS[name](axis)
