"""Records that a store holds already: of the same evaluation, and of the float model beside another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore

FLOAT = "fp32"
_FIELDS = (
    *("model", "weights_digest", "scheme", "scheme_digest", "plan_digest", "placement", "engine"),
    *("dataset", "dataset_digest", "prompt", "calibration_digest"),
)
_SETTINGS = (
    *("threads", "device", "weights", "activations", "precision", "repairs", "processors", "exact", "crowds"),
    "detections_digest",
)
_NAMES = ("calibration", "detections")  # their digests tell
_SAME_OBJECTS = ("model", "weights_digest", "dataset", "dataset_digest", "prompt")


def find_evaluation(store: ResultStore, depends_on: Mapping[str, JsonValue]) -> Record | None:
    """Return the newest record of an evaluation, with the scores of its objects.

    Args:
        store: Where to look.
        depends_on: All that its figures depend on: fields of the record, settings, and the environment.

    Returns:
        The record; None if the store has none.

    Raises:
        StoreError: The store cannot be read.
    """
    environment = {name: value for name, value in depends_on.items() if name not in (*_FIELDS, *_SETTINGS, *_NAMES)}
    wanted = {name: depends_on.get(name) for name in _FIELDS}
    wanted["engine"] = wanted["engine"] or "pytorch"
    for record in _newest_first(store, wanted):
        if (
            all(getattr(record, name) == value for name, value in wanted.items())
            and all(record.settings.get(name) == depends_on.get(name) for name in _SETTINGS)
            and record.environment == environment
        ):
            return dataclasses.replace(record, scores=tuple(store.scores(record.id)))
    return None


def find_baseline(store: ResultStore, record: Record) -> Record | None:
    """Return the newest record of the float model with the same weights, objects and prompts, with its scores.

    One that the same engine computed is preferred; else it is PyTorch's.

    Args:
        store: Where to look.
        record: What it is to be compared with.

    Returns:
        The record; None if the store has none.

    Raises:
        StoreError: The store cannot be read.
    """
    wanted = {name: getattr(record, name) for name in _SAME_OBJECTS} | {"scheme": FLOAT}
    detections = record.settings.get("detections_digest")
    found: dict[str, Record] = {}
    for other in _newest_first(store, wanted):
        if (
            other.id != record.id
            and other.settings.get("detections_digest") == detections
            and all(getattr(other, name) == value for name, value in wanted.items())
        ):
            found.setdefault(other.engine, other)
    best = found.get(record.engine) or found.get("pytorch")
    return None if best is None else dataclasses.replace(best, scores=tuple(store.scores(best.id)))


def _newest_first(store: ResultStore, wanted: Mapping[str, Any]) -> Iterator[Record]:
    names = {name: wanted[name] for name in ("model", "scheme", "dataset", "prompt")}
    return reversed(store.records(kind="evaluate", **names))
