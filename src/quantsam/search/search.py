"""The search: measure layers, solve, verify, improve, and confirm on pictures that it has not seen."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quantsam.data.dataset import Dataset
from quantsam.errors import InputError, nearest
from quantsam.evaluation.evaluator import journals_of
from quantsam.evaluation.journal import Outcomes, open_journal
from quantsam.evaluation.prompts import parse_prompt
from quantsam.evaluation.runner import Progress
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import resolve_sites
from quantsam.plans.sizes import account
from quantsam.results.record import JsonValue, Record, environment
from quantsam.results.search import FOUND, KIND, SearchEntry, pareto
from quantsam.results.sensitivity import RowScore, rows_of
from quantsam.results.store import ResultStore
from quantsam.schemes.load import FLOAT, load_scheme
from quantsam.search.budget import Budget
from quantsam.search.costs import (
    CostTable,
    LatencyCheck,
    bit_operations_table,
    check_latency,
    latency_table,
    size_table,
)
from quantsam.search.improve import can_improve, improve
from quantsam.search.palette import Choice, Palette
from quantsam.search.program import best_choice, check_budget
from quantsam.search.verify import Verifier
from quantsam.sensitivity.measure import PYTORCH
from quantsam.sensitivity.study import StudySettings, study
from quantsam.sensitivity.table import pictures_with_objects

COSTS = ("size", "bit-operations", "latency")
HAND_MADE = ("int8", "mix-dwsc", "mix-mbc-neck")
_HALVINGS = 5  # of the gap between the largest scheme that loses too much and the smallest that does not


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What a search does.

    Attributes:
        cost: What is to be small: `size`, `bit-operations` or `latency`.
        budget: The most that a scheme may cost; None for the whole front.
        max_drop: Points of mIoU that may be lost; the cheapest scheme within is chosen. Excludes `budget`.
        engine: An engine; the palette must have its placement. `latency` needs one, for others it is optional: the
            chosen scheme is then confirmed on it.
        prompts: Which prompts.
        first: Pictures on which every layer is measured in every format.
        images: Pictures on which whole schemes are measured, the first among them.
        held_out: Further pictures, which confirm.
        points: Budgets for which the integer program is solved; also the number of schemes kept of the front.
        trials: Schemes that Optuna may try; None for 48 where it is installed.
        seed: Order of the pictures, and of the trials.
        rounds: `latency`: inferences a figure.
    """

    cost: str = "size"
    budget: Budget | None = None
    max_drop: float | None = None
    engine: str | None = None
    prompts: str = "box"
    first: int = 8
    images: int = 32
    held_out: int = 64
    points: int = 10
    trials: int | None = None
    seed: int = 0
    rounds: int = 20


def check_settings(settings: SearchSettings) -> None:
    """Make sure, before long work, that a search can be done.

    Raises:
        InputError: A setting is not known or out of range.
    """
    if settings.cost not in COSTS:
        raise InputError(
            f"cost must be one of {', '.join(COSTS)}, got {settings.cost!r}: {nearest(settings.cost, COSTS)}"
        )
    if settings.cost == "latency" and settings.engine in (None, "tensorrt"):
        raise InputError(f"cost latency needs engine onnxruntime or openvino, got {settings.engine}: name one")
    if settings.budget is not None and settings.max_drop is not None:
        raise InputError("budget and max_drop exclude each other: the most accurate within, or the cheapest within")
    if settings.max_drop is not None and not settings.max_drop >= 0:
        raise InputError(f"max_drop must be at least 0 points of mIoU, got {settings.max_drop:g}")
    if settings.first < 2 or settings.images < settings.first or min(settings.held_out, settings.points - 2) < 0:
        raise InputError(
            "a search needs first >= 2, images >= first, held_out >= 0 and points >= 2, got "
            f"{settings.first}, {settings.images}, {settings.held_out} and {settings.points}"
        )
    if settings.trials and not can_improve():
        raise InputError(f"{settings.trials} trials need optuna: pip install 'quantsam[search]', or give 0 trials")
    parse_prompt(settings.prompts)


