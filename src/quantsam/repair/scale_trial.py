"""Try scales of a convolution's input channels: the error of its output with each, on a few images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.scale import scaled_weight
from quantsam.models.structure import structure_of
from quantsam.plans.calibration import weight_grid
from quantsam.plans.plan import PlanSite
from quantsam.quant.params import QParams
from quantsam.quant.quantizers import fake_quantize, params_from_range
from quantsam.repair.extremes import ChannelRange
from quantsam.repair.importance import output_gain, output_importance

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of `balanced`: how much of the burden activations give to weights."""

TRIED_ON = 4
"""Calibration images on which strengths are compared."""


class ScaleTrial:
    """Scales of one convolution's input channels, and the error of its output with each, the grid the whole range.

    Attributes:
        exponents: What is tried, (in,) int32 each.
        errors: Sums of squared errors so far, (tried,) float64: each output channel by how much it matters.
        energy: That of the float output.
    """

    def __init__(
        self,
        prepared: ImageEncoder,
        weight: PlanSite,
        x: PlanSite,
        seen: ChannelRange,
        matters: Tensor,
        exponents: Sequence[Tensor],
    ) -> None:
        conv = prepared.get_submodule(weight.path)
        assert isinstance(conv, Conv2d)
        self._conv, self._weight, self._x, self._seen, self._matters = conv, weight, x, seen, matters
        self.exponents = list(exponents)
        self._grids = [self._grid(e) for e in self.exponents]
        self.errors = torch.zeros(len(self.exponents), dtype=torch.float64)
        self.energy = 0.0

    def look(self, x: Tensor) -> None:
        """Add the errors on an input (N, in, H, W) of the convolution, before any scaling."""
        conv = self._conv
        true = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, 1, conv.groups)
        self.energy += self._size(true)
        for number, (exponents, of_weight) in enumerate(zip(self.exponents, self._grids, strict=True)):
            factors = torch.exp2(-exponents.float())
            low, high = (end.to(x.device) * factors for end in (self._seen.low, self._seen.high))
            grid = params_from_range(low.min(), high.max(), self._x.spec, None)
            rounded = fake_quantize((x * factors.reshape(-1, 1, 1)).contiguous(), self._x.spec, grid)
            weight = fake_quantize(self._scaled(exponents), self._weight.spec, of_weight)
            y = F.conv2d(rounded, weight, None, conv.stride, conv.padding, 1, conv.groups)
            self.errors[number] += self._size(y - true)

    def _size(self, y: Tensor) -> float:
        return float((y.square().sum((0, 2, 3), dtype=torch.float64) * self._matters).sum())

    def _scaled(self, exponents: Tensor) -> Tensor:
        """Return the weight that takes a scaled input."""
        return scaled_weight(self._conv, exponents).contiguous()

    def _grid(self, exponents: Tensor) -> QParams:
        """Return the grid that the plan would have for it: the same for all images, and slow to find."""
        return weight_grid(self._scaled(exponents), self._weight.spec, self._weight.key)


def different(tried: Sequence[Tensor]) -> list[Tensor]:
    """Return each once, in their order."""
    return [e for i, e in enumerate(tried) if not any(torch.equal(e, other) for other in tried[:i])]


def matters_of_outputs(prepared: ImageEncoder) -> dict[str, Tensor]:
    """Return how much an error of each convolution's own output matters, (out,) float64 by path."""
    read = output_importance(prepared)
    gains = {c.conv: output_gain(prepared, c).square() for c in structure_of(prepared).convolutions}
    return {path: gain * read.get(path, torch.ones_like(gain)) for path, gain in gains.items()}
