"""A sensitivity study: one calibration, one pass over the pictures, all rows."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from quantsam.data.dataset import Dataset
from quantsam.errors import DatasetError, InputError, nearest
from quantsam.evaluation.ahead import images_ahead
from quantsam.evaluation.evaluator import journals_of
from quantsam.evaluation.journal import Outcomes, open_journal
from quantsam.evaluation.prompts import parse_prompt
from quantsam.evaluation.runner import Progress
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.results.record import JsonValue, Record, environment
from quantsam.results.sensitivity import KIND, RowScore
from quantsam.results.store import ResultStore
from quantsam.sensitivity.gradient import gradient_noise
from quantsam.sensitivity.measure import PYTORCH, RowMeter
from quantsam.sensitivity.racing import mean_and_error, undecided
from quantsam.sensitivity.rows import GROUPS, MODES, PARTS, Row, make_rows

METHODS = ("race", "exact", "gradient")
_ENGINES_AT_ONCE = 8  # each holds a compiled model


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a study does.

    Attributes:
        by: What a row is about: `layer`, `block`, `stage` or `kind`.
        mode: `in`: quantize the unit alone; `out`: all but the unit.
        part: `both`, `weights`, `activations`, or `each` in rows of its own.
        method: `exact`: all pictures for all rows. `race`: a few pictures for all, then more where the ranking is not
            decided. `gradient`: an estimate of the embedding's noise from one backward pass a picture.
        prompts: Which prompts.
        engine: What computes the rows.
        first: `race` and `gradient`: pictures that every row is measured on.
        most: `race`: pictures at most; what is undecided then stays so, within its standard error.
        step: `race`: pictures a round after that.
        least: `race`: rows whose masks lose less than this, in points, need no rank.
        seed: Order of the pictures.
    """

    by: str = "layer"
    mode: str = "in"
    part: str = "both"
    method: str = "race"
    prompts: str = "box"
    engine: str = PYTORCH
    first: int = 8
    most: int = 48
    step: int = 4
    least: float = 0.5
    seed: int = 0


def study(
    model: EfficientViTSam,
    plan: Plan,
    dataset: Dataset,
    settings: StudySettings = StudySettings(),
    *,
    store: ResultStore | None = None,
    progress: Callable[[str], Progress] | None = None,
    notes: dict[str, JsonValue] | None = None,
) -> Record:
    """Find out which layers hurt.

    Args:
        model: In float.
        plan: Calibrated, with everything quantized that a row may quantize.
        dataset: What to score on; pictures without objects are left out.
        settings: What to do.
        store: Where the record is appended. Until then, what came of each picture is kept beside the store, so that
            the same call goes on where a killed one stopped, to the same figures.
        progress: Given a label, returns what wraps the iteration over the pictures.
        notes: Added to the record's settings.

    Returns:
        A record of kind `sensitivity`; `results.sensitivity.rows_of` gives its rows. Figures of a row are paired with
        FP32's, object by object.

    Raises:
        InputError: A setting is not known, or nothing is quantized.
        DatasetError: The dataset has no object to score.
        StoreError: The store cannot be written, or another process is at the same study.
    """
    check_settings(settings)
    rows = make_rows(plan, by=settings.by, mode=settings.mode, part=settings.part)
    ids = [i for i in dataset.image_ids if any(not a.is_crowd and a.area >= 1 for a in dataset.annotations(i))]
    if not ids:
        raise DatasetError(
            f"dataset {dataset.name} must have an object to score, got none (crowds and areas below 1 are left out)"
        )
    if settings.method != "exact":
        random.Random(settings.seed).shuffle(ids)
    if settings.method == "gradient":
        scores = _by_gradient(model, plan, dataset, rows, ids[: settings.first], settings, progress)
        figures: dict[str, float | int | None] = {"images": min(settings.first, len(ids))}
        return _finish(model, plan, dataset, settings, scores, figures, store, notes)
    parts = [rows]
    if settings.engine != PYTORCH:
        parts = [rows[i : i + _ENGINES_AT_ONCE] for i in range(0, len(rows), _ENGINES_AT_ONCE)]
    scores = []
    table = _Table()
    for number, part in enumerate(parts):
        subject = _subject(model, plan, dataset, settings) | {"rows": [row.name for row in part]}
        keeper = open_journal(journals_of(store), subject) if store else nullcontext(Outcomes())
        label = settings.method if len(parts) == 1 else f"{settings.method} {number + 1}/{len(parts)}"
        with keeper as outcomes:
            base = dataclasses.replace(plan, sites=() if settings.mode == "in" else plan.sites)
            prompt = parse_prompt(settings.prompts)
            with RowMeter(model, base, part, engine=settings.engine, prompt=prompt) as meter:
                table = _fill(meter, part, dataset, ids, settings, outcomes, progress(label) if progress else None)
            scores += [table.score(row) for row in part]
            if number == len(parts) - 1:  # the journal is removed when the record is in the store
                return _finish(model, plan, dataset, settings, scores, table.figures(), store, notes)
    raise AssertionError("a study has rows")


