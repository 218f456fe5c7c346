"""Settings of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from quantsam.errors import InputError, one_of
from quantsam.evaluation.prompts import parse_prompt
from quantsam.runtime.engines import engine_names, get_engine
from quantsam.search.budget import Budget, Cost, parse_budget
from quantsam.search.improve import can_improve

COSTS: tuple[Cost, ...] = get_args(Cost)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
        cost: Cost to minimise: `size`, `bit-operations` or `latency`.
        budget: Maximum cost of a scheme, or a text such as `30%`, see `parse_budget`; None for the whole front.
        max_drop: Allowed loss in points of mIoU; the cheapest scheme within it is chosen. Excludes `budget`.
        engine: An engine; the palette must have its placement. `latency` needs an engine. For other costs it is
            optional, and confirms the chosen scheme.
        prompts: Kind of prompts.
        first: Number of images on which every layer is measured in every format.
        images: Number of images on which whole schemes are measured, including `first`.
        held_out: Number of further images that confirm the schemes.
        points: Number of budgets for which the integer program is solved, and of schemes kept from the front.
        trials: Number of schemes that Optuna may try; None for 48 if Optuna is installed.
        seed: Seed for the order of the images, and for the trials.
        rounds: For an engine: number of inferences per timing.
    """

    cost: Cost = "size"
    budget: Budget | str | None = None
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

    def __post_init__(self) -> None:
        if isinstance(self.budget, str) and self.cost in COSTS:
            object.__setattr__(self, "budget", parse_budget(self.budget, self.cost))


USUAL = SearchSettings()


def check_settings(settings: SearchSettings) -> None:
    """Check, before long work, that a search is possible.

    Raises:
        InputError: A setting is unknown or out of range.
    """
    if settings.cost not in COSTS:
        raise InputError(one_of("cost", settings.cost, COSTS))
    if settings.engine is not None:
        get_engine(settings.engine)
    timed = engine_names(on_processor=True)
    if settings.cost == "latency" and settings.engine not in timed:
        raise InputError(f"cost latency needs engine {' or '.join(timed)}, got {settings.engine}: name one")
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
