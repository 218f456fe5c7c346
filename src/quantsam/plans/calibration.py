"""Calibration: turn a plan and images into a plan with grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from torch import Tensor

from quantsam.errors import PlanError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.observation import (
    CalibrationImage,
    Observations,
    check_finite,
    observe_activations,
)
from quantsam.plans.plan import CalibrationInfo, Plan
from quantsam.plans.prepare import prepare
from quantsam.plans.shared_grids import with_shared_grids
from quantsam.plans.transforms import ChooseRanges
from quantsam.progress import Progress
from quantsam.quant.observers import make_observer
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import params_from_range
from quantsam.quant.saturation import saturation_free_scale


def calibrate(
    model: EfficientViTSam, plan: Plan, images: Iterable[CalibrationImage] = (), *, progress: Progress | None = None
) -> Plan:
    """Measure every site of a plan in one pass over the images, and return the plan with its grids.

    Args:
        model: The model the plan was made for.
        plan: The plan, calibrated before or not.
        images: Files, RGB uint8 arrays (H, W, 3), or preprocessed float tensors (1 or N, 3, S, S).
            Not needed when only weights are quantized.
        progress: Wraps the iteration over the images, given their number if it is known.

    Raises:
        PlanError: The plan was made for another model or other weights.
        CalibrationError: There are no images, they show nothing, or a site is constant or not finite.
    """
    prepared, activations = prepare(model, plan), _specs(plan, "activation")
    weights = _weight_grids(prepared, plan)  # first, because errors in them show at once
    seen = observe_activations(prepared, activations, images, progress) if activations else None
    found = _with_grids(plan, weights, seen, getattr(images, "name", "images"), getattr(images, "digest", None))
    return with_final_grids(model, found)


def observe(
    model: EfficientViTSam, plan: Plan, images: Iterable[CalibrationImage], *, progress: Progress | None = None
) -> Observations:
    """Show images to the observers of a plan's activations, see `calibrate`; several observations can be merged."""
    return observe_activations(prepare(model, plan), _specs(plan, "activation"), images, progress)


def with_final_grids(model: EfficientViTSam, plan: Plan) -> Plan:
    """Apply the ranges that a repair chose and the shared grids (`plans.shared_grids`) to a calibrated plan.

    Raises:
        PlanError: A range belongs to no site of the plan, or its number of channels differs.
    """
    prepared = prepare(model, plan)
    chosen = _chosen_grids(prepared, plan)
    sites = tuple(dataclasses.replace(site, params=chosen.get(site.key, site.params)) for site in plan.sites)
    return with_shared_grids(prepared, dataclasses.replace(plan, sites=sites))


def with_observations(
    model: EfficientViTSam, plan: Plan, seen: Observations | None, name: str, digest: str | None
) -> Plan:
    """Return a plan with its grids.

    Args:
        model: The model the plan was made for.
        plan: The plan.
        seen: What the observers of all activations saw; None if no activation is quantized.
        name: Name of the images.
        digest: Digest of the images, if they have one.

    Raises:
        CalibrationError: See `calibrate`.
    """
    return with_final_grids(model, _with_grids(plan, _weight_grids(prepare(model, plan), plan), seen, name, digest))


def _specs(plan: Plan, role: str) -> dict[str, tuple[str, TensorSpec]]:
    return {site.key: (site.path, site.spec) for site in plan.sites if site.role == role}


def _with_grids(
    plan: Plan, weights: Mapping[str, QParams], seen: Observations | None, name: str, digest: str | None
) -> Plan:
    params = {**weights, **(seen.grids(_specs(plan, "activation")) if seen is not None else {})}
    sites = tuple(dataclasses.replace(site, params=params[site.key]) for site in plan.sites)
    info = None if seen is None else CalibrationInfo(name, digest, seen.count)
    return dataclasses.replace(plan, sites=sites, calibration=info)


def weight_grid(weight: Tensor, spec: TensorSpec, key: str) -> QParams:
    """Return the grid of a weight. The observer sees the weight as a stream of one sample.

    Args:
        weight: (out, in / groups, kernel, kernel).
        spec: How the weight is quantized.
        key: Name of the weight in errors.

    Raises:
        CalibrationError: The weight is not finite.
    """
    observer = make_observer(spec.observer, 1 if spec.per_channel else None)
    observer.observe(weight.unsqueeze(0))
    check_finite(observer, key, "the weights are damaged, load them again")
    return _safe(weight, observer.params(spec), spec)


def weight_grid_of_range(weight: Tensor, spec: TensorSpec, low: Tensor, high: Tensor) -> QParams:
    """Return the grid of a weight for a given range, () or (out,), instead of the observer's range."""
    return _safe(weight, params_from_range(low, high, spec, None), spec)


def _safe(weight: Tensor, found: QParams, spec: TensorSpec) -> QParams:
    scale = saturation_free_scale(weight, found.scale, spec.fmt) if spec.saturation_free else found.scale
    return dataclasses.replace(found, scale=scale, axis=0 if spec.per_channel else None)


def _chosen_grids(prepared: ImageEncoder, plan: Plan) -> dict[str, QParams]:
    """Return the grids of the ranges that repairs chose, keyed by the site's key."""
    sites = {site.key: site for site in plan.sites}
    grids = {}
    for key, ends in ((k, v) for t in plan.transforms if isinstance(t, ChooseRanges) for k, v in t.values.items()):
        site = sites.get(key)
        before = None if site is None else site.params
        if site is None or before is None:
            raise PlanError(f"a chosen range must be of a site of the plan, got {key!r}: repair the plan again")
        if ends.shape != (2, before.scale.numel()):
            raise PlanError(f"{key} has {before.scale.numel()} scales, got ranges {tuple(ends.shape)}: repair again")
        low, high = (end.reshape(before.scale.shape) for end in ends.to(before.scale.device))
        if site.role == "weight":
            weight = prepared.get_submodule(site.path).get_parameter("weight").detach()
            grids[key] = weight_grid_of_range(weight, site.spec, low.to(weight.device), high.to(weight.device))
        else:
            grids[key] = params_from_range(low, high, site.spec, before.axis)
    return grids


def _weight_grids(prepared: ImageEncoder, plan: Plan) -> dict[str, QParams]:
    """Return the grid of every weight."""
    return {
        key: weight_grid(prepared.get_submodule(path).get_parameter("weight").detach(), spec, key)
        for key, (path, spec) in _specs(plan, "weight").items()
    }
