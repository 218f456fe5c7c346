"""Repair `migrate`: move a scale per channel from a convolution's input to its weights.

The repair is exact. It costs nothing measurable on OpenVINO, and a multiplication on other engines.
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
from quantsam.repair.trials import (
    STRENGTHS,
    TRIED_ON,
    InputTrial,
    OutputTrial,
    different,
    matters_of_outputs,
)
from quantsam.repair.watch import watch_inputs

WORTH = 1e-3
"""A scale that is a multiplication on the engine is kept if the error falls by more than this: the mean over positions,
relative to their energies, see `PositionWeights`."""

WORTH_FREE = 0.95
"""A scale that is part of the rounding is kept if the error falls below this share of its former value."""


def scale_of_inputs(
    prepared: ImageEncoder,
    plan: Plan,
    ranges: Mapping[str, ChannelRange],
    images: Iterable[CalibrationImage],
    progress: Progress | None = None,
) -> ScaleInputs | None:
    """Return the scaling of quantized convolutions' inputs; None if none is worth it.

    The weights of a depthwise convolution have a scale per channel, so they take over the whole scale of the input. For
    other convolutions, the error of the output on a few images decides the strength. Each output channel counts by its
    importance, and the grid spans the input's whole range.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: The plan to repair.
        ranges: See `channel_ranges`.
        images: See `calibrate`; only the first few are used.
        progress: Wraps the iteration over these images.
    """
    matters = matters_of_outputs(prepared)
    trials = {}
    for weight, x in plan.quantized_convolutions():
        if not x.spec.per_channel and x.spec.quantizer == "uniform" and weight.spec.quantizer == "uniform":
            seen = ranges[f"{weight.path}.input_site"]
            tried = _tried(prepared, weight, seen)
            trials[weight.path] = InputTrial(prepared, weight, x, seen, matters[weight.path], tried)
    exponents = _chosen(prepared, plan, trials, images, progress)
    return ScaleInputs(exponents) if exponents else None


def _tried(prepared: ImageEncoder, weight: PlanSite, seen: ChannelRange) -> list[Tensor]:
    """Return the exponents to compare, starting with zeros for no scaling."""
    conv = prepared.get_submodule(weight.path)
    assert isinstance(conv, Conv2d)
    largest = largest_weights(conv)
    strengths = (1.0,) if conv.groups == conv.in_channels else STRENGTHS
    none = torch.zeros(conv.in_channels, dtype=torch.int32, device=largest.device)
    return different([none, *(balanced(seen.reach.to(largest.device), largest, s) for s in strengths)])


def scale_of_outputs(
    prepared: ImageEncoder,
    plan: Plan,
    ranges: Mapping[str, ChannelRange],
    images: Iterable[CalibrationImage],
    progress: Progress | None = None,
) -> ScaleOutputs | None:
    """Return the scaling of the outputs that a plan quantizes with one scale per tensor; None if none is worth it.

    A weight's scale per channel absorbs the output's scale, so weights lose nothing. Only the rounding of the output is
    weighed against the cost of the multiplication.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: The plan to repair.
        ranges: See `channel_ranges`.
        images: See `calibrate`; only the first few are used.
        progress: Wraps the iteration over these images.
    """
    weights = {site.path for site in plan.sites if site.role == "weight" and site.spec.per_channel}
    matters = matters_of_outputs(prepared)
    trials = {}
    for site in plan.sites:
        is_scalable = site.spec.fits_8_bits and not site.spec.per_channel and site.spec.quantizer == "uniform"
        if site.tensor == "conv" and is_scalable and site.convolution in weights:
            seen = ranges[site.path]
            tried = different([torch.zeros_like(seen.low, dtype=torch.int32), levelled(seen.low, seen.high)])
            trials[site.convolution] = OutputTrial(prepared, site, seen, matters[site.convolution], tried)
    exponents = _chosen(prepared, plan, trials, images, progress)
    return ScaleOutputs(exponents) if exponents else None


def _chosen(
    prepared: ImageEncoder,
    plan: Plan,
    trials: Mapping[str, InputTrial | OutputTrial],
    images: Iterable[CalibrationImage],
    progress: Progress | None,
) -> dict[str, Tensor]:
    """Return the exponents that are worth their cost, (C,) int32 each, keyed by the convolution's path."""
    if not trials:
        return {}
    watch_inputs(prepared, {p: t.look for p, t in trials.items()}, images, most=TRIED_ON, progress=progress)
    is_free = get_placement(plan.placement).scales_in_rounding
    found = {}
    for path, trial in trials.items():
        least = int(trial.errors.argmin())
        before, after = float(trial.errors[0]), float(trial.errors[least])
        is_worth = after < WORTH_FREE * before if is_free else before - after > WORTH * trial.positions
        if least and is_worth:
            found[path] = trial.exponents[least].cpu()
    return found
