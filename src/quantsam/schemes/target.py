"""Read a scheme's entry for one tensor from plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantsam.errors import SchemeError, nearest
from quantsam.quant.formats import get_format
from quantsam.quant.observers import OBSERVERS
from quantsam.quant.quantizers import quantizers_of
from quantsam.schemes.scheme import Target

FLOAT = "float"
_TARGET_KEYS = {"format": str, "observer": str, "symmetric": bool, "per_channel": bool, "quantizer": str}
TYPE_NAMES: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    dict: "a table",
    list: "a list of [[rules]] tables",
}
"""Names of types in errors."""


def make_target(value: Any, place: str = "specification") -> Target | None:
    """Read a rule's entry for a tensor.

    Args:
        value: A format's name, `"float"`, or a table with the fields of `Target`.
        place: Name of the entry in errors.

    Raises:
        SchemeError: A key or value is not known.
    """
    if value == FLOAT:
        return None
    if not isinstance(value, str | dict):
        raise SchemeError(f"{place}: must be a format such as 'int8', 'float' or a table, got {value!r}")
    table: dict[str, Any] = {"format": value} if isinstance(value, str) else value
    check_keys(table, _TARGET_KEYS, place)
    if "format" not in table:
        raise SchemeError(f"{place}: 'format' must be given, got only {', '.join(table) or 'nothing'}")
    try:
        fmt = get_format(table["format"])
    except SchemeError as error:
        raise SchemeError(f"{place}: {error}") from error
    observer = table.get("observer")
    if observer is not None and observer not in OBSERVERS:
        raise SchemeError(f"{place}: unknown observer {observer!r}: {nearest(observer, OBSERVERS)}")
    able = quantizers_of(fmt)
    quantizer = table.get("quantizer", able[0])
    if quantizer not in able:
        raise SchemeError(f"{place}: quantizer of format {fmt.name!r} cannot be {quantizer!r}: use {able[0]!r}")
    per_channel = table.get("per_channel")
    if observer == "ptf" and per_channel is False:
        raise SchemeError(f"{place}: observer 'ptf' must be per channel, got per_channel = false")
    return Target(fmt.name, observer, table.get("symmetric"), per_channel, quantizer)


def check_keys(table: Any, keys: Mapping[str, type | None], place: str) -> None:
    """Check that a table has only known keys, each with a value of its type.

    Args:
        table: The value as it was read.
        keys: The type of each key's value; None if it is checked elsewhere.
        place: Name of the table in errors.

    Raises:
        SchemeError: The value is not a table, a key is unknown, or a value has the wrong type.
    """
    if not isinstance(table, dict):
        raise SchemeError(f"{place}: expected a table with keys {', '.join(keys)}, got {table!r}")
    for key, value in table.items():
        if key not in keys:
            raise SchemeError(f"{place}: unknown key {key!r}: {nearest(key, keys)}")
        kind = keys[key]
        if kind is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise SchemeError(f"{place}: {key!r} must be {TYPE_NAMES[kind]}, got {value!r}")
