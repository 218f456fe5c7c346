"""The search proper: solve, measure whole schemes, improve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantsam.errors import InputError
from quantsam.results.search_record import pareto
from quantsam.results.sensitivity_record import RowScore
from quantsam.search.costs import CostTable
from quantsam.search.improve import can_improve, improve
from quantsam.search.palette import Choice, Palette
from quantsam.search.program import best_choice
from quantsam.search.settings import SearchSettings
from quantsam.search.verify import Verifier

_HALVINGS = 5  # of the gap in cost between the largest scheme that loses too much and the smallest that does not


class Finder:
    """Solves integer programs, verifies whole schemes and improves them."""

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
        self._solved: set[Choice] = set()

    @property
    def scores(self) -> dict[Choice, RowScore]:
        """Scores of all measured choices."""
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
        """Return the best choices within a budget, one per table of losses."""
        found = list(dict.fromkeys(best_choice(losses, self.table, budget) for losses in self._losses))
        self._solved.update(found)
        return found

    def _close_in(self, max_drop: float) -> None:
        """Halve the gap in cost between schemes that lose too much and those that do not."""
        good = [self.table.cost(c) for c in self.scores if self.within(c, max_drop)]
        upper = min(good, default=self.table.highest)
        solved = [self.table.cost(c) for c in self._solved if not self.within(c, max_drop)]
        lower = max((cost for cost in solved if cost < upper), default=self.table.lowest)
        for _ in range(_HALVINGS):
            middle = (lower * upper) ** 0.5
            tried = self.solve(middle)
            self._verifier.score(tried)
            costs = [self.table.cost(c) for c in tried if self.within(c, max_drop)]
            lower, upper = (lower, min(costs)) if costs else (middle, upper)

    def within(self, choice: Choice, max_drop: float) -> bool:
        """Return whether a measured choice loses no more than allowed."""
        drop = self.scores[choice].drop
        return drop is not None and drop <= max_drop

    def affordable(self, choice: Choice) -> bool:
        """Return whether a choice is within the budget."""
        return self.budget is None or self.table.cost(choice) <= self.budget * (1 + 1e-9)

    def front(self) -> list[Choice]:
        """Return the Pareto-optimal choices within the budget, the cheapest first."""
        choices = [choice for choice in self.scores if self.affordable(choice)]
        points = [(self.table.cost(choice), self.scores[choice].mask_loss or 0.0) for choice in choices]
        return [choices[index] for index in pareto(points)]

    def chosen(self) -> Choice | None:
        """Return the requested choice; None if the whole front is requested."""
        if self.settings.max_drop is not None:
            good = [choice for choice in self.scores if self.within(choice, self.settings.max_drop)]
            if not good:
                raise InputError(
                    f"max_drop must be at least {min(s.drop or 0.0 for s in self.scores.values()):.3g} for these "
                    f"formats, got {self.settings.max_drop:g}: allow float, or raise it"
                )
            return min(good, key=self.table.cost)
        return self.front()[-1] if self.budget is not None else None
