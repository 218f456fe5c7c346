"""Check values read from a store against the dataclass that they will become."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _is_number,
}


def typed(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass from values, and check the types of its plain fields.

    Fields of type `str`, `bool`, `int` and `float` (finite; an int is accepted) are checked, also with `| None`, and so
    are tuples of these with any or a given length. Other annotations are left to the caller.

    Args:
        cls: A dataclass from a module with postponed annotations.
        values: The values of its fields.

    Raises:
        TypeError: A field is missing or unknown, or has another type.

    >>> @dataclasses.dataclass
    ... class Row:
    ...     unit: "str"
    ...     drop: "float | None"
    >>> typed(Row, {"unit": "stage1", "drop": "2"})
    Traceback (most recent call last):
    TypeError: drop must be float | None, got '2'
    """
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in values and not _fits(str(field.type), values[field.name]):
            raise TypeError(f"{field.name} must be {field.type}, got {values[field.name]!r}")
    return cls(**values)


def _fits(annotation: str, value: Any) -> bool:
    if annotation.endswith(" | None"):
        return value is None or _fits(annotation.removesuffix(" | None"), value)
    if annotation.startswith("tuple["):
        parts = annotation.removeprefix("tuple[").removesuffix("]").split(", ")
        if not isinstance(value, tuple):
            return False
        wanted = parts[:1] * len(value) if parts[-1] == "..." else parts
        return len(wanted) == len(value) and all(map(_fits, wanted, value))
    return _CHECKS.get(annotation, lambda _: True)(value)
