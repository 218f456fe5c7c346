"""The specification of one quantized tensor, and its grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantsam.quant.formats import Format, get_format

QuantizerName = Literal["uniform", "log2", "float8"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """How to quantize one tensor, before anything is measured.

    Attributes:
        format: Name of the number format.
        observer: Name of the observer that finds its range.
        symmetric: Zero point 0 and a range symmetric about it; else affine over [min, max].
        per_channel: One scale per channel instead of one for the tensor.
        quantizer: `uniform`, `log2` or `float8`.
        narrow: A symmetric integer grid leaves out its lowest code, so that both sides of zero have
            equally many codes.
        saturation_free: For a weight: no pair of products with 8-bit activations overflows 16 bits, see
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
        return self.quantizer == "uniform" and self.fmt.num_bits <= 8

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
