"""Values read from a store, checked against the dataclass that they are to become."""

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
    """Make a dataclass of values whose plain fields are of the annotated type.

    Checked are `str`, `bool`, `int`, `float` (finite; an int will do), each also with `| None`, and tuples of them of
    any or of a given length. What is annotated otherwise is left to who calls.

    Args:
        cls: A dataclass of a module with postponed annotations.
        values: Of its fields.

    Raises:
        TypeError: A field is missing, unknown or of another type.

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
