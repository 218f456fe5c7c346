"""Find records that a store already holds: of the same evaluation, or of the float model as a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore

FLOAT = "fp32"
_FIELDS = (
    *("model", "weights_digest", "scheme_digest", "plan_digest", "placement", "engine"),
    *("dataset", "dataset_digest", "prompt", "calibration_digest"),
)
_SETTINGS = (
    *("threads", "device", "weights", "activations", "precision", "repairs", "processors", "exact", "crowds"),
    *("detections_digest", "integers"),
)
_NAMES = ("scheme", "calibration", "detections")  # represented by their digests
_IDLE = ("platform",)  # the kernel's build, which changes no figure
_SAME_OBJECTS = ("model", "weights_digest", "dataset", "dataset_digest", "prompt")


def is_float(record: Record) -> bool:
    """Return whether a record is for FP32: nothing is quantized, and nothing runs in fewer than 32 bits."""
    return record.scheme == FLOAT and not record.settings.get("precision")


def find_evaluation(store: ResultStore, depends_on: Mapping[str, JsonValue]) -> Record | None:
    """Return the newest record of an evaluation, with the scores of its objects.

    Args:
        store: The store to search.
        depends_on: Everything that the figures depend on: fields of the record, settings, and the environment.

    Returns:
        The record; None if the store has none.

    Raises:
        StoreError: The store cannot be read.
    """
    known = {*_FIELDS, *_SETTINGS, *_NAMES, *_IDLE}
    environment = {name: value for name, value in depends_on.items() if name not in known}
    wanted = {name: depends_on.get(name) for name in _FIELDS}
    wanted["engine"] = wanted["engine"] or "pytorch"
    named = {} if wanted["plan_digest"] else {"scheme": depends_on.get("scheme")}  # without a plan, use the name
    for record in _newest_first(store, wanted | named):
        if (
            all(getattr(record, name) == value for name, value in (wanted | named).items())
            and all(record.settings.get(name) == depends_on.get(name) for name in _SETTINGS)
            and {name: value for name, value in record.environment.items() if name not in _IDLE} == environment
        ):
            return dataclasses.replace(record, scores=tuple(store.scores(record.id)))
    return None


def find_baseline(store: ResultStore, record: Record) -> Record | None:
    """Return the newest record of the float model with the same weights, objects and prompts, with its scores.

    A record from the same engine is preferred; otherwise PyTorch's is used. A record in fewer than 32 bits does not
    count.

    Args:
        store: The store to search.
        record: The record to compare with the baseline.

    Returns:
        The record; None if the store has none, or for a record of the float model itself.

    Raises:
        StoreError: The store cannot be read.
    """
    if is_float(record):
        return None
    wanted = {name: getattr(record, name) for name in _SAME_OBJECTS} | {"scheme": FLOAT}
    detections = record.settings.get("detections_digest")
    found: dict[str, Record] = {}
    for other in _newest_first(store, wanted):
        if (
            is_float(other)
            and other.settings.get("detections_digest") == detections
            and all(getattr(other, name) == value for name, value in wanted.items())
        ):
            found.setdefault(other.engine, other)
    best = found.get(record.engine) or found.get("pytorch")
    return None if best is None else dataclasses.replace(best, scores=tuple(store.scores(best.id)))


def find_unrepaired(store: ResultStore, record: Record) -> Iterator[Record]:
    """Yield the records of the same evaluation without the repairs, newest first; nothing if there are no repairs.

    Args:
        store: The store to search.
        record: A record of a plan with repairs.

    Raises:
        StoreError: The store cannot be read.
    """
    if record.settings.get("repairs"):
        wanted = {name: getattr(record, name) for name in ("model", "scheme", "dataset", "prompt")}
        for other in _newest_first(store, wanted):
            if not other.settings.get("repairs") and all_but_repairs(other) == all_but_repairs(record):
                yield other


def all_but_repairs(record: Record) -> tuple[Any, ...]:
    """Return the values that a record shares with the record of the same plan before or after repairs.

    Plans that `quantsam repair` saved share nothing with other plans: they are calibrated on fewer images.
    """
    left_out = ("repairs", "seed", "images", "calibration_images")  # how it was asked, not what was computed
    settings = sorted((name, repr(value)) for name, value in record.settings.items() if name not in left_out)
    fields = (getattr(record, name) for name in _FIELDS if name != "plan_digest")
    return (record.kind, record.scheme, *fields, *settings)


def _newest_first(store: ResultStore, wanted: Mapping[str, Any]) -> Iterator[Record]:
    names = {name: wanted[name] for name in ("model", "scheme", "dataset", "prompt") if name in wanted}
    return reversed(store.records(kind="evaluate", **names))
