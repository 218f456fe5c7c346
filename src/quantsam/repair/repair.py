"""Repair a plan: first reflections, scales and shifts, then calibration, then ranges, rounding and biases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from quantsam.errors import PlanError
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.cache import made_once
from quantsam.plans.calibration import calibrate, with_final_grids
from quantsam.plans.make import make_plan
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import prepare
from quantsam.plans.transforms import Transform
from quantsam.progress import Progress
from quantsam.repair.bias import correction_of_biases
from quantsam.repair.extremes import channel_ranges
from quantsam.repair.migrate import scale_of_inputs, scale_of_outputs
from quantsam.repair.ranges import choose_ranges
from quantsam.repair.reflect import reflection_of_streams
from quantsam.repair.rounding import rounding_of_weights
from quantsam.repair.shift import shift_of_streams
from quantsam.repair.streams import scale_of_streams
from quantsam.schemes.repairs import REPAIRS, RepairName, parse_repairs

AFTER_CALIBRATION = ("ranges", "rounding", "bias")
"""Repairs of a calibrated plan; they are made again if other repairs are added."""

REVISION = 2
"""Raise it when repairs find other values than before: cached plans and stored searches then lose effect."""


def repair_plan(
    model: EfficientViTSam,
    plan: Plan,
    images: Iterable[CalibrationImage],
    repairs: str | Sequence[str] = ("reflect", "streams", "migrate", "ranges"),
    *,
    progress: Callable[[str], Progress] | None = None,
) -> Plan:
    """Repair a plan and calibrate it.

    Args:
        model: The model the plan was made for.
        plan: The plan, calibrated or not. If a repair is added, the repairs that come after it are made again.
        images: Calibration images, see `calibrate`; iterated over more than once.
        repairs: Names of the repairs.
        progress: Maps a label to a wrapper of the iteration over the images.

    Returns:
        The plan with further transforms and its grids; scheme, placement and encoder stay the same.

    Raises:
        InputError: There is no such repair.
        PlanError: The plan was made for another model, or quantizes no activation.
        CalibrationError: See `calibrate`.
    """
    wanted = parse_repairs(repairs)
    if not plan.sites:
        raise PlanError(f"a repair needs something that is quantized, got scheme {plan.scheme!r}: take int8")
    if not any(site.role == "activation" for site in plan.sites):
        raise PlanError("a repair needs quantized activations, got a plan of weights alone: quantize both")
    if plan.is_calibrated and set(wanted) <= set(plan.repairs):
        return plan
    before_calibration = [name for name in REPAIRS if name not in AFTER_CALIBRATION]
    added = [name for name in before_calibration if name in wanted and name not in plan.repairs]
    later = before_calibration[before_calibration.index(added[0]) :] if added else []
    bare = _uncalibrated(plan, (*later, *AFTER_CALIBRATION))  # repairs that come after an added one are made again
    wanted = parse_repairs((*wanted, *plan.repairs))

    def wrap(label: str) -> Progress | None:
        return progress(label) if progress else None

    def make() -> Plan:
        repaired = bare
        for name in wanted:
            if name not in AFTER_CALIBRATION and name not in repaired.repairs:
                added = _transforms_of(name, model, repaired, images, wrap)
                repaired = dataclasses.replace(repaired, transforms=repaired.transforms + added)
        repaired = calibrate(model, repaired, images, progress=wrap("calibrating"))
        if "ranges" in wanted:
            chosen = choose_ranges(prepare(model, repaired), repaired, images, wrap("ranges: errors"))
            if chosen is not None:
                repaired = with_final_grids(model, _with_transforms(repaired, chosen))
        if "rounding" in wanted:
            rounded = rounding_of_weights(prepare(model, repaired), repaired, images, wrap("rounding: inputs"))
            if rounded is not None:
                repaired = with_final_grids(model, _with_transforms(repaired, *rounded))
        if "bias" in wanted:
            means = correction_of_biases(prepare(model, repaired), repaired, images, wrap("bias: means"))
            repaired = repaired if means is None else _with_transforms(repaired, means)
        return repaired

    return made_once(model, bare, images, make, f"{','.join(wanted)}, revision {REVISION}")


def _with_transforms(plan: Plan, *found: Transform) -> Plan:
    """Return a plan with further transforms and the same grids."""
    return dataclasses.replace(plan, transforms=plan.transforms + found)


def _uncalibrated(plan: Plan, lost: Sequence[str]) -> Plan:
    """Return a plan without grids, and without some of its repairs."""
    sites = tuple(dataclasses.replace(site, params=None) for site in plan.sites)
    kept = tuple(transform for transform in plan.transforms if transform.repair not in lost)
    return dataclasses.replace(plan, transforms=kept, sites=sites, calibration=None)


def _transforms_of(
    name: RepairName,
    model: EfficientViTSam,
    plan: Plan,
    images: Iterable[CalibrationImage],
    wrap: Callable[[str], Progress | None],
) -> tuple[Transform, ...]:
    """Return the reflections, scales or shifts that a repair adds to a plan."""
    prepared = prepare(model, plan)
    if name == "reflect":
        reflection = reflection_of_streams(prepared, plan, images, wrap("reflect: massive positions"))
        return () if reflection is None else (reflection,)
    ranges = channel_ranges(prepared, images, wrap(f"{name}: ranges"))
    made: list[Transform | None] = []
    if name == "streams":
        # the same for all schemes of a placement: a search chooses formats layer by layer after them
        eight_bits = dataclasses.replace(make_plan(model, "int8", plan.placement), transforms=plan.transforms)
        made = [scale_of_streams(prepared, eight_bits, ranges, images, wrap("streams: strengths"))]
    elif name == "shift":
        made = [shift_of_streams(prepared, plan, ranges, images, wrap("shift: readers"))]
    else:
        made = [scale_of_inputs(prepared, plan, ranges, images, wrap(f"{name}: inputs"))]
        made.append(scale_of_outputs(prepared, plan, ranges, images, wrap(f"{name}: outputs")))
    return tuple(transform for transform in made if transform is not None)
