"""A record: one measured result, with everything needed to repeat it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar

from quantsam.errors import InputError, StoreError
from quantsam.files import storable
from quantsam.metrics.summary import ObjectScore
from quantsam.results.html import html_table
from quantsam.results.machine import environment

T = TypeVar("T")
JsonValue: TypeAlias = bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # in JSON; valid characters beyond 16 bits are written this way too
_NAMES = ("kind", "model", "engine")
_OPTIONAL_NAMES = ("scheme", "dataset", "prompt")
_TEXTS = ("weights_digest", "notes")
_OPTIONAL_TEXTS = (
    *("scheme_digest", "plan_digest", "placement", "dataset_digest", "calibration", "calibration_digest"),
)


def new_id() -> str:
    """Return a new record id: 32 random hex digits."""
    return uuid.uuid4().hex


def identity(depends_on: Mapping[str, JsonValue]) -> str:
    """Return an id derived from these values: 32 hex digits of a digest, the same on any machine."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]


def utc_now() -> str:
    """Return the current time in UTC as ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measured result.

    The mappings are copied. Tables show figures and times beside the other fields, so all names must differ.

    Attributes:
        id: 8 to 64 lower-case hex digits: random, or derived from what was measured.
        created_utc: ISO 8601 in UTC.
        kind: The kind of measurement, such as `evaluate`.
        model: Name of the model, such as `L0`.
        weights_digest: Hex digest of the model's weights.
        scheme: Name of the quantization scheme: `int8`, or `fp32` for none; None if a search among several chose none.
        scheme_digest: Hex digest of the scheme's content.
        plan_digest: Hex digest of the calibrated plan.
        placement: Name of the placement, such as `onnxruntime`.
        engine: What computed the embeddings, such as `pytorch`.
        dataset: Name of the dataset; None if no data was used.
        dataset_digest: Digest of the dataset; changes with the images or the objects.
        prompt: Kind of prompts, such as `box`; None if there were none.
        calibration: Name of the calibration data.
        calibration_digest: Digest of the calibration data.
        figures: Measured values by name, with units in the name: `miou` (0..100), `miou_small`, `count`,
            `standard_error`, `saved_mib`, `size_bytes`, ...; finite, or `None` for "no objects".
        times: Durations by name, with units in the name: `encoder_ms_median`, `wall_s`.
        environment: Machine and versions, as `environment()` returns them.
        settings: Other values that a repetition needs: `seed`, `images`, switches; JSON values.
        results: Results that are not single figures: rows, schemes, sites; JSON values. The record classes give them as
            typed values.
        notes: Free text.
        scores: The score of every object; a store keeps them beside the record, not in its JSON form.

    Raises:
        InputError: A value has the wrong type, a name is empty, or a number is not finite.
    """

    id: str = field(default_factory=new_id)
    created_utc: str = field(default_factory=utc_now)
    kind: str = "evaluate"
    model: str
    weights_digest: str
    scheme: str | None
    scheme_digest: str | None = None
    plan_digest: str | None = None
    placement: str | None = None
    engine: str = "pytorch"
    dataset: str | None = None
    dataset_digest: str | None = None
    prompt: str | None = "box"
    calibration: str | None = None
    calibration_digest: str | None = None
    figures: Mapping[str, float | int | None]
    times: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: environment())
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    results: Mapping[str, JsonValue] = field(default_factory=dict)
    notes: str = ""
    scores: tuple[ObjectScore, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_texts()
        for name in (*_NAMES, *_OPTIONAL_NAMES, *_TEXTS, *_OPTIONAL_TEXTS):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, storable(value))
        for name, clean in (
            ("figures", {key: _number(key, value) for key, value in _items("figures", self.figures)}),
            ("times", {key: float(_required(key, value)) for key, value in _items("times", self.times)}),
            (
                "environment",
                {key: _text(key, value) for key, value in _items("environment", self.environment)},
            ),
            ("settings", _plain_json("settings", dict(_items("settings", self.settings)))),
            ("results", _plain_json("results", dict(_items("results", self.results)))),
        ):
            object.__setattr__(self, name, clean)
        shared = ({*self.figures} & {*self.times}) | ({*self.figures, *self.times} & RECORD_FIELDS.keys())
        if shared:
            raise InputError(
                f"figures, times and fields of a record must have different names, got {min(shared)!r} twice"
            )

    @property
    def label(self) -> str:
        """The scheme, and anything unusual about how it ran.

        Unusual are: repairs; only weights (W) or only activations (A) quantized; a precision of the rest other than
        f32; and weights for VNNI only.
        """
        kept = [role for role in ("weights", "activations") if self.settings.get(role, True)]
        scheme = self.scheme or "several schemes"
        repairs = self.settings.get("repairs")
        scheme = " + ".join([scheme, *map(str, repairs)]) if isinstance(repairs, list) else scheme
        label = scheme if len(kept) != 1 else f"{scheme} ({kept[0][0].upper()} only)"
        precision = self.settings.get("precision")
        label = f"{label}, {precision}" if precision else label
        return f"{label}, VNNI only" if self.settings.get("processors") == "vnni" else label

    def _check_texts(self) -> None:
        for name in (*_NAMES, *_TEXTS):
            _text(name, getattr(self, name))
        for name in (*_OPTIONAL_NAMES, *_OPTIONAL_TEXTS):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))
        for name in (*_NAMES, *_OPTIONAL_NAMES):
            if getattr(self, name) == "":
                raise InputError(f"{name} of a record must not be empty")
        if not re.fullmatch(r"[0-9a-f]{8,64}", _text("id", self.id)):
            raise InputError(f"id of a record must be 8 to 64 hex digits, got {self.id!r}")
        try:
            offset = datetime.fromisoformat(_text("created_utc", self.created_utc)).utcoffset()
        except ValueError:
            offset = None
        if offset != timedelta(0):
            raise InputError(f"created_utc of a record must be an ISO 8601 time in UTC, got {self.created_utc!r}")

    def to_json_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values; `from_json_dict` gives an equal record back."""
        values = {name: getattr(self, name) for name in RECORD_FIELDS}
        return {name: _plain_json(name, value) if isinstance(value, dict) else value for name, value in values.items()}

    def table(self) -> list[dict[str, Any]]:
        """Return the results as rows of plain values: one row per figure, or per listed item in some kinds."""
        return [{"figure": name, "value": value} for name, value in {**self.figures, **self.times}.items()]

    def to_pandas(self) -> Any:
        """Return `table()` as a `pandas.DataFrame`.

        Raises:
            InputError: pandas is not installed.
        """
        if find_spec("pandas") is None:
            raise InputError("to_pandas() needs the package pandas, which is not installed: pip install pandas")
        return import_module("pandas").DataFrame(self.table())

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        where = f" on {self.dataset}" if self.dataset else ""
        title = f"{self.kind}: {self.model}, {self.label}{where}, {self.engine}"
        return html_table(title, self.table())

    @classmethod
    def from_json_dict(cls, data: Any) -> Record:
        """Read what `to_json_dict` returned.

        Raises:
            StoreError: A field is missing or unknown, or has an invalid value.
        """
        if not isinstance(data, dict):
            raise StoreError(f"a record must be a JSON object, got {type(data).__name__}")
        for wrong, keys in (
            ("unknown", data.keys() - RECORD_FIELDS.keys()),
            ("missing", RECORD_FIELDS.keys() - data.keys()),
        ):
            if keys:
                raise StoreError(f"record {data.get('id', '(no id)')} has {wrong} fields: {', '.join(sorted(keys))}")
        try:
            return cls(**data)
        except InputError as error:
            raise StoreError(f"record {data['id']} is damaged: {error}") from error


RECORD_FIELDS: dict[str, None] = {f.name: None for f in fields(Record) if f.name != "scores"}
"""Names of a record's fields, in order."""


