"""A sensitivity study: measure all rows with one calibration and one pass over the images."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from quantsam.data.dataset import Dataset
from quantsam.errors import InputError, one_of
from quantsam.evaluation.ahead import images_ahead
from quantsam.evaluation.evaluator import journals_of
from quantsam.evaluation.journal import Outcomes, open_journal
from quantsam.evaluation.prompts import parse_prompt
from quantsam.evaluation.record_fields import exactness
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.progress import Progress
from quantsam.results.record import JsonValue, identity
from quantsam.results.sensitivity_record import RowScore, SensitivityRecord
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import PYTORCH, surroundings
from quantsam.sensitivity.gradient import gradient_noise
from quantsam.sensitivity.measure import RowMeter
from quantsam.sensitivity.racing import undecided
from quantsam.sensitivity.rows import MODES, PARTS, UNITS, Mode, Part, Row, Unit, make_rows
from quantsam.sensitivity.table import RowPass, pictures_with_objects

Method = Literal["race", "exact", "gradient"]
METHODS: tuple[Method, ...] = get_args(Method)
_ENGINES_AT_ONCE = 8  # each holds a compiled model


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Settings of a study.

    Attributes:
        by: Unit of a row: `layer`, `block`, `stage` or `kind`.
        mode: `in`: quantize only the unit; `out`: quantize all but the unit.
        part: `both`, `weights`, `activations`, or `each` in separate rows.
        method: `exact`: all images for all rows. `race`: a few images for all rows, then more where the ranking is not
            decided. `gradient`: an estimate of the embedding's noise from a few backward passes per image.
        prompts: Kind of prompts.
        engine: Engine that runs the rows.
        first: `race` and `gradient`: number of images that every row is measured on.
        most: `race`: maximum number of images; ranks that are undecided then stay so, within their standard error.
        step: `race`: number of images per further round.
        least: `race`: rows whose masks lose less than this, in points, need no rank.
        seed: Seed for the order of the images.
    """

    by: Unit = "layer"
    mode: Mode = "in"
    part: Part = "both"
    method: Method = "race"
    prompts: str = "box"
    engine: str = PYTORCH
    first: int = 8
    most: int = 48
    step: int = 4
    least: float = 0.5
    seed: int = 0


def measure_sensitivity(
    model: EfficientViTSam,
    plan: Plan,
    dataset: Dataset,
    settings: StudySettings = StudySettings(),
    *,
    store: ResultStore | None = None,
    progress: Callable[[str], Progress] | None = None,
    notes: dict[str, JsonValue] | None = None,
    record_id: str | None = None,
    workers: int | None = None,
) -> SensitivityRecord:
    """Measure which layers hurt.

    Args:
        model: The float model.
        plan: The calibrated plan; it quantizes everything that a row may quantize.
        dataset: Dataset to score on; images without objects are left out.
        settings: Settings of the study.
        store: Store to which the record is appended. If it already holds this study, that record is returned. Results
            per image are kept beside the store until the study ends, so the same call resumes an interrupted study,
            with the same figures.
        progress: Maps a label to a wrapper of the iteration over the images.
        notes: Entries to add to the record's settings.
        record_id: The record's id; None for an id made from everything that the figures depend on.
        workers: Number of rows to compute in parallel; None for the number of processors.

    Returns:
        A record with one entry per row in `rows`. A row's figures are paired with FP32's figures, object by object.

    Raises:
        InputError: A setting is unknown or out of range, or nothing is quantized.
        DatasetError: The dataset has no object to score.
        StoreError: The store cannot be written, or another process runs the same study.
    """
    check_settings(settings)
    rows = make_rows(plan, by=settings.by, mode=settings.mode, part=settings.part)
    ids = pictures_with_objects(dataset)
    if settings.method != "exact":
        random.Random(settings.seed).shuffle(ids)
    depends_on = _depends_on(model, plan, dataset, settings)
    record_id = record_id or identity(depends_on)
    found = store.find(record_id) if store is not None else None
    if isinstance(found, SensitivityRecord):
        return found

    def finish(scores: Sequence[RowScore], figures: dict[str, float | int | None]) -> SensitivityRecord:
        record = _record(model, plan, dataset, settings, record_id, scores, figures, notes)
        if store is not None:
            store.append(record)
        return record

    if settings.method == "gradient":
        scores = _by_gradient(model, plan, dataset, rows, ids[: settings.first], settings, progress)
        return finish(scores, {"images": min(settings.first, len(ids))})
    at_once = len(rows) if settings.engine == PYTORCH else _ENGINES_AT_ONCE
    parts = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
    base = dataclasses.replace(plan, sites=() if settings.mode == "in" else plan.sites)
    prompt = parse_prompt(settings.prompts)
    scores = []
    # the journal is removed when the record is in the store
    with open_journal(journals_of(store), depends_on) if store else nullcontext(Outcomes()) as outcomes:
        for number, part in enumerate(parts):
            label = settings.method if len(parts) == 1 else f"{settings.method} {number + 1}/{len(parts)}"
            wrap = progress(label) if progress else None
            with RowMeter(model, base, part, engine=settings.engine, prompt=prompt, workers=workers) as meter:
                todo = RowPass(meter, part, dataset, outcomes, number)
                if settings.method == "exact":
                    todo.visit(ids, progress=wrap)
                else:
                    _race(todo, [row.name for row in part], ids, settings, wrap)
            scores += [todo.table.score(row) for row in part]
        return finish(scores, todo.table.figures())


