"""The rows of a study: each row is a part of one calibrated plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from quantsam.errors import InputError
from quantsam.plans.plan import Plan, PlanSite

Unit = Literal["layer", "block", "stage", "kind"]
Mode = Literal["in", "out"]
Part = Literal["both", "weights", "activations", "each"]

PARTS: dict[Part, tuple[str, ...]] = {
    "both": ("both",),
    "weights": ("weights",),
    "activations": ("activations",),
    "each": ("weights", "activations"),
}
MODES: tuple[Mode, ...] = get_args(Mode)
UNITS: dict[Unit, Callable[[PlanSite], str]] = {
    "layer": lambda site: site.layer,
    "block": lambda site: site.layer.rpartition(":")[0],
    "stage": lambda site: site.layer.partition(":")[0],
    "kind": lambda site: site.kind,
}


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of a study.

    Attributes:
        unit: `stage3:4:2`, `stage3:4`, `stage3` or a kind; a scheme line accepts it after `@`.
        part: `both`, `weights` or `activations`.
        kind: Kind of the layers; `mixed` for several kinds.
        layers: Addresses of the unit's layers.
        plan: The plan that the row measures.
        paths: Paths of the modules that differ from the study's base.
    """

    unit: str
    part: str
    kind: str
    layers: tuple[str, ...]
    plan: Plan
    paths: frozenset[str]

    @property
    def name(self) -> str:
        """The unit, and the part unless it is `both`; unique in a study."""
        return self.unit if self.part == "both" else f"{self.unit} {self.part}"


def make_rows(plan: Plan, *, by: Unit = "layer", mode: Mode = "in", part: Part = "both") -> list[Row]:
    """Cut a plan into rows.

    Args:
        plan: The calibrated plan; it quantizes everything that a row may quantize.
        by: Kind of unit: `layer`, `block`, `stage` or `kind`.
        mode: `in`: a row quantizes only its unit. `out`: it quantizes all but its unit.
        part: `both`, `weights`, `activations`, or `each`: per unit, one row for weights and one for activations.

    Raises:
        InputError: Nothing is quantized.
    """
    units: dict[str, list[PlanSite]] = {}
    for site in plan.sites:
        units.setdefault(UNITS[by](site), []).append(site)
    rows = [
        row
        for one in PARTS[part]
        for unit, sites in units.items()
        if (row := _row(plan, unit, [s for s in sites if one in ("both", _role(s))], one, mode)) is not None
    ]
    if not rows:
        raise InputError(f"a study needs something to quantize, got scheme {plan.scheme!r} without {part}: take int8")
    return rows


def _role(site: PlanSite) -> str:
    return "weights" if site.role == "weight" else "activations"


def _row(plan: Plan, unit: str, sites: list[PlanSite], part: str, mode: Mode) -> Row | None:
    if not sites:
        return None
    chosen = {site.key for site in sites}
    kept = tuple(site for site in plan.sites if (site.key in chosen) == (mode == "in"))
    scheme = f"{plan.scheme}@{unit}" if mode == "in" else f"{plan.scheme} but {unit}"
    kinds = {site.kind for site in sites}
    return Row(
        unit=unit,
        part=part,
        kind=kinds.pop() if len(kinds) == 1 else "mixed",
        layers=tuple(dict.fromkeys(site.layer for site in sites)),
        plan=dataclasses.replace(plan, sites=kept, scheme=scheme),
        paths=frozenset(site.path for site in sites),
    )
