"""The search for schemes: measure layers, solve, verify, improve, and confirm on unseen images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch

from quantsam.data.dataset import Dataset
from quantsam.evaluation.evaluator import journals_of
from quantsam.evaluation.journal import Outcomes, open_journal
from quantsam.evaluation.prompts import parse_prompt
from quantsam.models.sam import EfficientViTSam
from quantsam.notices import notice
from quantsam.progress import Progress
from quantsam.results.record import JsonValue
from quantsam.results.search_record import SearchRecord
from quantsam.results.sensitivity_record import SEARCH
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import PYTORCH, surroundings
from quantsam.search.budget import Budget
from quantsam.search.confirm import confirm, known_choices
from quantsam.search.costs import CostTable, bit_operations_table, latency_table, size_table, without_slow_formats
from quantsam.search.finder import Finder
from quantsam.search.palette import Palette
from quantsam.search.program import check_budget
from quantsam.search.settings import USUAL, SearchSettings, check_settings
from quantsam.search.verify import Verifier
from quantsam.sensitivity.study import StudySettings, measure_sensitivity
from quantsam.sensitivity.table import pictures_with_objects


def search_schemes(
    model: EfficientViTSam,
    palette: Palette,
    dataset: Dataset,
    settings: SearchSettings = USUAL,
    *,
    store: ResultStore | None = None,
    progress: Callable[[str], Progress] | None = None,
    notes: dict[str, JsonValue] | None = None,
    workers: int | None = None,
) -> SearchRecord:
    """Find formats for all layers.

    Every layer is measured alone in every format (`sensitivity`). An integer program then finds the least sum of losses
    within each of several budgets. Losses do not add up exactly, so Optuna, if installed, improves these schemes. All
    schemes are simulated as a whole. None of these steps uses the held-out images.

    Args:
        model: The float model.
        palette: Formats and layers to choose from.
        dataset: Dataset to score on; images without objects are left out.
        settings: Settings of the search.
        store: Store to which the record and the studies of the layers are appended. A repeated search reuses the
            studies; an interrupted search resumes.
        progress: Maps a label to a wrapper of the iteration over images.
        notes: Entries to add to the record's settings.
        workers: Number of schemes to compute in parallel; None for the number of processors.

    Returns:
        A record: `entries` are the schemes, `front` the Pareto-optimal ones, and `chosen` the requested one.
        `palette.scheme` makes them again.

    Raises:
        InputError: A setting is wrong, or no scheme is within the budget: the message gives the feasible range.
        DatasetError: The dataset has no object to score.
    """
    check_settings(settings)
    table = make_table(model, palette, settings)
    if settings.cost == "latency":
        palette, table, slow = without_slow_formats(palette, table)
        if slow:
            notice(f"left out, for {settings.engine} runs them no faster than float here: {', '.join(slow)}")
    budget = settings.budget.of(table) if isinstance(settings.budget, Budget) else None
    if budget is not None:
        check_budget(table, budget)
    ids = pictures_with_objects(dataset)
    random.Random(settings.seed).shuffle(ids)
    mine, held_out = ids[: settings.images], ids[settings.images : settings.images + settings.held_out]
    losses = _layer_losses(model, palette, dataset, settings, store, progress, workers)
    depends_on: dict[str, JsonValue] = {
        "search": [plan.digest for plan in palette.plans],
        "weights_digest": model.weights_digest(),
        "dataset_digest": dataset.digest,
        "images": mine,
        "held_out": held_out,
        "prompts": settings.prompts,
        "device": str(model.device),
        **surroundings(settings.engine or PYTORCH),
    }
    with open_journal(journals_of(store), depends_on) if store else nullcontext(Outcomes()) as outcomes:
        prompt = parse_prompt(settings.prompts)

        def verifier(label: str, ids: Sequence[int], engine: str = PYTORCH) -> Verifier:
            return Verifier(
                model, palette, dataset, ids, prompt, outcomes, progress, label=label, engine=engine, workers=workers
            )

        finder = Finder(palette, table, losses, verifier("verifying", mine), settings, budget)
        finder.find(named := known_choices(model, palette))
        record = confirm(model, dataset, finder, named, verifier, len(mine), held_out, notes)
        if store is not None:
            store.append(record)
    return record


def make_table(model: EfficientViTSam, palette: Palette, settings: SearchSettings) -> CostTable:
    """Return the costs for a search's settings."""
    if settings.cost == "latency":
        assert settings.engine is not None
        return latency_table(model, palette, settings.engine, threads=torch.get_num_threads(), rounds=settings.rounds)
    return size_table(model, palette) if settings.cost == "size" else bit_operations_table(model, palette)


def _layer_losses(
    model: EfficientViTSam,
    palette: Palette,
    dataset: Dataset,
    settings: SearchSettings,
    store: ResultStore | None,
    progress: Callable[[str], Progress] | None,
    workers: int | None,
) -> list[list[list[float]]]:
    """Return two tables of losses by layer and format: the loss of masks, and the root of the embedding's noise.

    Neither adds up exactly. The integer program uses both, and verification decides.
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
        notes: dict[str, JsonValue] = {SEARCH: settings.cost}
        study = measure_sensitivity(
            model, plan, dataset, wanted, store=store, progress=wrap, notes=notes, workers=workers
        )
        for row in study.rows:
            layer = palette.layers.index(row.unit)
            masks[layer, number] = row.mask_loss or 0.0
            noise[layer, number] = 0.0 if row.sqnr_db is None else 10 ** (-row.sqnr_db / 20)
    return [masks.tolist(), noise.tolist()]