def search_schemes(
    model: EfficientViTSam,
    palette: Palette,
    dataset: Dataset,
    settings: SearchSettings = SearchSettings(),
    *,
    store: ResultStore | None = None,
    progress: Callable[[str], Progress] | None = None,
    notes: dict[str, JsonValue] | None = None,
) -> Record:
    """Find formats for all layers.

    Every layer is measured alone in every format (`sensitivity`); an integer program then gives the best sum within
    each of some budgets, Optuna improves on them where losses do not add up, and all are simulated as a whole. What is
    reported as held out was not seen in any of this.

    Args:
        model: In float.
        palette: What to choose from.
        dataset: What to score on; pictures without objects are left out.
        settings: What to do.
        store: Where the record is appended, and the studies of the layers; a repeated search takes those from there,
            an interrupted one goes on where it was.
        progress: Given a label, returns what wraps the iteration over pictures.
        notes: Added to the record's settings.

    Returns:
        A record of kind `search`; `results.search.entries_of` gives its schemes, `palette.scheme` makes them anew.
        Its scheme is the chosen one, or `front` where neither budget nor allowed drop was given.

    Raises:
        InputError: A setting is wrong, or no scheme is within the budget: the message gives the feasible range.
        DatasetError: The dataset has no object to score.
    """
    check_settings(settings)
    table = make_table(model, palette, settings)
    budget = None if settings.budget is None else settings.budget.of(table)
    if budget is not None:
        check_budget(table, budget)
    ids = pictures_with_objects(dataset)
    random.Random(settings.seed).shuffle(ids)
    mine, held_out = ids[: settings.images], ids[settings.images : settings.images + settings.held_out]
    losses = _layer_losses(model, palette, dataset, settings, store, progress)
    subject: dict[str, JsonValue] = {
        "search": [plan.digest for plan in palette.plans],
        "weights_digest": model.weights_digest(),
        "dataset_digest": dataset.digest,
        "images": mine,
        "held_out": held_out,
        "prompts": settings.prompts,
        **environment(),
    }
    with open_journal(journals_of(store), subject) if store else nullcontext(Outcomes()) as outcomes:
        prompt = parse_prompt(settings.prompts)

        def verifier(label: str, ids: Sequence[int], engine: str = PYTORCH) -> Verifier:
            return Verifier(model, palette, dataset, ids, prompt, outcomes, progress, label=label, engine=engine)

        finder = _Finder(palette, table, losses, verifier("verifying", mine), settings, budget)
        finder.find(named := known_choices(model, palette))
        record = _confirm(model, dataset, finder, named, verifier, held_out, notes)
        if store is not None:
            store.append(record)
    return record


def make_table(model: EfficientViTSam, palette: Palette, settings: SearchSettings) -> CostTable:
    """Return the costs that a search has to do with."""
    if settings.cost == "latency":
        assert settings.engine is not None
        return latency_table(model, palette, settings.engine, threads=torch.get_num_threads(), rounds=settings.rounds)
    return size_table(model, palette) if settings.cost == "size" else bit_operations_table(model, palette)


def known_choices(model: EfficientViTSam, palette: Palette) -> dict[str, Choice]:
    """Return the schemes of a palette that people know: one format everywhere, and the hand-made mixtures by name."""
    found = {name: palette.uniform(number) for number, name in enumerate(palette.formats)}
    if FLOAT in found:
        found["fp32"] = found.pop(FLOAT)
    if {FLOAT, "int8"} <= set(palette.formats):
        eight, none = palette.formats.index("int8"), palette.formats.index(FLOAT)
        for name in HAND_MADE:
            sites = resolve_sites(model.float_encoder, load_scheme(name), palette.plans[0].placement)
            layers = {site.layer for site in sites}
            found[name] = tuple(eight if address in layers else none for address in palette.layers)
    return found


def _layer_losses(
    model: EfficientViTSam,
    palette: Palette,
    dataset: Dataset,
    settings: SearchSettings,
    store: ResultStore | None,
    progress: Callable[[str], Progress] | None,
) -> list[list[list[float]]]:
    """Return two tables of losses by layer and format: the masks' loss, and the root of the embedding's noise.

    Which of the two adds up better depends on the model, so both are tried.
    """
    wanted = StudySettings(
        method="race", prompts=settings.prompts, first=settings.first, most=settings.first, seed=settings.seed
    )
    shape = (len(palette.layers), len(palette.formats))
    masks, noise = np.zeros(shape), np.zeros(shape)
    for number, plan in enumerate(palette.plans):
        if not plan.sites:
            continue
        wrap = (lambda _, f=palette.formats[number]: progress(f"layers in {f}")) if progress else None
        for row in rows_of(study(model, plan, dataset, wanted, store=store, progress=wrap)):
            layer = palette.layers.index(row.unit)
            masks[layer, number] = row.mask_loss or 0.0
            noise[layer, number] = 0.0 if row.sqnr_db is None else 10 ** (-row.sqnr_db / 20)
    return [masks.tolist(), noise.tolist()]