def check_settings(settings: StudySettings) -> None:
    """Check, before long work, that a study is possible.

    Raises:
        InputError: A setting is unknown or out of range.
    """
    if settings.method not in METHODS:
        raise InputError(one_of("method", settings.method, METHODS))
    if settings.first < 2 or settings.step < 1:
        raise InputError(f"first must be at least 2 and step at least 1, got {settings.first} and {settings.step}")
    for name, known in (("by", tuple(UNITS)), ("mode", MODES), ("part", tuple(PARTS))):
        word = getattr(settings, name)
        if word not in known:
            raise InputError(one_of(name, word, known))
    if settings.method == "gradient" and (settings.mode != "in" or settings.engine != PYTORCH):
        raise InputError(
            f"method gradient must have mode 'in' and engine 'pytorch', got {settings.mode!r} and {settings.engine!r}: "
            "take method race"
        )
    parse_prompt(settings.prompts)


def _race(
    todo: RowPass, names: Sequence[str], ids: Sequence[int], settings: StudySettings, progress: Progress | None
) -> None:
    """Measure all rows on a few images, then on more images the rows that cannot be distinguished."""
    todo.visit(ids[: settings.first], progress=progress)
    for start in range(settings.first, min(settings.most, len(ids)), settings.step):
        wanted = undecided(todo.table.losses, settings.least)
        if not wanted:
            break
        todo.visit(ids[start : start + settings.step], [name for name in names if name in wanted], progress)


def _by_gradient(
    model: EfficientViTSam,
    plan: Plan,
    dataset: Dataset,
    rows: Sequence[Row],
    ids: Sequence[int],
    settings: StudySettings,
    progress: Callable[[str], Progress] | None,
) -> list[RowScore]:
    pictures: Iterable[Any] = images_ahead(dataset, ids)
    wrapped = progress("gradient")(pictures, len(ids)) if progress else pictures
    noise = gradient_noise(model, plan, (picture for _, picture in wrapped), seed=settings.seed)
    found = []
    for row in rows:
        share = math.fsum(noise[site] for site in {s.key for s in row.plan.sites})
        sqnr = -10 * math.log10(share) if share > 0 else None
        found.append(RowScore(row.unit, row.kind, row.part, row.layers, None, None, None, None, sqnr, len(ids), 0))
    return found


def _depends_on(model: EfficientViTSam, plan: Plan, dataset: Dataset, settings: StudySettings) -> dict[str, JsonValue]:
    """Return everything that a study's figures depend on."""
    return {
        "study": dataclasses.asdict(settings),
        "weights_digest": model.weights_digest(),
        "plan_digest": plan.digest,
        "dataset_digest": dataset.digest,
        "device": str(model.device),
        "threads": torch.get_num_threads() if settings.method == "gradient" else 1,  # rows have one each
        **surroundings(settings.engine),
    }


def _record(
    model: EfficientViTSam,
    plan: Plan,
    dataset: Dataset,
    settings: StudySettings,
    record_id: str,
    scores: Sequence[RowScore],
    figures: dict[str, float | int | None],
    notes: dict[str, JsonValue] | None,
) -> SensitivityRecord:
    info = plan.calibration
    chosen = dataclasses.asdict(settings)
    return SensitivityRecord(
        id=record_id,
        model=model.name,
        weights_digest=model.weights_digest(),
        scheme=plan.scheme,
        scheme_digest=plan.scheme_digest,
        plan_digest=plan.digest,
        placement=plan.placement,
        engine=chosen.pop("engine"),
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        prompt=parse_prompt(chosen.pop("prompts")).name,
        calibration=info.name if info else None,
        calibration_digest=info.digest if info else None,
        figures={"rows": len(scores), **figures},
        environment=surroundings(settings.engine),
        settings={**chosen, **exactness(plan, True), **(notes or {})},
        results={"rows": [score.to_json_dict() for score in scores]},
    )
