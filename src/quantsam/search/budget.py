"""Budgets in readable form: `1.5MB`, `40%`, `12ms`, `3G`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from quantsam.errors import InputError
from quantsam.search.costs import CostTable

Cost = Literal["size", "bit-operations", "latency"]

_UNITS: dict[Cost, dict[str, float]] = {
    "size": {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "latency": {"": 1, "ms": 1, "s": 1e3},
    "bit-operations": {"": 1, "m": 1e6, "g": 1e9, "t": 1e12},
}
_EXAMPLES: dict[Cost, str] = {"size": "1.5MB, 800kB or 40%", "latency": "12ms or 50%", "bit-operations": "90G or 10%"}


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a scheme may cost.

    Attributes:
        value: Cost in the table's unit, or in percent of the float model's cost.
        relative: Whether the value is in percent.
    """

    value: float
    relative: bool = False

    def of(self, table: CostTable) -> float:
        """Return the budget in a table's unit."""
        return self.value / 100 * table.float_cost if self.relative else self.value


def parse_budget(text: str, cost: Cost) -> Budget:
    """Read a budget.

    Args:
        text: `40%`, or a number with a unit of `cost`.
        cost: `size`, `latency` or `bit-operations`.

    Raises:
        InputError: The text is neither.

    >>> parse_budget("1.5MB", "size")
    Budget(value=1500000.0, relative=False)
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*|%)", text.strip().lower())
    units = _UNITS[cost]
    if match is None or (match[2] != "%" and match[2] not in units) or not float(match[1]) > 0:
        raise InputError(f"a budget of {cost} must look like {_EXAMPLES[cost]}, got {text!r}")
    if match[2] == "%":
        return Budget(float(match[1]), relative=True)
    return Budget(float(match[1]) * units[match[2]])