def check_settings(settings: StudySettings) -> None:
    """Make sure, before long work, that a study can be done.

    Raises:
        InputError: A setting is not known.
    """
    if settings.method not in METHODS:
        hint = nearest(settings.method, METHODS)
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {settings.method!r}: {hint}")
    if settings.first < 2 or settings.step < 1:
        raise InputError(f"first must be at least 2 and step at least 1, got {settings.first} and {settings.step}")
    for name, known in (("by", GROUPS), ("mode", MODES), ("part", PARTS)):
        word = getattr(settings, name)
        if word not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {word!r}: {nearest(word, known)}")
    if settings.method == "gradient" and (settings.mode != "in" or settings.engine != PYTORCH):
        raise InputError(
            f"method gradient must have mode 'in' and engine 'pytorch', got {settings.mode!r} and {settings.engine!r}: "
            "take method race"
        )
    parse_prompt(settings.prompts)


class _Table:
    """What came of all pictures so far."""

    def __init__(self) -> None:
        self.losses: dict[str, dict[int, float]] = {}  # of a row, by picture: mean loss of masks, in points
        self._drops: dict[str, list[float]] = {}
        self._mask_losses: dict[str, list[float]] = {}
        self._noise: dict[str, float] = {}
        self._signal: dict[str, float] = {}
        self._float: list[float] = []
        self.images = 0

    def take(self, outcome: dict[str, Any]) -> None:
        """Add a picture."""
        self.images += 1
        ious = [iou for _, _, iou in outcome["objects"]]
        self._float += ious
        for name, (noise, own, same) in outcome["rows"].items():
            loss = [100 * (1 - s) for s in same]
            self.losses.setdefault(name, {})[outcome["image_id"]] = math.fsum(loss) / len(loss)
            self._mask_losses.setdefault(name, []).extend(loss)
            drops = [100 * (a - b) for a, b in zip(ious, own, strict=True)]
            self._drops.setdefault(name, []).extend(drops)
            self._noise[name] = self._noise.get(name, 0.0) + noise
            self._signal[name] = self._signal.get(name, 0.0) + outcome["signal"]

    def score(self, row: Row) -> RowScore:
        """Return what a row came to."""
        name = row.name
        drop, drop_se = mean_and_error(self._drops[name])
        loss, loss_se = mean_and_error(self._mask_losses[name])
        noise, signal = self._noise[name], self._signal[name]
        sqnr = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None
        images, objects = len(self.losses[name]), len(self._drops[name])
        return RowScore(row.unit, row.kind, row.part, row.layers, drop, drop_se, loss, loss_se, sqnr, images, objects)

    def figures(self) -> dict[str, float | int | None]:
        """Return the record's figures."""
        miou, error = mean_and_error([100 * iou for iou in self._float])
        count = len(self._float)
        return {"miou_fp32": miou, "standard_error": error, "count": count, "images": self.images}


def _fill(
    meter: RowMeter,
    rows: Sequence[Row],
    dataset: Dataset,
    ids: Sequence[int],
    settings: StudySettings,
    outcomes: Outcomes,
    progress: Progress | None,
) -> _Table:
    """Measure all rows on all pictures, or race."""
    table = _Table()
    known = {outcome["image_id"]: outcome for outcome in outcomes.outcomes()}
    numbers = {row.name: index for index, row in enumerate(rows)}

    def measured(wanted: Sequence[str]) -> Callable[[int, Any], None]:
        def one(image_id: int, picture: Any) -> None:
            outcome = meter.measure(dataset, image_id, picture, [numbers[name] for name in wanted])
            outcomes.append(outcome)
            table.take(outcome)

        return one

    def visit(batch: Iterable[int], wanted: Sequence[str]) -> None:
        todo = []
        for image_id in batch:
            if image_id in known:
                table.take(known[image_id])
            else:
                todo.append(image_id)
        pictures: Iterable[Any] = images_ahead(dataset, todo)
        one = measured(wanted)
        for image_id, picture in progress(pictures, len(todo)) if progress else pictures:
            one(image_id, picture)

    if settings.method == "exact":
        visit(ids, list(numbers))
        return table
    visit(ids[: settings.first], list(numbers))
    for start in range(settings.first, min(settings.most, len(ids)), settings.step):
        wanted = undecided(table.losses, settings.least)
        if not wanted:
            break
        visit(ids[start : start + settings.step], [name for name in numbers if name in wanted])
    return table


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
        share = sum(noise[site] for site in {s.key for s in row.plan.sites})
        sqnr = -10 * math.log10(share) if share > 0 else None
        found.append(RowScore(row.unit, row.kind, row.part, row.layers, None, None, None, None, sqnr, len(ids), 0))
    return found


def _subject(model: EfficientViTSam, plan: Plan, dataset: Dataset, settings: StudySettings) -> dict[str, JsonValue]:
    """Return all that a study's figures depend on."""
    surroundings = environment() if settings.engine == PYTORCH else environment(settings.engine)
    return {
        "study": dataclasses.asdict(settings),
        "weights_digest": model.weights_digest(),
        "plan_digest": plan.digest,
        "dataset_digest": dataset.digest,
        **surroundings,
    }


def _finish(
    model: EfficientViTSam,
    plan: Plan,
    dataset: Dataset,
    settings: StudySettings,
    scores: Sequence[RowScore],
    figures: dict[str, float | int | None],
    store: ResultStore | None,
    notes: dict[str, JsonValue] | None,
) -> Record:
    info = plan.calibration
    chosen = dataclasses.asdict(settings)
    record = Record(
        kind=KIND,
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
        environment=environment() if settings.engine == PYTORCH else environment(settings.engine),
        settings={**chosen, **(notes or {}), "rows": [score.to_json_dict() for score in scores]},
    )
    if store is not None:
        store.append(record)
    return record
