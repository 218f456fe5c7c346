"""Repair `migrate`: a scale a channel moves from a convolution's input to its weights.

Exact; it costs nothing measurable on OpenVINO, and a multiplication elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.scale import largest_weights
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.transforms import ScaleInputs, ScaleOutputs
from quantsam.progress import Progress
from quantsam.repair.balance import balanced, levelled
from quantsam.repair.extremes import ChannelRange
from quantsam.repair.scale_trial import STRENGTHS, TRIED_ON, ScaleTrial, different, matters_of_outputs
from quantsam.repair.watch import watch_inputs

WORTH, WORTH_FREE = 0.5, 0.95
"""A scaled input is kept where the error of the convolution's output falls below this share: the first where the scale
is a multiplication on the engine, the second where it is part of the rounding."""

CROWDED = -2
"""An output is scaled where the median channel's exponent is no higher: where it uses 64 of 256 codes, or fewer."""


def scale_of_inputs(
    prepared: ImageEncoder,
    plan: Plan,
    ranges: Mapping[str, ChannelRange],
    images: Iterable[CalibrationImage],
    progress: Progress | None = None,
) -> ScaleInputs | None:
    """Return the scaling of quantized convolutions' inputs; None where none would change anything.

    The weights of a depthwise convolution have a scale a channel, so it takes all of its input's; of the others the
    strength is chosen by the error of the convolution's output on a few images, where each channel counts as much as it
    matters, the grid being the input's whole range.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: What is quantized, and how.
        ranges: See `channel_ranges`.
        images: See `calibrate`; the first few are looked at.
        progress: Wraps the iteration over these.
    """
    matters = matters_of_outputs(prepared)
    trials = {}
    for weight, x in plan.quantized_convolutions():
        if not x.spec.per_channel and x.spec.quantizer == "uniform" and weight.spec.quantizer == "uniform":
            seen = ranges[f"{weight.path}.input_site"]
            tried = _tried(prepared, weight, seen)
            trials[weight.path] = ScaleTrial(prepared, weight, x, seen, matters[weight.path], tried)
    watch_inputs(prepared, {p: t.look for p, t in trials.items()}, images, most=TRIED_ON, progress=progress)
    worth = WORTH_FREE if get_placement(plan.placement).scales_in_rounding else WORTH
    chosen = {path: _best(trial, worth) for path, trial in trials.items()}
    exponents = {path: found.cpu() for path, found in chosen.items() if bool(found.any())}
    return ScaleInputs(exponents) if exponents else None


def _tried(prepared: ImageEncoder, weight: PlanSite, seen: ChannelRange) -> list[Tensor]:
    """Return the exponents to compare: none first."""
    conv = prepared.get_submodule(weight.path)
    assert isinstance(conv, Conv2d)
    largest = largest_weights(conv)
    strengths = (1.0,) if conv.groups == conv.in_channels else STRENGTHS
    none = torch.zeros(conv.in_channels, dtype=torch.int32, device=largest.device)
    return different([none, *(balanced(seen.reach.to(largest.device), largest, s) for s in strengths)])


def _best(trial: ScaleTrial, worth: float) -> Tensor:
    """Return the exponents of the least error; none where the error does not fall below the share `worth`."""
    least = int(trial.errors.argmin())
    return trial.exponents[least if trial.errors[least] < worth * trial.errors[0] else 0]


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