def parsed_items(record: Record, key: str, make: Callable[[Any], T]) -> list[T]:
    """Return a list from a record's results.

    Args:
        record: The record.
        key: Name of the list in the results.
        make: Makes one entry of the list, or raises `TypeError`, `KeyError`, `ValueError`.

    Raises:
        StoreError: The record is damaged.
    """
    entries: Any = record.results.get(key)
    if not isinstance(entries, list):
        raise StoreError(f"record {record.id} of kind {record.kind} is damaged: it does not list its {key}")
    try:
        return [make(entry) for entry in entries]
    except (TypeError, KeyError, ValueError) as error:
        raise StoreError(f"record {record.id} is damaged: {error}") from error


def _storable_all(value: Any) -> Any:
    """Return JSON values with texts that any encoding can represent."""
    if isinstance(value, dict):
        return {storable(key): _storable_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable_all(item) for item in value]
    return storable(value) if isinstance(value, str) else value


def _items(name: str, values: Any) -> list[tuple[str, Any]]:
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{name} of a record must map names to values, got {values!r}")
    return list(values.items())


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} of a record must be text, got {value!r}")
    return value


def _number(name: str, value: Any) -> float | int | None:
    return None if value is None else _required(name, value)


def _required(name: str, value: Any) -> float | int:
    """Return a number as Python's own; numpy's float32 and int64 are accepted, bool is not."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{name} of a record must be a finite number, got {value!r}")
    return int(value) if isinstance(value, Integral) else float(value)


def _plain_json(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy in JSON types: tuples become lists, as after reading."""
    try:
        text = json.dumps(value, allow_nan=False)
        plain: dict[str, Any] = json.loads(text)
        if _SURROGATE.search(text):
            plain = _storable_all(plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} of a record must be JSON values: {error}") from error
    return plain
