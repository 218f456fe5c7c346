"""Quantizers: float -> codes -> float. `quantize` gives codes, `fake_quantize` the floats they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from quantsam.quant.formats import FLOAT8_DTYPES, Format
from quantsam.quant.params import QParams, TensorSpec


def quantize(x: Tensor, spec: TensorSpec, params: QParams) -> Tensor:
    """Return the codes of a tensor.

    Args:
        x: Float tensor of any shape. Infinity saturates; NaN has no code in an integer format and gets
            `qmin` (`uniform`) or zero (`log2`), in `float8` it stays NaN.
        spec: Format and quantizer.
        params: Its grid; `axis` counts in `x`'s dimensions.

    Returns:
        int32 codes for `uniform` and `log2` (for `log2`, -1 stands for zero); for `float8` a tensor
        of PyTorch's 8-bit float type.
    """
    scale, zero_point = params.broadcast(x.ndim)
    fmt = spec.fmt
    if spec.quantizer == "float8":
        return (x / scale).clamp(fmt.qmin, fmt.qmax).to(FLOAT8_DTYPES[fmt.name])
    if spec.quantizer == "log2":
        return _log2_codes(x, scale, fmt.num_bits)
    return _uniform_codes(x, scale, zero_point, fmt).nan_to_num(nan=fmt.qmin).to(torch.int32)


def dequantize(codes: Tensor, spec: TensorSpec, params: QParams) -> Tensor:
    """Return the floats that codes from `quantize` stand for, float32."""
    scale, zero_point = params.broadcast(codes.ndim)
    if spec.quantizer == "float8":
        return codes.float() * scale
    if spec.quantizer == "log2":
        return torch.where(codes < 0, torch.zeros_like(scale), torch.exp2(-codes.float()) * scale)
    return (codes - zero_point).float() * scale


def _uniform_codes(x: Tensor, scale: Tensor, zero_point: Tensor, fmt: Format) -> Tensor:
    """Codes as floats; NaN stays NaN."""
    return (torch.round(x / scale) + zero_point).clamp(fmt.qmin, fmt.qmax)


def _log2_codes(x: Tensor, scale: Tensor, num_bits: int) -> Tensor:
    """Codes `round(-log2(x / scale))`; exponents of 2^bits and more, zero and negative values become -1."""
    exponent = torch.round(-torch.log2(x / scale))
    alive = exponent < 2**num_bits  # log2 of 0 is -inf and of a negative value NaN: neither is alive
    return torch.where(alive, exponent.clamp(0, 2**num_bits - 1), torch.full_like(exponent, -1)).to(torch.int32)


def fake_quantize(x: Tensor, spec: TensorSpec, params: QParams) -> Tensor:
    """Round a tensor to its grid, staying in float32.

    On the processor uniform quantization is one pass of a compiled kernel; elsewhere PyTorch's
    operations give the same values.

    Args:
        x: float32 tensor of any shape.
        spec: Format and quantizer.
        params: Its grid; `axis` counts in `x`'s dimensions.

    Returns:
        float32 tensor of the same shape. For `uniform`, the error of a value inside the range is at most
        scale / 2; infinity saturates, NaN stays NaN.
    """
    fmt = spec.fmt
    if spec.quantizer == "uniform" and x.device.type == "cpu":
        from quantsam.quant import kernels  # compiles on first use: not at import

        if kernels.supports(x):
            return kernels.fake_quantize_uniform(x, params.scale, params.zero_point, params.axis, fmt.qmin, fmt.qmax)
    if spec.quantizer == "uniform":
        scale, zero_point = params.broadcast(x.ndim)
        return (_uniform_codes(x, scale, zero_point, fmt) - zero_point).float() * scale
    return dequantize(quantize(x, spec, params), spec, params)
