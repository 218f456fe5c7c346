"""The reach of a grid: its outermost values, and the bounds beyond which values are clipped, not rounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantsam.quant.formats import FLOAT8_DTYPES, Format
from quantsam.quant.params import QParams, TensorSpec

_SLACK = 2.0**-22  # share of a grid's span: a scale is float32 and may be an ulp too small for its own range


def grid_range(spec: TensorSpec, params: QParams) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of a grid, each () or (C,) float32.

    Quantizers clamp to these values. The lowest code counts even for a narrow grid: only the grid's scale leaves that
    code out.

    >>> spec = TensorSpec("int8", "minmax", symmetric=True, per_channel=False)
    >>> low, high = grid_range(spec, QParams(torch.tensor(2.0), torch.tensor(0, dtype=torch.int32), None))
    >>> low.item(), high.item()
    (-256.0, 254.0)
    """
    low, high = _ends(spec, params)
    return low.float(), high.float()


def clipping_range(spec: TensorSpec, params: QParams) -> tuple[Tensor, Tensor]:
    """Return the range outside which values are clipped, each bound () or (C,) float32.

    The range reaches half a step beyond the grid on either side. A value there is no further from the grid than a value
    midway between two codes, so it is rounded. Only beyond the range is an error larger than any rounding error.
    A symmetric int8 grid, whose scale is 1/127.5 of the largest value, therefore clips none of its calibration values,
    although its largest code is 127. Half a step is `scale / 2`; for 8-bit floats, half the distance between the two
    largest values; for `log2`, half a power of two above. `log2` has no negative values: it clips a negative value if
    its magnitude has a code other than zero's.
    """
    low, high = _ends(spec, params)
    scale = params.scale.double()
    if spec.quantizer == "log2":
        return (-scale * 2.0 ** -(2**spec.fmt.num_bits - 0.5)).float(), (high * math.sqrt(2)).float()
    reach = (high - low) * _SLACK + scale * (_last_step(spec.fmt) / 2)
    return (low - reach).float(), (high + reach).float()


def _ends(spec: TensorSpec, params: QParams) -> tuple[Tensor, Tensor]:
    scale, fmt = params.scale.double(), spec.fmt
    if spec.quantizer == "log2":
        return torch.zeros_like(scale), scale
    return (fmt.qmin - params.zero_point) * scale, (fmt.qmax - params.zero_point) * scale


def _last_step(fmt: Format) -> float:
    """Return the distance between the two largest codes, in units of the scale."""
    if fmt.kind == "int":
        return 1.0
    return torch.finfo(FLOAT8_DTYPES[fmt.name]).eps * 2.0 ** math.floor(math.log2(fmt.qmax))
