"""What a grid reaches: its outermost values, and from where on a value is clipped rather than rounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantsam.quant.formats import FLOAT8_DTYPES, Format
from quantsam.quant.params import QParams, TensorSpec

_SLACK = 2.0**-22  # of a grid's span: a scale is float32 and may be an ulp too small for its own range


def grid_range(spec: TensorSpec, params: QParams) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of a grid, each () or (C,) float32.

    Those that the quantizers clamp to: of a narrow grid too the lowest code counts, as it is only its scale that leaves
    that code out.

    >>> spec = TensorSpec("int8", "minmax", symmetric=True, per_channel=False)
    >>> low, high = grid_range(spec, QParams(torch.tensor(2.0), torch.tensor(0, dtype=torch.int32), None))
    >>> low.item(), high.item()
    (-256.0, 254.0)
    """
    low, high = _ends(spec, params)
    return low.float(), high.float()


def clipping_range(spec: TensorSpec, params: QParams) -> tuple[Tensor, Tensor]:
    """Return the range outside of which values are clipped, each bound () or (C,) float32.

    It reaches half a step beyond the grid on either side: a value in between is no further from the grid than one in
    the middle of two codes, so it is rounded. Only further out an error is larger than any rounding error. A symmetric
    int8 grid, whose scale is 127.5th of the largest value, so clips nothing of what it was calibrated on, although
    its largest code is 127. Half a step is `scale / 2`; of 8-bit floats, half the distance of the two largest values;
    of `log2`, half a power of two above. `log2` has no negative values: those are clipped that would have a code other
    than zero's if they were positive.
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
    """Distance of the two largest codes, in scales."""
    if fmt.kind == "int":
        return 1.0
    return torch.finfo(FLOAT8_DTYPES[fmt.name]).eps * 2.0 ** math.floor(math.log2(fmt.qmax))
