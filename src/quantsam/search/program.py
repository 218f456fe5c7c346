"""The integer program: one format per layer, with the least loss within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantsam.errors import InputError
from quantsam.search.costs import CostTable
from quantsam.search.palette import Choice


def best_choice(losses: Sequence[Sequence[float]], table: CostTable, budget: float) -> Choice:
    """Minimise the sum of losses within a budget, exactly (HiGHS, through SciPy).

    Args:
        losses: Losses by layer and format; they are assumed to add up.
        table: Costs of the same layers and formats.
        budget: Maximum cost of the choice.

    Raises:
        InputError: No choice is within the budget; the message gives the feasible range.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import identity, kron

    check_budget(table, budget)
    loss = np.asarray(losses, dtype=np.float64)
    cost = np.asarray(table.cells, dtype=np.float64)
    layers, formats = loss.shape
    scale = max(float(np.abs(cost).max()), 1e-300)  # HiGHS's tolerances are absolute
    each_once = LinearConstraint(kron(identity(layers), np.ones((1, formats))), 1, 1)
    room = (budget - table.constant) / scale
    within = LinearConstraint(cost.reshape(1, -1) / scale, -np.inf, room + 1e-9 * abs(room))
    found = milp(
        loss.ravel() / max(float(np.abs(loss).max()), 1e-300),
        integrality=np.ones(loss.size),
        bounds=Bounds(0, 1),
        constraints=[each_once, within],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise InputError(f"the integer program found no choice within {budget:g} {table.unit}: {found.message}")
    return tuple(int(number) for number in found.x.reshape(layers, formats).argmax(axis=1))


def check_budget(table: CostTable, budget: float) -> None:
    """Check that some choice is within a budget.

    Raises:
        InputError: No choice is within the budget.
    """
    if not budget >= table.lowest * (1 - 1e-12):
        raise InputError(
            f"budget must be within {table.lowest:.6g} to {table.highest:.6g} {table.unit} for these formats, "
            f"got {budget:.6g}: raise it, or allow smaller formats"
        )
