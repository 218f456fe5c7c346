"""Improve choices when losses do not add up: Optuna's NSGA-II, started from the integer program's choices."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from quantsam.errors import InputError
from quantsam.search.costs import CostTable
from quantsam.search.palette import Choice, Palette

_BATCH = 8
_PATIENCE = 20  # batches without a new choice after which to stop
_OUT_OF_REACH = 1e9  # loss reported for choices over the budget: worse than anything measured


def can_improve() -> bool:
    """Return whether Optuna is installed."""
    return find_spec("optuna") is not None


def improve(
    palette: Palette,
    table: CostTable,
    measure: Callable[[Sequence[Choice]], Sequence[float]],
    start: Sequence[Choice],
    *,
    trials: int,
    budget: float | None = None,
    seed: int = 0,
) -> None:
    """Evolve choices towards less loss and less cost. `measure` gets every choice within the budget.

    Args:
        palette: Formats and layers to choose from.
        table: Costs of choices.
        measure: Returns the losses of choices.
        start: Choices to begin with, already measured.
        trials: Number of new choices to try.
        budget: Choices that cost more are not measured.
        seed: Seed of the sampler; the same seed tries the same choices.

    Raises:
        InputError: Optuna is not installed.
    """
    if not can_improve():
        raise InputError(f"improving with {trials} trials needs optuna: pip install 'quantsam[search]', or --trials 0")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.NSGAIISampler(population_size=max(len(start), 2 * _BATCH), seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for choice in start:
        study.enqueue_trial(dict(zip(palette.layers, (palette.formats[n] for n in choice), strict=True)))
    seen = set(start)
    asked = stalled = 0
    begin = -(-len(start) // _BATCH)  # batches that repeat the start
    while asked < trials and stalled < begin + _PATIENCE:
        batch = [_ask(study, palette) for _ in range(_BATCH)]
        fresh = [c for _, c in batch if c not in seen and (budget is None or table.cost(c) <= budget)]
        asked += len(set(fresh))
        stalled = 0 if fresh else stalled + 1
        seen |= set(fresh)
        within = [c for _, c in batch if c in seen]
        losses = dict(zip(within, measure(within), strict=True))
        for trial, choice in batch:
            study.tell(trial, (losses.get(choice, _OUT_OF_REACH), table.cost(choice)))


def _ask(study: Any, palette: Palette) -> tuple[Any, Choice]:
    trial = study.ask()
    names = [trial.suggest_categorical(layer, palette.formats) for layer in palette.layers]
    return trial, tuple(palette.formats.index(name) for name in names)
