"""Repair `migrate`: a scale a channel moves from a convolution's input to its weights.

Exact; it costs nothing measurable on OpenVINO, and a multiplication elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.scale import largest_weights, scaled_weight
from quantsam.plans.calibration import weight_grid
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.transforms import ScaleInputs, ScaleOutputs
from quantsam.progress import Progress
from quantsam.quant.params import QParams
from quantsam.quant.quantizers import fake_quantize, params_from_range
from quantsam.repair.balance import balanced, levelled
from quantsam.repair.extremes import ChannelRange
from quantsam.repair.watch import watch_inputs

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of migration behind an activation; 0 and `None`, no migration, compete too."""

TRIED_ON = 4
"""Calibration images on which strengths are compared."""

WORTH, WORTH_FREE = 0.25, 0.95
"""A scaled input is kept where the error of the convolution's output falls below this share: the first where the scale
is a multiplication on the engine, the second where it is part of the rounding."""

CROWDED = -3
"""An output is scaled where the median channel's exponent is no higher: where it uses 32 of 256 codes, or fewer."""


def scale_of_inputs(
    prepared: ImageEncoder,
    plan: Plan,
    ranges: Mapping[str, ChannelRange],
    images: Iterable[CalibrationImage],
    progress: Progress | None = None,
) -> ScaleInputs | None:
    """Return the scaling of quantized convolutions' inputs; None where none would change anything.

    The weights of a depthwise convolution have a scale a channel, so it takes all of its input's; of the others the
    strength is chosen by the error of the convolution's output on a few images, the grid being the input's whole range.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: What is quantized, and how.
        ranges: See `channel_ranges`.
        images: See `calibrate`; the first few are looked at.
        progress: Wraps the iteration over these.
    """
    trials = {
        weight.path: _Trial(prepared, weight, x, ranges[f"{weight.path}.input_site"])
        for weight, x in plan.quantized_convolutions()
        if not x.spec.per_channel and x.spec.quantizer == "uniform" and weight.spec.quantizer == "uniform"
    }
    watch_inputs(prepared, {p: t.look for p, t in trials.items()}, images, most=TRIED_ON, progress=progress)
    worth = WORTH_FREE if get_placement(plan.placement).scales_in_rounding else WORTH
    chosen = {path: trial.best(worth) for path, trial in trials.items()}
    exponents = {path: found.cpu() for path, found in chosen.items() if bool(found.any())}
    return ScaleInputs(exponents) if exponents else None


def scale_of_outputs(plan: Plan, ranges: Mapping[str, ChannelRange]) -> ScaleOutputs | None:
    """Return the scaling of the outputs that a plan quantizes by one scale a tensor; None where there is none.

    A weight's scale a channel takes what the output gives, so nothing is to be weighed but the multiplication that it
    costs: only outputs are scaled whose median channel uses few codes.

    Args:
        plan: What is quantized.
        ranges: See `channel_ranges`.
    """
    weights = {site.path for site in plan.sites if site.role == "weight" and site.spec.per_channel}
    exponents = {}
    for site in plan.sites:
        if (
            site.tensor == "conv"
            and site.spec.fits_8_bits
            and not site.spec.per_channel
            and site.convolution in weights
        ):
            found = levelled(ranges[site.path].low, ranges[site.path].high)
            if int(found.median()) <= CROWDED:
                exponents[site.convolution] = found.cpu()
    return ScaleOutputs(exponents) if exponents else None


class _Trial:
    """Strengths of one convolution, and the error of its output with each."""

    def __init__(self, prepared: ImageEncoder, weight: PlanSite, x: PlanSite, seen: ChannelRange) -> None:
        conv = prepared.get_submodule(weight.path)
        assert isinstance(conv, Conv2d)
        self._conv, self._weight, self._x, self._seen = conv, weight, x, seen
        largest = largest_weights(conv)
        self._is_depthwise = conv.groups == conv.in_channels
        strengths = (1.0,) if self._is_depthwise else STRENGTHS
        none = torch.zeros(conv.in_channels, dtype=torch.int32, device=largest.device)
        tried = [none, *(balanced(seen.reach.to(largest.device), largest, s) for s in strengths)]
        self._exponents = [e for i, e in enumerate(tried) if not any(torch.equal(e, other) for other in tried[:i])]
        self._grids = [self._grid(e) for e in self._exponents]
        self._errors = torch.zeros(len(self._exponents), dtype=torch.float64)

    def best(self, worth: float) -> Tensor:
        """Return the exponents of the least error; none where the error does not fall below the share `worth`."""
        least = int(self._errors.argmin())
        return self._exponents[least if self._errors[least] < worth * self._errors[0] else 0]

    def look(self, x: Tensor) -> None:
        """Add the errors on an input (N, in, H, W) of the convolution, before any scaling."""
        conv = self._conv
        true = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, 1, conv.groups)
        for number, (exponents, of_weight) in enumerate(zip(self._exponents, self._grids, strict=True)):
            factors = torch.exp2(-exponents.float())
            low, high = (end.to(x.device) * factors for end in (self._seen.low, self._seen.high))
            grid = params_from_range(low.min(), high.max(), self._x.spec, None)
            rounded = fake_quantize((x * factors.reshape(-1, 1, 1)).contiguous(), self._x.spec, grid)
            weight = fake_quantize(self._scaled(exponents), self._weight.spec, of_weight)
            y = F.conv2d(rounded, weight, None, conv.stride, conv.padding, 1, conv.groups)
            self._errors[number] += float((y - true).square().sum(dtype=torch.float64))

    def _scaled(self, exponents: Tensor) -> Tensor:
        """Return the weight that takes a scaled input."""
        return scaled_weight(self._conv, exponents).contiguous()

    def _grid(self, exponents: Tensor) -> QParams:
        """Return the grid that the plan would have for it: the same for all images, and slow to find."""
        return weight_grid(self._scaled(exponents), self._weight.spec, self._weight.key)
