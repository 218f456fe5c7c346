"""Does an engine give the accuracy that the simulation predicted? Compare both on the same objects, mask by mask."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from quantsam.data.dataset import Dataset
from quantsam.diagnostics.columns import ENGINE, FLOAT, SIMULATED, Comparison, Deployed, Table
from quantsam.engines.encoder import EngineEncoder
from quantsam.engines.executed import quantized_but_float
from quantsam.errors import InputError
from quantsam.evaluation.prompts import parse_prompt
from quantsam.evaluation.record_fields import exactness, plan_fields, sizes
from quantsam.metrics.summary import CONFIDENCE_95, ObjectScore
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.progress import Progress
from quantsam.results.agreement_record import AgreementRecord
from quantsam.results.record import JsonValue
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import surroundings


def measure_agreement(
    model: EfficientViTSam,
    plans: Sequence[Plan],
    dataset: Dataset,
    *,
    engines: Sequence[str] | None = None,
    prompts: str | Sequence[str] = "box",
    exact: bool = False,
    noise_images: int = 0,
    store: ResultStore | None = None,
    progress: Progress | None = None,
    settings: dict[str, JsonValue] | None = None,
) -> list[AgreementRecord]:
    """Score plans in the simulator and on their engines, in one pass over a dataset.

    Args:
        model: The float model.
        plans: Calibrated plans; each pair of scheme and engine once.
        dataset: The dataset to score on.
        engines: The engine for each plan; by default the engine of the plan's placement.
        prompts: One or several kinds of prompts.
        exact: Whether to simulate in exact integers too.
        noise_images: Number of images for the noise floor, which also runs simulation and engine on one thread, and the
            simulation in exact integers.
        store: The store that receives the records.
        progress: Wraps the iteration over the images.
        settings: Added to each record's settings.

    Returns:
        A record for each plan and prompt, with a `verdict`. Figures: `miou_fp32`, `miou_simulated`, `miou` (engine),
        `gap` (engine minus simulation, in points) with `gap_standard_error` and the bounds of its 95 % interval
        `gap_low`, `gap_high`, `mask_iou` (mean IoU of the two masks) and `identical` (masks equal in every pixel, in
        percent). Prefixes mark other comparisons: `exact_` with exact integers; `saturating_` with simulated
        saturation, if sums saturate on this processor; `threads_simulated_`, `threads_engine_` and `rounding_`
        (simulation in floats against integers) for the noise floor; `between_ENGINE_` with another engine for the same
        scheme. `..._objects` counts the objects of comparisons on the first images only. Also `convolutions`,
        `convolutions_quantized`, `convolutions_integer`, counted in the graph that ran.

    Raises:
        InputError: A prompt is unknown, or a scheme is given twice for an engine.
        PlanError: A plan does not fit its engine.
        EngineError: An engine is not installed.
        DatasetError: The dataset has no object to score.
    """
    kinds = [parse_prompt(prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
    targets: Sequence[str | None] = engines or [None] * len(plans)
    deployed = [Deployed.of(plan, target) for plan, target in zip(plans, targets, strict=True)]
    names = [one.name for one in deployed]
    if len(set(names)) < len(names):
        raise InputError(f"plans must differ in scheme or engine, got {_twice(names)} twice: leave one out")
    table = Table(model, deployed, exact, noise_images)
    table.fill(dataset, kinds, progress)
    records = [
        _record(model, table, one, prompt.name, dataset, settings or {})
        for one, prompt in itertools.product(deployed, kinds)
    ]
    if store is not None:
        for record in records:
            store.append(record)
    return records


def _record(
    model: EfficientViTSam, table: Table, one: Deployed, prompt: str, dataset: Dataset, settings: dict[str, JsonValue]
) -> AgreementRecord:
    name, plan = one.name, one.plan
    engine = table.columns[f"{name}/{ENGINE}"]
    assert isinstance(engine.encoder, EngineEncoder)
    deployed = model.with_encoder(engine.encoder)
    ways = {"miou_fp32": FLOAT, "miou_simulated": f"{name}/{SIMULATED}", "miou": f"{name}/{ENGINE}"}
    figures: dict[str, float | int | None] = {k: _miou(table.columns[c].scores[prompt]) for k, c in ways.items()}
    count = figures["count"] = len(engine.scores[prompt])
    for key in table.meetings:
        if key.startswith(f"{name}/"):
            prefix = key.removeprefix(f"{name}/")
            found = table.comparison(key, prompt)
            figures |= {f"{prefix}{k}": v for k, v in _figures(found).items()}
            if found.count < count:
                figures[f"{prefix}objects"] = found.count
    ran = table.ran[name]
    quantized = {weight.label for weight, _ in plan.quantized_convolutions()}
    figures["convolutions"] = len(ran)
    figures["convolutions_quantized"] = sum(e.label in quantized for e in ran)
    figures["convolutions_integer"] = sum(e.is_integer for e in ran)
    more: dict[str, JsonValue] = {
        "threads": torch.get_num_threads(),
        **exactness(plan, engine.encoder.exact),
        **settings,
    }
    return AgreementRecord(
        model=model.name,
        weights_digest=model.weights_digest(),
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        prompt=prompt,
        figures=figures | sizes(deployed),
        environment=surroundings(engine.encoder.engine),
        settings=more,
        results={"silently_float": list(quantized_but_float(plan, ran)), "between": table.beside[name]},
        scores=tuple(engine.scores[prompt]),
        **plan_fields(deployed),
    )


def _figures(found: Comparison) -> dict[str, float | int | None]:
    gap, error = found.gap.mean_difference, found.gap.standard_error
    half = None if error is None else CONFIDENCE_95 * error
    return {
        "gap": gap,
        "gap_standard_error": error,
        "gap_low": None if half is None else gap - half,
        "gap_high": None if half is None else gap + half,
        "mask_iou": found.mask_iou_percent,
        "identical": found.identical_percent,
    }


def _miou(scores: Sequence[ObjectScore]) -> float:
    return 100 * sum(score.iou for score in scores) / len(scores)


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)
