"""Columns that distinguish the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from quantsam.results.record import Record

Column = Callable[[Record], str]


def _setting(name: str) -> Column:
    def value(record: Record) -> str:
        found = record.settings.get(name)
        return "" if found is None else ("yes" if found else "no") if isinstance(found, bool) else str(found)

    return value


def _environment(name: str) -> Column:
    return lambda record: record.environment.get(name, "")


COLUMNS: dict[str, Column] = {
    "kind": lambda record: record.kind,
    "weights": lambda record: record.weights_digest[:8],
    "engine": lambda record: record.engine,
    "placement": lambda record: record.placement or "",
    "calibration": lambda record: record.calibration or "",
    "crowds": _setting("crowds"),
    "by": _setting("by"),
    "part": _setting("part"),
    "mode": _setting("mode"),
    "method": _setting("method"),
    "seed": _setting("seed"),
    "images": _setting("images"),
    "site": _setting("site"),
    "device": _setting("device"),
    "threads": _setting("threads"),
    "cpu": _environment("cpu"),
    "instruction sets": _environment("instruction_sets"),
    "quantsam": _environment("quantsam"),
    "torch": _environment("torch"),
    "onnxruntime": _environment("onnxruntime"),
    "openvino": _environment("openvino"),
    "web": _environment("web"),
    "detections": _setting("detections"),
    "scheme digest": lambda record: (record.scheme_digest or "")[:8],
    "plan": lambda record: (record.plan_digest or "")[:8],
}
"""What tables show only where it tells rows apart, by title: what changes a figure most comes first."""


def telling_columns(records: Sequence[Record], shown: Callable[[Record], Hashable]) -> dict[str, Column]:
    """Return the `COLUMNS` that distinguish records which otherwise look the same.

    A column is taken if two records differ in it, but agree in everything shown so far, including earlier columns.
    Repetitions of one measurement need no column.

    Args:
        records: The rows of a table.
        shown: Returns what the table shows of a record anyway, apart from its figures.

    Returns:
        Columns by title, in order.
    """
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(shown(record), []).append(record)
    alike = [group for group in groups.values() if len(group) > 1]
    found: dict[str, Column] = {}
    for title, value in COLUMNS.items():
        parts = [_apart(group, value) for group in alike]
        if any(len(part) > 1 for part in parts):
            found[title] = value
            alike = [group for part in parts for group in part if len(group) > 1]
    return found


def _apart(records: Sequence[Record], value: Column) -> list[list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(value(record), []).append(record)
    return list(found.values())
