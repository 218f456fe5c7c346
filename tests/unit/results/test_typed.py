from __future__ import annotations  # `typed` reads annotations as texts

from dataclasses import dataclass

import pytest

from quantsam.results.typed import typed


@dataclass(frozen=True)
class Row:
    unit: str
    count: int
    share: float
    on: bool
    note: str | None
    pair: tuple[int, int]
    many: tuple[float, ...]
    other: dict[str, int]


GOOD = {"unit": "a", "count": 3, "share": 1, "on": True, "note": None, "pair": (1, 2), "many": (), "other": {}}


def test_fitting_values_make_the_dataclass():
    assert typed(Row, GOOD) == Row(**GOOD)
    assert typed(Row, {**GOOD, "note": "n", "many": (1.5, 2)}).many == (1.5, 2)


@pytest.mark.parametrize(("name", "value"), [
    ("unit", 3),
    ("unit", None),
    ("count", 1.0),
    ("count", True),
    ("share", "1"),
    ("share", float("nan")),
    ("share", float("inf")),
    ("share", False),
    ("on", 1),
    ("note", 3),
    ("pair", (1,)),
    ("pair", (1, 2, 3)),
    ("pair", (1, "2")),
    ("pair", [1, 2]),
    ("many", (1.0, "x")),
    ("many", None),
])  # fmt: skip
def test_others_are_named(name, value):
    with pytest.raises(TypeError, match=f"{name} must be"):
        typed(Row, {**GOOD, name: value})


@pytest.mark.parametrize("values", [{**GOOD, "new": 1}, {"unit": "a"}])
def test_missing_and_unknown_fields_are_type_errors(values):
    with pytest.raises(TypeError):
        typed(Row, values)