class _Finder:
    """Solves, verifies and improves."""

    def __init__(
        self,
        palette: Palette,
        table: CostTable,
        losses: Sequence[Sequence[Sequence[float]]],
        verifier: Verifier,
        settings: SearchSettings,
        budget: float | None,
    ) -> None:
        self.palette, self.table, self.settings, self.budget = palette, table, settings, budget
        self._losses, self._verifier = losses, verifier

    @property
    def scores(self) -> dict[Choice, RowScore]:
        """What was measured."""
        return self._verifier.scores

    def find(self, named: dict[str, Choice]) -> None:
        """Measure schemes until the front is as good as the settings allow."""
        highest = self.table.highest if self.budget is None else min(self.budget, self.table.highest)
        budgets = np.geomspace(self.table.lowest, highest, self.settings.points)
        solved = [self.solve(budget) for budget in budgets]
        start = [choice for several in solved for choice in several]
        self._verifier.score([*start, *named.values()])
        if self.settings.max_drop is not None:
            self._close_in(self.settings.max_drop)
        trials = (48 if can_improve() else 0) if self.settings.trials is None else self.settings.trials
        if trials:
            begin = [choice for choice in self.scores if self.affordable(choice)]
            improve(
                self.palette,
                self.table,
                lambda choices: [self._verifier.score(choices)[choice].mask_loss or 0.0 for choice in choices],
                begin,
                trials=trials,
                budget=self.budget,
                seed=self.settings.seed,
            )

    def solve(self, budget: float) -> list[Choice]:
        """Return the best choices within a budget, one for each table of losses."""
        return list(dict.fromkeys(best_choice(losses, self.table, budget) for losses in self._losses))

    def _close_in(self, max_drop: float) -> None:
        """Halve the gap in cost between schemes that lose too much and those that do not."""
        for _ in range(_HALVINGS):
            good = [self.table.cost(c) for c in self.scores if self.within(c, max_drop)]
            upper = min(good, default=self.table.highest)
            lower = max((cost for c in self.scores if (cost := self.table.cost(c)) < upper), default=self.table.lowest)
            self._verifier.score(self.solve((lower * upper) ** 0.5))

    def within(self, choice: Choice, max_drop: float) -> bool:
        """Whether a measured choice loses no more than allowed."""
        drop = self.scores[choice].drop
        return drop is not None and drop <= max_drop

    def affordable(self, choice: Choice) -> bool:
        """Whether a choice is within the budget."""
        return self.budget is None or self.table.cost(choice) <= self.budget * (1 + 1e-9)

    def front(self) -> list[Choice]:
        """Return the affordable choices that none beats, the cheapest first."""
        choices = [choice for choice in self.scores if self.affordable(choice)]
        points = [(self.table.cost(choice), self.scores[choice].mask_loss or 0.0) for choice in choices]
        return [choices[index] for index in pareto(points)]

    def chosen(self) -> Choice | None:
        """Return the choice that was asked for; None for the whole front."""
        if self.settings.max_drop is not None:
            good = [choice for choice in self.scores if self.within(choice, self.settings.max_drop)]
            if not good:
                raise InputError(
                    f"max_drop must be at least {min(s.drop or 0.0 for s in self.scores.values()):.3g} for these "
                    f"formats, got {self.settings.max_drop:g}: allow float, or raise it"
                )
            return min(good, key=self.table.cost)
        return self.front()[-1] if self.budget is not None else None


