"""Plans of several schemes, calibrated together."""

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
    """Return a calibrated plan for each scheme, all from one pass over the images.

    Calibration runs the float model, so what a site's observer sees depends on its own specification alone: schemes
    that quantize a site alike share what was measured there. Schemes that quantize a site in different
    ways take further passes, so `images` must be something that can be iterated over again.

    Args:
        model: In float.
        schemes: Schemes, or what `load_scheme` takes; their repairs are not made here.
        images: See `calibrate`; not needed where no activation is quantized.
        placement: Where tensors are quantized.
        weights: Quantize weights.
        activations: Quantize activations.
        progress: Wraps the iteration over the images.
        calibrate_one: Does a pass, if it is to be done in another way than here: by several workers, for example.

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
    """Calibrate one plan that holds every site once a specification, then hand the grids out.

    Two specifications of one site need two observers at one place; they are measured in separate
    passes, so there are as many passes as the most contested site has specifications.
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
