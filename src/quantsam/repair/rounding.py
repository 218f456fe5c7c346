"""Repair `rounding`: the codes of weights below 8 bits make up for each other's errors.

No node more in the graph. The columns of a weight are rounded one after the other, and what rounding one changes in
the output, the columns that are still float take back as far as they can (GPTQ: Frantar et al., 2023,
arXiv:2210.17323). A smaller step clips the largest weights and rounds the others better, so the step of each channel
is chosen together with its codes. Errors count by position as in other repairs, or a few massive positions would be
all that counts. Weights of 8 bits are left alone: they lose next to nothing, and their codes must not saturate.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.notices import notice
from quantsam.plans.calibration import weight_grid_of_range
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.prepare import takes_offsets
from quantsam.plans.transforms import ChooseWeightRanges, RoundWeights, Transform
from quantsam.progress import Progress
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import fake_quantize, quantize, range_from_params
from quantsam.repair.trials import PositionWeights
from quantsam.repair.watch import watch_inputs

MEASURED_ON = 16
"""Calibration images from which inputs are taken."""

DAMPING = 0.01
"""Of the mean diagonal, added to the diagonal: what few images say of rare inputs is not taken at its word."""

BLOCK = 128
"""Columns after which the errors so far are handed on to all that are left."""

STEPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Steps that are tried, in units of the observer's."""


def rounding_of_weights(
    prepared: ImageEncoder, plan: Plan, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> tuple[Transform, ...]:
    """Return ranges of weights and offsets of their codes; nothing where no weight has less than 8 bits.

    Args:
        prepared: The float encoder with the plan's transforms.
        plan: Calibrated.
        images: See `calibrate`; the first few are looked at.
        progress: Wraps the iteration over these.
    """
    found = {w.path: _Inputs(prepared, w, x) for w, x in plan.quantized_convolutions() if takes_offsets(w.spec)}
    if not found:
        notice("repair rounding chooses the codes of weights below 8 bits, of which the plan has none: nothing changes")
        return ()
    watch_inputs(prepared, {p: i.look for p, i in found.items()}, images, most=MEASURED_ON, progress=progress)
    chosen = {path: inputs.choose() for path, inputs in found.items()}
    ranges = {found[path].weight.key: ends for path, (ends, _) in chosen.items()}
    return ChooseWeightRanges(ranges), RoundWeights({path: offsets for path, (_, offsets) in chosen.items()})


class _Inputs:
    """How the rounded inputs of a convolution go together: their second moments, group by group."""

    def __init__(self, prepared: ImageEncoder, weight: PlanSite, x: PlanSite) -> None:
        conv = prepared.get_submodule(weight.path)
        assert isinstance(conv, Conv2d)
        assert isinstance(conv.padding, tuple)
        self._padding = conv.padding
        self._conv, self._x, self.weight = conv, x, weight
        each = conv.weight[0].numel()
        self._moments = conv.weight.new_zeros(conv.groups, each, each, dtype=torch.float64)

    def look(self, x: Tensor) -> None:
        """Take an input (N, in, H, W) of the convolution."""
        conv = self._conv
        x = x if conv.input_scale is None else conv.input_scale(x)
        true = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, 1, conv.groups)
        even = torch.ones(len(conv.weight), dtype=torch.float64, device=x.device)
        weights = PositionWeights(true, even).values.flatten(1)  # (N, positions)
        rounded = fake_quantize(x.contiguous(), self._x.spec, self._x.grid.to(x.device))
        for image, weight in zip(rounded, weights, strict=True):
            columns = F.unfold(image[None], conv.kernel_size, 1, self._padding, conv.stride)[0]
            columns = columns.view(conv.groups, -1, columns.shape[-1])
            self._moments += ((columns * weight) @ columns.mT).double()

    def choose(self) -> tuple[Tensor, Tensor]:
        """Choose the step and the codes of each channel.

        Returns:
            The range that gives the step, (2, 1 or out) float32; what is to be added to the nearest codes, int8 of
            the weight's shape. Both on the processor.
        """
        weight, spec, groups = self._conv.weight.detach(), self.weight.spec, self._conv.groups
        ends = torch.stack(range_from_params(self.weight.grid.to(weight.device), spec))
        steps = torch.tensor(STEPS, device=weight.device)
        tried = [_in_steps(weight, spec, weight_grid_of_range(weight, spec, *(ends * step)), groups) for step in steps]
        target, nearest, scale, low, high = (torch.cat(parts, 1) for parts in zip(*tried, strict=True))
        compensated = Compensation(self._moments).rounded(target, low, high)
        allowed = nearest.clamp(low[..., None], high[..., None])
        lost, lost_nearest = (_errors(c - target, self._moments) * scale.square() for c in (compensated, allowed))
        offsets = torch.where((lost < lost_nearest)[..., None], compensated, allowed) - nearest
        lost = torch.minimum(lost, lost_nearest).view(groups, len(steps), -1)  # (groups, steps, rows)
        if ends.ndim == 1:  # one step for all
            lost = lost.sum((0, 2), keepdim=True).expand_as(lost)
        best = lost.argmin(1)
        offsets = offsets.view(*lost.shape, -1).take_along_dim(best[:, None, :, None], 1)
        chosen = steps[best.flatten()] if ends.ndim == 2 else steps[best[0, 0]]
        return (ends * chosen).view(2, -1).cpu(), offsets.view(weight.shape).to(torch.int8).cpu()