def _confirm(
    model: EfficientViTSam,
    dataset: Dataset,
    finder: _Finder,
    named: dict[str, Choice],
    verifier: Callable[..., Verifier],
    held_out: Sequence[int],
    notes: dict[str, JsonValue] | None,
) -> Record:
    """Measure the front and the known schemes on unseen pictures, and the chosen one on the engine."""
    settings, palette, table = finder.settings, finder.palette, finder.table
    chosen, front = finder.chosen(), finder.front()
    kept = {*_thin(front, settings.points), *([] if chosen is None else [chosen])}
    names = {choice: name for name, choice in named.items()}
    numbered = sorted((choice for choice in kept if choice not in names), key=table.cost)
    for number, choice in enumerate(numbered, start=1):
        names[choice] = f"{model.name}-{settings.cost}-{number:02}"
    shown = sorted({*kept, *named.values()}, key=table.cost)
    unseen = verifier("confirming", held_out).score(shown) if held_out else {}
    on_engine: Any = {}
    measured: list[LatencyCheck] = []
    if settings.engine is not None:
        finalists = [choice for choice in shown if choice in named.values() or chosen is None or choice == chosen]
        pairs = [(names[choice], choice) for choice in finalists]
        if settings.engine != "tensorrt":
            threads = torch.get_num_threads()
            measured = check_latency(
                model, palette, table, settings.engine, pairs, threads=threads, rounds=settings.rounds
            )
        if held_out:
            on_engine = verifier("on the engine", held_out, settings.engine).score(finalists)
    milliseconds = {check.scheme: check.measured_ms for check in measured}
    encoder = model.float_encoder
    entries = []
    for choice in shown:
        score, name = finder.scores[choice], names[choice]
        other, real = unseen.get(choice), on_engine.get(choice)
        entries.append(
            SearchEntry(
                name=name,
                origin="hand-made" if name in HAND_MADE else "uniform" if name in named else FOUND,
                on_front=choice in front,
                formats=tuple(palette.formats[number] for number in choice),
                cost=table.cost(choice),
                size_bytes=account(encoder, palette.plan(choice).sites).size_bytes,
                drop=score.drop or 0.0,
                drop_se=score.drop_se,
                mask_loss=score.mask_loss or 0.0,
                mask_loss_se=score.mask_loss_se,
                held_out_drop=other.drop if other else None,
                held_out_drop_se=other.drop_se if other else None,
                held_out_mask_loss=other.mask_loss if other else None,
                engine_drop=real.drop if real else None,
                measured_ms=milliseconds.get(name),
            )
        )
    found = {
        "held_out_pictures": len(held_out),
        "entries": [entry.to_json_dict() for entry in entries],
        "latency_check": [dataclasses.asdict(check) for check in measured] if settings.cost == "latency" else [],
    }
    entry = next((e for e in entries if chosen is not None and e.name == names[chosen]), None)
    return _record(model, dataset, finder, chosen, entry, {**found, **(notes or {})})


def _record(
    model: EfficientViTSam,
    dataset: Dataset,
    finder: _Finder,
    chosen: Choice | None,
    entry: SearchEntry | None,
    found: dict[str, Any],
) -> Record:
    settings, palette, table = finder.settings, finder.palette, finder.table
    figures: dict[str, float | int | None] = {"schemes": len(finder.scores), "float_cost": table.float_cost}
    fields: dict[str, Any] = {"scheme": "front"}
    if chosen is not None and entry is not None:
        plan = palette.plan(chosen, entry.name)
        fields = {"scheme": plan.scheme, "scheme_digest": plan.scheme_digest, "plan_digest": plan.digest}
        figures |= {
            "cost": entry.cost,
            "size_bytes": entry.size_bytes,
            "drop": entry.drop if entry.held_out_drop is None else entry.held_out_drop,
            "mask_loss": entry.mask_loss if entry.held_out_mask_loss is None else entry.held_out_mask_loss,
        }
    info = next((plan.calibration for plan in palette.plans if plan.calibration), None)
    asked: dict[str, Any] = dataclasses.asdict(settings)
    prompt = parse_prompt(asked.pop("prompts")).name
    asked |= {"budget": finder.budget, "unit": table.unit, "formats": palette.formats, "layers": palette.layers}
    return Record(
        kind=KIND,
        model=model.name,
        weights_digest=model.weights_digest(),
        placement=palette.plans[0].placement,
        engine=asked.pop("engine") or PYTORCH,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        prompt=prompt,
        calibration=info.name if info else None,
        calibration_digest=info.digest if info else None,
        figures=figures,
        environment=environment(*([settings.engine] if settings.engine else [])),
        settings={**asked, **found},
        **fields,
    )


def _thin(front: Sequence[Choice], count: int) -> list[Choice]:
    """Leave out members of a front evenly until `count` are left; the ends stay."""
    if len(front) <= count:
        return list(front)
    return [front[round(i * (len(front) - 1) / (count - 1))] for i in range(count)]
