"""The modules that replace sites in a simulation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import fake_quantize


class FakeQuantize(nn.Module):
    """Rounds a tensor to a fixed grid."""

    def __init__(self, spec: TensorSpec, params: QParams) -> None:
        super().__init__()
        self.spec = spec
        self.axis = params.axis
        self.register_buffer("scale", params.scale, persistent=False)
        self.register_buffer("zero_point", params.zero_point, persistent=False)

    @property
    def params(self) -> QParams:
        """The grid, on the module's device."""
        return QParams(self.get_buffer("scale"), self.get_buffer("zero_point"), self.axis)

    def has_levels(self, most: int) -> bool:
        """Return whether rounding leaves at most `most` different values in the whole tensor."""
        uniform = self.spec.quantizer == "uniform" and self.axis is None
        return uniform and self.spec.fmt.levels <= most

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` rounded, same shape."""
        return fake_quantize(x, self.spec, self.params)


class ShiftedFakeQuantize(FakeQuantize):
    """Rounds like OpenVINO's kernels: `rint(x * (1 / scale) + zero_point)`, with product and sum rounded once."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` rounded, same shape."""
        if self.spec.quantizer != "uniform":
            return super().forward(x)
        scale, zero_point = self.params.broadcast(x.ndim)
        codes = torch.round((x.double() * (1 / scale).double() + zero_point).float())
        return (codes.clamp(self.spec.fmt.qmin, self.spec.fmt.qmax) - zero_point) * scale
