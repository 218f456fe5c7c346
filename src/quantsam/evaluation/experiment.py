"""Several schemes on one dataset: calibrate, simulate, score, compare object by object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quantsam.data.dataset import Dataset
from quantsam.data.detections import DetectionFile
from quantsam.engines.encoder import make_engine_encoder
from quantsam.evaluation.evaluator import evaluate
from quantsam.evaluation.gallery import keep_gallery
from quantsam.evaluation.runner import Progress
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.cache import calibrate_once
from quantsam.plans.make import make_plan
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import PYTORCH
from quantsam.runtime.sessions import Precision
from quantsam.schemes.scheme import Scheme
from quantsam.simulation.simulator import simulate


@dataclass(frozen=True, slots=True)
class Switches:
    """What of a scheme is carried out.

    Attributes:
        placement: Where tensors are quantized.
        weights: Quantize weights.
        activations: Quantize activations.
    """

    placement: str = "thesis"
    weights: bool = True
    activations: bool = True


def calibrated_plans(
    model: EfficientViTSam,
    schemes: Sequence[Scheme],
    images: Iterable[CalibrationImage],
    switches: Switches,
    progress: Progress | None = None,
    *,
    calibrate_one: Callable[[Plan], Plan] | None = None,
) -> list[Plan]:
    """Return a calibrated plan for each scheme, all from one pass over the images.

    Calibration runs the float model, so a site's grid depends on its own specification alone: schemes
    that quantize a site alike share what was measured there. Schemes that quantize a site in different
    ways take further passes, so `images` must be something that can be iterated over again.

    `calibrate_one` does a pass, if it is to be done in another way than here: by several workers, for example.
    """
    plans = [
        make_plan(model, s, switches.placement, weights=switches.weights, activations=switches.activations)
        for s in schemes
    ]
    if not plans:
        return []

    def here(plan: Plan) -> Plan:
        return calibrate_once(model, plan, images, progress=progress)

    variants: dict[tuple[str, str], Any] = {}
    for plan in plans:
        for site in plan.sites:
            variants.setdefault((site.key, repr(site.spec)), site)
    return _calibrate_together(plans, variants, calibrate_one or here)


def _calibrate_together(
    plans: list[Plan],
    variants: dict[tuple[str, str], Any],
    calibrate_one: Callable[[Plan], Plan],
) -> list[Plan]:
    """Calibrate one plan that holds every site once a specification, then hand the grids out.

    Two specifications of one site need two observers at one place; they are measured in separate
    passes, so there are as many passes as the most contested site has specifications.
    """
    waves: list[dict[str, Any]] = []
    for (key, _), site in variants.items():
        wave = next((w for w in waves if key not in w), None)
        if wave is None:
            waves.append(wave := {})
        wave[key] = site
    params: dict[tuple[str, str], Any] = {}
    info = None
    for wave in waves:
        done = calibrate_one(dataclasses.replace(plans[0], sites=tuple(wave.values())))
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


def score_plans(
    model: EfficientViTSam,
    plans: Sequence[Plan],
    dataset: Dataset,
    *,
    prompts: str = "box",
    detections: DetectionFile | None = None,
    engine: str = PYTORCH,
    precision: Precision = "f32",
    store: ResultStore | None = None,
    settings: dict[str, JsonValue] | None = None,
    progress: Callable[[str], Progress] | None = None,
    gallery: int = 0,
) -> Iterable[Record]:
    """Score the model under each plan; a plan without sites is the float model.

    Args:
        model: In float.
        plans: Calibrated plans.
        dataset: What to score on.
        prompts: Kind of prompt.
        detections: A detector's boxes, instead.
        engine: What computes the embeddings: `pytorch`, where plans are simulated, or an engine, whose placement the
            plans must have.
        precision: Of what an engine does not quantize.
        store: Where each record is appended; see `evaluate`.
        settings: Added to each record's settings.
        progress: Given a label, returns what wraps the iteration over the images.
        gallery: Keep in the store pictures of so many of the worst, median and best objects of each quantized record;
            a detector's boxes have none.

    Yields:
        One record a plan, in order.
    """
    for plan in plans:
        subject = quantized_model(model, plan, engine, precision)
        wrap = progress(plan.scheme) if progress else None
        record = evaluate(
            subject, dataset, prompts=prompts, detections=detections, store=store, progress=wrap, settings=settings
        )
        if gallery and plan.sites and store is not None and detections is None:
            keep_gallery(store, subject, record, dataset, each=gallery)
        yield record


def quantized_model(
    model: EfficientViTSam, plan: Plan, engine: str = PYTORCH, precision: Precision = "f32"
) -> EfficientViTSam:
    """Return a model whose encoder runs a plan: simulated, or in an engine; a plan without sites is FP32."""
    if engine != PYTORCH:
        return model.with_encoder(make_engine_encoder(model, plan, engine, precision=precision))
    return model.with_encoder(simulate(model, plan)) if plan.sites else model
