"""From ranges to scales and zero points, and the specification of one quantized tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantsam.quant.formats import Format, get_format

EPS = torch.finfo(torch.float32).eps
QuantizerName = Literal["uniform", "log2", "float8"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """How one tensor is to be quantized, before anything was measured.

    Attributes:
        format: Name of the number format.
        observer: Name of the observer that finds its range.
        symmetric: Zero point 0 and a range symmetric about it; else affine over [min, max].
        per_channel: One scale for each channel instead of one for the tensor.
        quantizer: `uniform`, `log2` or `float8`.
        narrow: A symmetric integer grid leaves out its lowest code, so that it has as many codes on
            either side of zero.
        saturation_free: Of a weight: no pair of products with 8-bit activations overflows 16 bits, see
            `quant.saturation`.
    """

    format: str
    observer: str
    symmetric: bool
    per_channel: bool
    quantizer: QuantizerName = "uniform"
    narrow: bool = False
    saturation_free: bool = False

    @property
    def fits_8_bits(self) -> bool:
        """Whether its codes are integers of at most 8 bits, which integer kernels multiply."""
        return self.quantizer == "uniform" and self.fmt.kind == "int" and self.fmt.num_bits <= 8

    @property
    def fmt(self) -> Format:
        """The number format itself."""
        return get_format(self.format)


@dataclass(frozen=True, slots=True, eq=False)
class QParams:
    """The grid of one tensor.

    Attributes:
        scale: float32, () or (C,), > 0.
        zero_point: int32, the same shape; the code that stands for 0.0.
        axis: The channel axis, or None for one scale for the whole tensor.
    """

    scale: Tensor
    zero_point: Tensor
    axis: int | None

    def to(self, device: torch.device | str) -> QParams:
        """Return the grid on a device."""
        return QParams(self.scale.to(device), self.zero_point.to(device), self.axis)

    def broadcast(self, ndim: int) -> tuple[Tensor, Tensor]:
        """Return scale and zero point shaped to broadcast over a tensor of `ndim` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def params_from_range(low: Tensor, high: Tensor, spec: TensorSpec, axis: int | None) -> QParams:
    """Turn a range into a scale and a zero point.

    Symmetric integer formats: `scale = max(|low|, |high|) / ((qmax - qmin) / 2)`, zero point 0 (FQ-ViT,
    Lin et al., 2022: half of the whole grid, so that int8 divides by 127.5), or `/ qmax` where `narrow`. Affine
    ones: the range is widened to hold 0, `scale = (high - low) / (qmax - qmin)`. Float formats: the largest magnitude
    meets the largest finite value. A scale is never below float32's epsilon.

    Args:
        low: Smallest value, () or (C,).
        high: Largest value, the same shape.
        spec: Format and symmetry.
        axis: The channel axis; None for (). It is only carried along.

    >>> from quantsam.quant.params import TensorSpec
    >>> spec = TensorSpec("int8", "minmax", symmetric=True, per_channel=False)
    >>> params_from_range(torch.tensor(-1.0), torch.tensor(255.0), spec, None).scale  # 255 / 127.5
    tensor(2.)
    """
    fmt = spec.fmt
    largest = torch.maximum(low.abs(), high.abs())
    zero_point = torch.zeros_like(low, dtype=torch.int32)
    if spec.quantizer == "log2":
        scale = largest
    elif fmt.kind == "float":
        scale = largest / fmt.qmax
    elif spec.symmetric:
        scale = largest / (float(fmt.qmax) if spec.narrow else float(fmt.qmax - fmt.qmin) / 2)
        if not fmt.signed:
            zero_point = torch.full_like(zero_point, fmt.levels // 2)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / (fmt.qmax - fmt.qmin)
        codes = fmt.qmin - torch.round(low / scale.clamp(min=EPS))
        zero_point = codes.clamp(fmt.qmin, fmt.qmax).to(torch.int32)
    return QParams(scale.clamp(min=EPS).to(torch.float32), zero_point, axis)
