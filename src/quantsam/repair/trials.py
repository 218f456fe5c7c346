"""Try changes of a convolution's channels: measure the error of its output with each change, on a few images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.scale import scaled_weight
from quantsam.models.structure import structure_of
from quantsam.plans.calibration import weight_grid
from quantsam.plans.plan import PlanSite
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import fake_quantize, params_from_range
from quantsam.repair.extremes import ChannelRange
from quantsam.repair.importance import output_gain, output_importance

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Strengths to try, see `balanced`: how much of the scale activations pass to weights."""

TRIED_ON = 4
"""Number of calibration images on which changes are compared."""

_FLOOR = 1e-6
"""Lower limit of the median position's energy, as a share of the mean energy."""


class PositionWeights:
    """Weights an output's errors by position: divides by the position's own energy plus the median position's energy.

    A few massive positions have nearly all the energy of an image. Relative to a sum over positions, errors at all
    other positions would be small.
    """

    def __init__(self, true: Tensor, matters: Tensor) -> None:
        """Take the float output (N, C, H, W) and the importance of each channel, (C,) float64."""
        self._true, self._matters = true, matters
        energy = (true.square() * matters.float().reshape(-1, 1, 1)).sum(1, keepdim=True)
        usual = torch.stack([_usual(image) for image in energy]).reshape(-1, 1, 1, 1)
        self._weights = 1 / (energy + usual).clamp(min=1e-30)

    @property
    def values(self) -> Tensor:
        """The weights, (N, 1, H, W)."""
        return self._weights

    def errors(self, y: Tensor) -> Tensor:
        """Return the weighted squared errors of an output, summed over positions, (C,) float64."""
        return ((y - self._true).square() * self._weights).sum((0, 2, 3), dtype=torch.float64) * self._matters


def _usual(energy: Tensor) -> Tensor:
    """Return the energy of an image's median position without padding, but at least a share of the mean energy."""
    alive = energy[energy > 0]
    return (alive.median() if len(alive) else energy.mean()).maximum(_FLOOR * energy.mean())


class Trial(ABC):
    """Changes of one convolution, and the error of its output with each. Grids span the whole range.

    Attributes:
        errors: Sums so far over positions of the output, (tried,) float64; see `PositionWeights`.
        positions: Number of positions so far.
    """

    def __init__(self, prepared: ImageEncoder, path: str, matters: Tensor, tried: int) -> None:
        conv = prepared.get_submodule(path)
        assert isinstance(conv, Conv2d)
        self._conv, self._matters = conv, matters
        self.errors = torch.zeros(tried, dtype=torch.float64)
        self.positions = 0

    @abstractmethod
    def look(self, x: Tensor) -> None:
        """Add the errors on an input (N, in, H, W) of the convolution, before any scaling."""

    def _compare(self, true: Tensor, outputs: Iterable[Tensor]) -> None:
        """Add the errors of outputs (N, out, H, W), one for each change."""
        weights = PositionWeights(true, self._matters)
        for number, y in enumerate(outputs):
            self.errors[number] += float(weights.errors(y).sum())
        self.positions += true.shape[0] * true.shape[2] * true.shape[3]


class InputTrial(Trial):
    """Tries scales of the input's channels, which the weights compensate; the bias plays no part.

    Attributes:
        exponents: Exponents to try, (in,) int32 each.
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
        super().__init__(prepared, weight.path, matters, len(exponents))
        self.exponents = list(exponents)
        self._weight, self._x, self._seen = weight, x, seen
        self._grids = [self._grid(e) for e in self.exponents]

    def look(self, x: Tensor) -> None:
        """Add the errors on an input (N, in, H, W) of the convolution, before any scaling."""
        conv = self._conv
        true = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, 1, conv.groups)

        def outputs() -> Iterator[Tensor]:
            for exponents, of_weight in zip(self.exponents, self._grids, strict=True):
                rounded = _rounded(x, exponents, self._seen, self._x.spec)
                weight = fake_quantize(self._scaled(exponents), self._weight.spec, of_weight)
                yield F.conv2d(rounded, weight, None, conv.stride, conv.padding, 1, conv.groups)

        self._compare(true, outputs())

    def _scaled(self, exponents: Tensor) -> Tensor:
        """Return the weight that takes a scaled input."""
        return scaled_weight(self._conv, exponents).contiguous()

    def _grid(self, exponents: Tensor) -> QParams:
        """Return the weight's grid in the plan. It is the same for all images, and slow to find."""
        return weight_grid(self._scaled(exponents), self._weight.spec, self._weight.key)


