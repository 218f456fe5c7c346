"""Search a histogram for the grid with the least squared error."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from quantsam.quant.histogram import Histogram
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import EPS, dequantize, params_from_range, quantize

_SHRINKS = tuple(1 - 0.01 * step for step in range(90))
_PTF_FACTORS = 4
_CHUNK = 256  # channels per step: bounds the memory of the search


def _error(values: Tensor, counts: Tensor, spec: TensorSpec, params: QParams) -> Tensor:
    """Sum each bin's count times its squared rounding error, (C,) float64."""
    rounded = dequantize(quantize(values, spec, params), spec, params)
    return ((rounded - values).double().square() * counts).sum(1)


def omse_range(histogram: Histogram, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    """Return the shrunken range with the least squared error of each row: low (C,) and high (C,)."""
    low, high = histogram.range()
    centres = histogram.centres()
    assert histogram.counts is not None
    best = torch.ones_like(low)
    for start in range(0, len(low), _CHUNK):
        rows = slice(start, start + _CHUNK)
        counts = histogram.counts[rows]
        values = centres[rows]
        least = torch.full((len(counts),), torch.inf, dtype=torch.float64, device=low.device)
        for shrink in _SHRINKS:
            params = params_from_range(low[rows] * shrink, high[rows] * shrink, spec, 0)
            error = _error(values, counts, spec, params)
            better = error < least
            least = torch.where(better, error, least)
            best[rows] = torch.where(better, torch.full_like(best[rows], shrink), best[rows])
    return low * best, high * best


def ptf_scale(histogram: Histogram, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    """Return each row's scale and zero point: the tensor's scale over 8, times 1, 2, 4 or 8."""
    low, high = histogram.range()
    whole = params_from_range(low.min(), high.max(), dataclasses.replace(spec, per_channel=False), None)
    finest = (whole.scale / 2 ** (_PTF_FACTORS - 1)).clamp(min=EPS)
    zero_point = whole.zero_point.expand(len(low)).contiguous()
    assert histogram.counts is not None
    values = histogram.centres()
    errors = torch.stack(
        [
            _error(values, histogram.counts, spec, QParams((finest * 2**k).expand(len(low)), zero_point, 0))
            for k in range(_PTF_FACTORS)
        ]
    )
    return finest * 2.0 ** errors.argmin(0), zero_point