def _in_steps(weight: Tensor, spec: TensorSpec, grid: QParams, groups: int) -> tuple[Tensor, ...]:
    """Return a weight in units of its step, its nearest codes, the step, and the smallest and largest code.

    All are float64, (groups, rows, columns) and then (groups, rows); the zero point is taken off the codes.
    """
    scale, zero = (part.double().expand(len(weight)).view(groups, -1) for part in (grid.scale, grid.zero_point))
    low = spec.fmt.qmin + 1 if spec.narrow and spec.fmt.signed else spec.fmt.qmin
    target = weight.double().view(groups, len(weight) // groups, -1) / scale[..., None]
    nearest = quantize(weight, spec, grid).double().view_as(target) - zero[..., None]
    return target, nearest, scale, low - zero, spec.fmt.qmax - zero


def _errors(changes: Tensor, moments: Tensor) -> Tensor:
    """Return the squared errors of outputs, (groups, rows), that changes of weights make."""
    return ((changes @ moments) * changes).sum(-1)


class Compensation:
    """Rounds columns one after the other, each error taken back by those that are left."""

    def __init__(self, moments: Tensor) -> None:
        """Make ready.

        Args:
            moments: Of the inputs, (groups, columns, columns) float64.
        """
        power = moments.diagonal(dim1=1, dim2=2)
        self._order = power.argsort(dim=1, descending=True)  # while many columns are left, those that count
        moments = moments.take_along_dim(self._order[:, :, None], 1).take_along_dim(self._order[:, None], 2)
        damping = (DAMPING * power.mean(1)).clamp(min=torch.finfo(torch.float32).tiny)
        eye = torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments + damping[:, None, None] * eye))
        self._factor = torch.linalg.cholesky(inverse, upper=True)

    def rounded(self, target: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return codes, float64 of `target`'s shape, zero point taken off.

        Args:
            target: Weights in units of their steps, (groups, rows, columns) float64.
            low: Smallest code, (groups, rows).
            high: Largest code, (groups, rows).
        """
        factor, size = self._factor, target.shape[-1]
        left = target.take_along_dim(self._order[:, None], 2)
        codes = torch.empty_like(left)
        for start in range(0, size, BLOCK):
            end = min(start + BLOCK, size)
            errors = left.new_empty(*left.shape[:2], end - start)
            for k in range(start, end):
                codes[:, :, k] = left[:, :, k].round().clamp(low, high)
                error = (left[:, :, k] - codes[:, :, k]) / factor[:, k, k, None]
                left[:, :, k:end] -= error[:, :, None] * factor[:, None, k, k:end]
                errors[:, :, k - start] = error
            left[:, :, end:] -= errors @ factor[:, start:end, end:]
        return torch.empty_like(codes).scatter_(2, self._order[:, None].expand_as(codes), codes)