class ShiftTrial(Trial):
    """Tries subtracting constants, (in,) each, from the input's channels; the bias compensates their effect."""

    def __init__(
        self,
        prepared: ImageEncoder,
        weight: PlanSite,
        x: PlanSite,
        seen: ChannelRange,
        matters: Tensor,
        shifts: Sequence[Tensor],
    ) -> None:
        super().__init__(prepared, weight.path, matters, len(shifts))
        plain = self._conv.weight.contiguous()
        self._shifts, self._seen, self._x = [shift.to(plain.device) for shift in shifts], seen, x
        self._rounded = fake_quantize(plain, weight.spec, weight_grid(plain, weight.spec, weight.key))

    def look(self, x: Tensor) -> None:
        """Add the errors on an input (N, in, H, W) of the convolution, before any scaling."""
        conv = self._conv
        x = x if conv.input_scale is None else conv.input_scale(x)
        true = F.conv2d(x, conv.weight, None, conv.stride)

        def outputs() -> Iterator[Tensor]:
            for shift in self._shifts:
                low, high = (end.to(x.device) - shift for end in (self._seen.low, self._seen.high))
                column = shift.reshape(-1, 1, 1)
                grid = params_from_range(low.min(), high.max(), self._x.spec, None)
                rounded = fake_quantize((x - column).contiguous(), self._x.spec, grid)
                taken_back = F.conv2d(column.unsqueeze(0), conv.weight)
                yield F.conv2d(rounded, self._rounded, None, conv.stride) + taken_back

        self._compare(true, outputs())


class OutputTrial(Trial):
    """Tries scales of the output's channels, which are undone behind its rounding.

    Attributes:
        exponents: Exponents to try, (out,) int32 each.
    """

    def __init__(
        self, prepared: ImageEncoder, y: PlanSite, seen: ChannelRange, matters: Tensor, exponents: Sequence[Tensor]
    ) -> None:
        super().__init__(prepared, y.convolution, matters, len(exponents))
        self.exponents = list(exponents)
        self._y, self._seen = y, seen

    def look(self, x: Tensor) -> None:
        """Add the errors on an input (N, in, H, W) of the convolution, before any scaling."""
        conv = self._conv
        x = x if conv.input_scale is None else conv.input_scale(x)
        true = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, 1, conv.groups)

        def outputs() -> Iterator[Tensor]:
            for exponents in self.exponents:
                rounded = _rounded(true, exponents, self._seen, self._y.spec)
                yield rounded * torch.exp2(exponents.float()).to(true.device).reshape(-1, 1, 1)

        self._compare(true, outputs())


def _rounded(x: Tensor, exponents: Tensor, seen: ChannelRange, spec: TensorSpec) -> Tensor:
    """Divide an activation's channels (N, C, H, W) by powers of two, and round it to a grid of its whole range."""
    factors = torch.exp2(-exponents.float()).to(x.device)
    low, high = (end.to(x.device) * factors for end in (seen.low, seen.high))
    grid = params_from_range(low.min(), high.max(), spec, None)
    return fake_quantize((x * factors.reshape(-1, 1, 1)).contiguous(), spec, grid)


def different(tried: Sequence[Tensor]) -> list[Tensor]:
    """Return the different tensors, each once, in order."""
    return [e for i, e in enumerate(tried) if not any(torch.equal(e, other) for other in tried[:i])]


def matters_of_outputs(prepared: ImageEncoder) -> dict[str, Tensor]:
    """Return how much an error of each convolution's own output matters, (out,) float64, keyed by path."""
    read = output_importance(prepared)
    gains = {c.conv: output_gain(prepared, c).square() for c in structure_of(prepared).convolutions}
    return {path: gain * read.get(path, torch.ones_like(gain)) for path, gain in gains.items()}
