"""Repair a plan: transforms that keep what the float model computes, one after the other, then calibration anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence, Sized
from typing import Literal, get_args

from quantsam.errors import InputError, PlanError, nearest
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.cache import calibrate_once
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import prepare
from quantsam.plans.transforms import ScaleInputs, ScaleOutputs, ScaleStreams, Transform
from quantsam.progress import Progress
from quantsam.repair.migrate import scale_of_inputs, scale_of_outputs
from quantsam.repair.ranges import channel_ranges
from quantsam.repair.streams import scale_of_streams

RepairName = Literal["streams", "migrate"]
REPAIRS: tuple[RepairName, ...] = get_args(RepairName)
"""In the order in which they are applied."""

_MADE_BY: dict[RepairName, tuple[type[Transform], ...]] = {
    "streams": (ScaleStreams,),
    "migrate": (ScaleInputs, ScaleOutputs),
}


def parse_repairs(text: str | Sequence[str]) -> tuple[RepairName, ...]:
    """Read names of repairs, `streams,migrate`, in any order.

    Returns:
        Each once, in the order in which they are applied.

    Raises:
        InputError: One is not known, or there is none.

    >>> parse_repairs("migrate, streams")
    ('streams', 'migrate')
    """
    names = [name.strip().lower() for name in (text.split(",") if isinstance(text, str) else text)]
    for name in names:
        if name not in REPAIRS:
            raise InputError(f"a repair must be one of {', '.join(REPAIRS)}, got {name!r}: {nearest(name, REPAIRS)}")
    if not names:
        raise InputError(f"repairs must be some of {', '.join(REPAIRS)}, got none")
    return tuple(name for name in REPAIRS if name in names)


def repair(
    model: EfficientViTSam,
    plan: Plan,
    images: Sequence[CalibrationImage] | Sized,
    repairs: str | Sequence[str] = REPAIRS,
    *,
    progress: Callable[[str], Progress] | None = None,
) -> Plan:
    """Repair a plan and calibrate it.

    Args:
        model: The model the plan was made for.
        plan: Calibrated or not; what was repaired already stays as it is.
        images: To calibrate on, see `calibrate`; gone through more than once.
        repairs: Which repairs.
        progress: Given a label, returns what wraps the iteration over the images.

    Returns:
        The plan with further transforms and its grids; of the same scheme, placement and encoder.

    Raises:
        InputError: There is no such repair.
        PlanError: The plan was made for another model, or quantizes nothing.
        CalibrationError: See `calibrate`.
    """
    wanted = parse_repairs(repairs)
    if not plan.sites:
        raise PlanError(f"a repair needs something that is quantized, got scheme {plan.scheme!r}: take int8")

    def wrap(label: str) -> Progress | None:
        return progress(label) if progress else None

    for name in wanted:
        if any(isinstance(transform, _MADE_BY[name]) for transform in plan.transforms):
            continue  # done before: once more would find nothing
        prepared = prepare(model, plan)
        ranges = channel_ranges(prepared, images, wrap(f"{name}: ranges"))  # type: ignore[arg-type]
        made: list[Transform | None] = []
        if name == "streams":
            made = [scale_of_streams(prepared, ranges)]
        else:
            tried = scale_of_inputs(prepared, plan, ranges, images, wrap(f"{name}: strengths"))  # type: ignore[arg-type]
            made = [tried, scale_of_outputs(plan, ranges)]
        added = tuple(transform for transform in made if transform is not None)
        sites = tuple(dataclasses.replace(site, params=None) for site in plan.sites)
        plan = dataclasses.replace(plan, transforms=plan.transforms + added, sites=sites, calibration=None)
    return calibrate_once(model, plan, images, progress=wrap("calibrating"))  # type: ignore[arg-type]
