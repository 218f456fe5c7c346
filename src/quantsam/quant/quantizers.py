"""Quantizers: range -> grid, float -> codes -> float. Each is one value in one registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantsam.quant.formats import FLOAT8_DTYPES, Format
from quantsam.quant.params import QParams, QuantizerName, TensorSpec

EPS = torch.finfo(torch.float32).eps
"""Smallest allowed scale."""


@dataclass(frozen=True, slots=True)
class Quantizer:
    """How values become codes of a format and back.

    Attributes:
        name: Its name in schemes.
        format_kind: Kind of the formats it supports.
        is_linear: Codes count steps of one scale, so ONNX's QuantizeLinear can express the quantizer.
        grid: Maps the smallest and the largest value, () or (C,), to scale and zero point, before the scale's lower
            bound is applied.
        codes: Maps values, scale, zero point and format to codes.
        values: Maps codes, scale and zero point to float32.
    """

    name: QuantizerName
    format_kind: Literal["int", "float"]
    is_linear: bool
    grid: Callable[[Tensor, Tensor, TensorSpec], tuple[Tensor, Tensor]]
    codes: Callable[[Tensor, Tensor, Tensor, Format], Tensor]
    values: Callable[[Tensor, Tensor, Tensor], Tensor]

    @property
    def is_integer(self) -> bool:
        """Whether integer kernels can multiply its codes."""
        return self.is_linear and self.format_kind == "int"


def _largest(low: Tensor, high: Tensor) -> Tensor:
    return torch.maximum(low.abs(), high.abs())


def _uniform_grid(low: Tensor, high: Tensor, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    fmt = spec.fmt
    if spec.symmetric:
        scale = _largest(low, high) / (float(fmt.qmax) if spec.narrow else float(fmt.qmax - fmt.qmin) / 2)
        middle = 0 if fmt.signed else fmt.levels // 2
        return scale, torch.full_like(low, middle, dtype=torch.int32)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (fmt.qmax - fmt.qmin)
    codes = fmt.qmin - torch.round(low / scale.clamp(min=EPS))
    return scale, codes.clamp(fmt.qmin, fmt.qmax).to(torch.int32)


def _uniform_codes(x: Tensor, scale: Tensor, zero_point: Tensor, fmt: Format) -> Tensor:
    """Codes as floats; NaN stays NaN."""
    return (torch.round(x / scale) + zero_point).clamp(fmt.qmin, fmt.qmax)


def _uniform_integers(x: Tensor, scale: Tensor, zero_point: Tensor, fmt: Format) -> Tensor:
    return _uniform_codes(x, scale, zero_point, fmt).nan_to_num(nan=fmt.qmin).to(torch.int32)


def _uniform_values(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return (codes - zero_point).float() * scale


def _log2_grid(low: Tensor, high: Tensor, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    return _largest(low, high), torch.zeros_like(low, dtype=torch.int32)


def _log2_codes(x: Tensor, scale: Tensor, zero_point: Tensor, fmt: Format) -> Tensor:
    """Return codes `round(-log2(x / scale))`; exponents from 2^bits on, zero and negative values become -1."""
    exponent = torch.round(-torch.log2(x / scale))
    alive = exponent < 2**fmt.num_bits  # log2 of 0 is -inf and of a negative value NaN: neither is alive
    return torch.where(alive, exponent.clamp(0, 2**fmt.num_bits - 1), torch.full_like(exponent, -1)).to(torch.int32)


def _log2_values(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.where(codes < 0, torch.zeros_like(scale), torch.exp2(-codes.float()) * scale)


def _float8_grid(low: Tensor, high: Tensor, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    return _largest(low, high) / spec.fmt.qmax, torch.zeros_like(low, dtype=torch.int32)


def _float8_codes(x: Tensor, scale: Tensor, zero_point: Tensor, fmt: Format) -> Tensor:
    return (x / scale).clamp(fmt.qmin, fmt.qmax).to(FLOAT8_DTYPES[fmt.name])


def _float8_values(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return codes.float() * scale


QUANTIZERS: dict[QuantizerName, Quantizer] = {
    "uniform": Quantizer("uniform", "int", True, _uniform_grid, _uniform_integers, _uniform_values),
    "log2": Quantizer("log2", "int", False, _log2_grid, _log2_codes, _log2_values),
    "float8": Quantizer("float8", "float", True, _float8_grid, _float8_codes, _float8_values),
}
"""Quantizers by name; the first that supports a format is its default."""


def quantizers_of(fmt: Format) -> list[QuantizerName]:
    """Return the names of the quantizers that support a format, the default first."""
    return [name for name, quantizer in QUANTIZERS.items() if quantizer.format_kind == fmt.kind]


def params_from_range(low: Tensor, high: Tensor, spec: TensorSpec, axis: int | None) -> QParams:
    """Turn a range into a scale and a zero point.

    Symmetric integer formats: `scale = max(|low|, |high|) / ((qmax - qmin) / 2)`, zero point 0 (FQ-ViT,
    Lin et al., 2022: half of the whole grid, so that int8 divides by 127.5), or `/ qmax` if `narrow`. Affine integer
    formats: the range is widened to hold 0, `scale = (high - low) / (qmax - qmin)`. Float formats: the largest
    magnitude maps to the largest finite value. A scale is never below float32's epsilon.

    Args:
        low: Smallest value, () or (C,).
        high: Largest value, the same shape.
        spec: Format and symmetry.
        axis: The channel axis; None for (). It is only passed on.

    >>> from quantsam.quant.params import TensorSpec
    >>> spec = TensorSpec("int8", "minmax", symmetric=True, per_channel=False)
    >>> params_from_range(torch.tensor(-1.0), torch.tensor(255.0), spec, None).scale  # 255 / 127.5
    tensor(2.)
    """
    scale, zero_point = QUANTIZERS[spec.quantizer].grid(low, high, spec)
    return QParams(scale.clamp(min=EPS).to(torch.float32), zero_point, axis)


def range_from_params(params: QParams, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    """Return the range that yields a uniform grid again: low and high, () or (C,).

    >>> from quantsam.quant.params import TensorSpec
    >>> spec = TensorSpec("int8", "minmax", symmetric=True, per_channel=False)
    >>> range_from_params(QParams(torch.tensor(2.0), torch.tensor(0), None), spec)
    (tensor(-255.), tensor(255.))
    """
    fmt = spec.fmt
    if spec.symmetric:
        high = params.scale * (float(fmt.qmax) if spec.narrow else float(fmt.qmax - fmt.qmin) / 2)
        return -high, high
    zero_point = params.zero_point.to(params.scale)
    return params.scale * (fmt.qmin - zero_point), params.scale * (fmt.qmax - zero_point)


def quantize(x: Tensor, spec: TensorSpec, params: QParams) -> Tensor:
    """Return the codes of a tensor.

    Args:
        x: Float tensor of any shape. Infinity saturates. NaN has no code in an integer format: it gets
            `qmin` (`uniform`) or zero (`log2`). In `float8` it stays NaN.
        spec: Format and quantizer.
        params: Its grid; `axis` counts in `x`'s dimensions.

    Returns:
        int32 codes for `uniform` and `log2` (for `log2`, -1 stands for zero); for `float8` a tensor
        of PyTorch's 8-bit float type.
    """
    return QUANTIZERS[spec.quantizer].codes(x, *params.broadcast(x.ndim), spec.fmt)


def dequantize(codes: Tensor, spec: TensorSpec, params: QParams) -> Tensor:
    """Return the float32 values of codes from `quantize`."""
    return QUANTIZERS[spec.quantizer].values(codes, *params.broadcast(codes.ndim))


def fake_quantize(x: Tensor, spec: TensorSpec, params: QParams) -> Tensor:
    """Round a tensor to its grid, staying in float32.

    On the processor, a compiled kernel does uniform quantization in one pass. On other devices, PyTorch's
    operations give the same values.

    Args:
        x: float32 tensor of any shape.
        spec: Format and quantizer.
        params: Its grid; `axis` counts in `x`'s dimensions.

    Returns:
        float32 tensor of the same shape. For `uniform`, the error of a value inside the range is at most
        scale / 2; infinity saturates, NaN stays NaN.
    """
    if not QUANTIZERS[spec.quantizer].is_integer:
        return dequantize(quantize(x, spec, params), spec, params)
    fmt = spec.fmt
    if x.device.type == "cpu":
        from quantsam.quant import kernels  # compiles on first use: not at import

        if kernels.supports(x):
            return kernels.fake_quantize_uniform(x, params.scale, params.zero_point, params.axis, fmt.qmin, fmt.qmax)
    scale, zero_point = params.broadcast(x.ndim)
    return (_uniform_codes(x, scale, zero_point, fmt) - zero_point).float() * scale
