"""Repair `rounding`: codes of weights below 8 bits compensate each other's errors, on steps that fit them.

The graph gets no extra node. The columns of a weight are rounded one after the other. The columns that are still float
compensate each rounding error in the output as far as they can (GPTQ: Frantar et al., 2023, arXiv:2210.17323). Each
row is rounded in this way with several steps, and takes the step and the codes with the smallest error: a smaller step
clips the row's largest weights, which the others compensate. Errors are weighted by position as in other repairs;
otherwise only a few massive positions would count. 8-bit weights do not change: they lose next to nothing, and their
codes must not saturate.
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
from quantsam.plans.transforms import ChooseWeightRanges, RoundWeights
from quantsam.progress import Progress
from quantsam.quant.quantizers import fake_quantize, quantize, range_from_params
from quantsam.repair.trials import PositionWeights
from quantsam.repair.watch import watch_inputs

MEASURED_ON = 16
"""Number of calibration images from which inputs are taken."""

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal, because a few images say little about rare inputs."""

BLOCK = 128
"""Number of columns after which the errors so far are passed on to all remaining columns."""

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5)
"""Shares of a row's step to try; 1 keeps the observer's step."""


def rounding_of_weights(
    prepared: ImageEncoder, plan: Plan, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> tuple[ChooseWeightRanges, RoundWeights] | None:
    """Return ranges of weights and offsets of their codes; None if no weight below 8 bits has a quantized input.

    Args:
        prepared: The float encoder with the plan's transforms.
        plan: The calibrated plan.
        images: See `calibrate`; only the first few are used.
        progress: Wraps the iteration over these images.
    """
    found = {w.path: _Inputs(prepared, w, x) for w, x in plan.quantized_convolutions() if takes_offsets(w.spec)}
    if not found:
        notice("repair rounding chooses the codes of weights below 8 bits, of which the plan has none: nothing changes")
        return None
    watch_inputs(prepared, {p: i.look for p, i in found.items()}, images, most=MEASURED_ON, progress=progress)
    ranges, offsets = {}, {}
    for path, inputs in found.items():
        ranges[inputs.key], offsets[path] = inputs.rounded()
    return ChooseWeightRanges(ranges), RoundWeights(offsets)


class _Inputs:
    """Second moments of a convolution's rounded inputs, group by group."""

    def __init__(self, prepared: ImageEncoder, weight: PlanSite, x: PlanSite) -> None:
        conv = prepared.get_submodule(weight.path)
        assert isinstance(conv, Conv2d)
        assert isinstance(conv.padding, tuple)
        self._padding = conv.padding
        self._conv, self._weight, self._x, self.key = conv, weight, x, weight.key
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

    def rounded(self) -> tuple[Tensor, Tensor]:
        """Return the range of each row, (2, 1 or out) float32, and offsets to add to the nearest codes on its grid.

        The offsets are int8 and have the weight's shape. Both are on the processor.
        """
        weight = self._conv.weight.detach()
        grid, spec, groups = self._weight.grid.to(weight.device), self._weight.spec, self._conv.groups
        rows = len(weight) // groups
        scale, zero = (part.double().expand(len(weight)).view(groups, rows) for part in (grid.scale, grid.zero_point))
        target = weight.double().view(groups, rows, -1) / scale[..., None]
        low = (-spec.fmt.qmax if spec.narrow and spec.fmt.signed else spec.fmt.qmin) - zero
        codes, shares = best_codes(target, self._moments, low, spec.fmt.qmax - zero, alone=spec.per_channel)
        of_grid = shares.view(-1) if spec.per_channel else shares.view(-1)[:1]
        ends = torch.stack([end.reshape(-1) for end in range_from_params(grid, spec)]) * of_grid.float()
        chosen = weight_grid_of_range(weight, spec, *(end.reshape(grid.scale.shape) for end in ends))
        zeros = chosen.zero_point.double().expand(len(weight)).view(-1, 1, 1, 1)
        offset = codes.view(weight.shape) + zeros - quantize(weight, spec, chosen).double()
        return ends.cpu(), offset.to(torch.int8).cpu()


def best_codes(target: Tensor, moments: Tensor, low: Tensor, high: Tensor, *, alone: bool) -> tuple[Tensor, Tensor]:
    """Return the best codes of all that compensated and nearest rounding find with several steps, and the steps.

    Args:
        target: Weights in units of the observer's steps, (groups, rows, columns) float64.
        moments: See `compensated`.
        low: Smallest code, (groups, rows).
        high: Largest code, (groups, rows).
        alone: Whether each row has a step of its own.

    Returns:
        Codes less their zero point, float64, `target`'s shape; steps in units of the observer's, (groups, rows).
    """
    shares = target.new_tensor(SHARES).repeat_interleave(target.shape[1])  # the rows once for each share
    targets = target.repeat(1, len(SHARES), 1) / shares[:, None]
    low, high = (end.repeat(1, len(SHARES)) for end in (low, high))
    tried = [compensated(targets, moments, low, high), targets.round().clamp(low[..., None], high[..., None])]
    errors = torch.stack([_errors(codes - targets, moments) * shares**2 for codes in tried], dim=1)
    errors = errors.view(len(target), -1, target.shape[1])  # (groups, ways, rows)
    best = (errors if alone else errors.sum((0, 2), keepdim=True).expand_as(errors)).argmin(1)
    codes = torch.stack(tried, dim=1).view(len(target), -1, *target.shape[1:])
    taken = codes.gather(1, best[:, None, :, None].expand(-1, 1, -1, target.shape[2]))[:, 0]
    return taken, target.new_tensor(SHARES)[best % len(SHARES)]


def _errors(changes: Tensor, moments: Tensor) -> Tensor:
    """Return the squared output errors, (groups, rows), that changes of weights cause."""
    return ((changes @ moments) * changes).sum(-1)


def compensated(target: Tensor, moments: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Round columns one after the other; the remaining columns compensate each error.

    Args:
        target: Weights in units of their steps, (groups, rows, columns) float64.
        moments: Second moments of the inputs, (groups, columns, columns) float64.
        low: Smallest code, (groups, rows).
        high: Largest code, (groups, rows).

    Returns:
        Codes less their zero point, float64, `target`'s shape.
    """
    size = target.shape[-1]
    power = moments.diagonal(dim1=1, dim2=2)
    order = power.argsort(dim=1, descending=True)  # the important columns first, while many are left to compensate
    left = target.gather(2, order[:, None].expand_as(target))
    moments = moments.gather(1, order[:, :, None].expand_as(moments)).gather(2, order[:, None].expand_as(moments))
    damping = (DAMPING * power.mean(1)).clamp(min=torch.finfo(torch.float32).tiny)
    moments = moments + damping[:, None, None] * torch.eye(size, dtype=moments.dtype, device=moments.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor = torch.linalg.cholesky(inverse, upper=True)
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
    return torch.empty_like(codes).scatter_(2, order[:, None].expand_as(codes), codes)
