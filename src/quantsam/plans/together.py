"""Calibrate plans of several schemes together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from quantsam.models.sam import EfficientViTSam
from quantsam.plans.cache import calibrate_once
from quantsam.plans.make import make_plan
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.prepare import prepare
from quantsam.plans.shared_grids import with_shared_grids
from quantsam.progress import Progress
from quantsam.quant.params import QParams
from quantsam.schemes.scheme import Scheme


def calibrate_together(
    model: EfficientViTSam,
    schemes: Sequence[Scheme | str],
    images: Iterable[CalibrationImage],
    placement: str = "thesis",
    *,
    weights: bool = True,
    activations: bool = True,
    progress: Progress | None = None,
    calibrate_one: Callable[[Plan], Plan] | None = None,
) -> list[Plan]:
    """Return a calibrated plan for each scheme, from one pass over the images where possible.

    Calibration runs the float model, so a site's observations depend only on the site's own specification. Schemes
    that quantize a site alike share its measurements. Schemes that quantize a site differently need further
    passes, so it must be possible to iterate over `images` again.

    Args:
        model: The float model.
        schemes: Schemes, or anything that `load_scheme` accepts; their repairs are not made here.
        images: See `calibrate`; not needed if no activation is quantized.
        placement: Where tensors are quantized.
        weights: Quantize weights.
        activations: Quantize activations.
        progress: Wraps the iteration over the images.
        calibrate_one: Replaces the default pass, for example to use several workers.

    Raises:
        SchemeError: A scheme does not fit the model.
        CalibrationError: See `calibrate`.
    """
    plans = [make_plan(model, s, placement, weights=weights, activations=activations) for s in schemes]
    if not plans:
        return []

    def here(plan: Plan) -> Plan:
        return calibrate_once(model, plan, images, progress=progress)

    specified: dict[tuple[str, str], PlanSite] = {}
    for plan in plans:
        for site in plan.sites:
            specified.setdefault((site.key, repr(site.spec)), site)
    return [with_shared_grids(prepare(model, p), p) for p in _passes(plans, specified, calibrate_one or here)]


def _passes(
    plans: Sequence[Plan], specified: dict[tuple[str, str], PlanSite], calibrate_one: Callable[[Plan], Plan]
) -> list[Plan]:
    """Calibrate one plan that holds every site once per specification, then distribute the grids.

    Two specifications of one site need two observers at one place, so they are measured in separate
    passes. The largest number of specifications of a site is the number of passes.
    """
    passes: list[dict[str, PlanSite]] = []
    for (key, _), site in specified.items():
        free = next((sites for sites in passes if key not in sites), None)
        if free is None:
            passes.append(free := {})
        free[key] = site
    params: dict[tuple[str, str], QParams | None] = {}
    info = None
    for sites in passes:
        done = calibrate_one(dataclasses.replace(plans[0], sites=tuple(sites.values())))
        info = done.calibration or info
        params |= {(site.key, repr(site.spec)): site.params for site in done.sites}
    return [
        dataclasses.replace(
            plan,
            sites=tuple(dataclasses.replace(s, params=params[s.key, repr(s.spec)]) for s in plan.sites),
            calibration=info if any(s.role == "activation" for s in plan.sites) else None,
        )
        for plan in plans
    ]
