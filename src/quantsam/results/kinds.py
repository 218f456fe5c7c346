"""Read records by kind; records of older stores are converted to the form of this version."""

from __future__ import annotations

from typing import Any

from quantsam.results import (
    activation_record,
    agreement_record,
    distribution_record,
    repair_record,
    search_record,
    sensitivity_record,
)
from quantsam.results.activation_record import ActivationRecord
from quantsam.results.agreement_record import AgreementRecord
from quantsam.results.distribution_record import DistributionRecord
from quantsam.results.record import Record
from quantsam.results.repair_record import RepairRecord
from quantsam.results.search_record import SearchRecord
from quantsam.results.sensitivity_record import SensitivityRecord

RECORD_TYPES: dict[str, type[Record]] = {
    activation_record.KIND: ActivationRecord,
    agreement_record.KIND: AgreementRecord,
    distribution_record.KIND: DistributionRecord,
    repair_record.KIND: RepairRecord,
    search_record.KIND: SearchRecord,
    sensitivity_record.KIND: SensitivityRecord,
}
"""What records of a kind are; those of other kinds are of `Record`."""

_WERE_SETTINGS = {
    agreement_record.KIND: ("silently_float",),
    distribution_record.KIND: ("sites",),
    search_record.KIND: ("entries",),
    sensitivity_record.KIND: ("rows",),
}
_STOOD_FOR_NONE = {
    "latency": {"dataset": "noise", "dataset_digest": "", "prompt": "none"},
    distribution_record.KIND: {"prompt": "none"},
    search_record.KIND: {"scheme": "front"},
}


def read_record(values: Any) -> Record:
    """Make a record from what `Record.to_json_dict` returned, in this version or an earlier one.

    Raises:
        StoreError: A field is missing or unknown, or has an invalid value.
    """
    current = in_current_form(values)
    kind = current.get("kind") if isinstance(current, dict) else None
    return RECORD_TYPES.get(str(kind), Record).from_json_dict(current)


def in_current_form(values: Any) -> Any:
    """Return a record's JSON values in the form of this version.

    Earlier versions had no `results`: they kept lists among the settings, and used words where there was no dataset,
    prompt or scheme.
    """
    if not isinstance(values, dict) or "results" in values or not isinstance(values.get("settings"), dict):
        return values
    kind, settings = values.get("kind"), dict(values["settings"])
    results = {key: settings.pop(key) for key in _WERE_SETTINGS.get(str(kind), ()) if key in settings}
    if kind == agreement_record.KIND and isinstance(values.get("figures"), dict):
        results["between"] = agreement_record.engines_between(values["figures"])
    nones = {key: None for key, word in _STOOD_FOR_NONE.get(str(kind), {}).items() if values.get(key) == word}
    return {**values, **nones, "settings": settings, "results": results}
