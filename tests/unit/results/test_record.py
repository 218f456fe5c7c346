import json
import re
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsam.errors import InputError, StoreError
from quantsam.results.machine import environment
from quantsam.results.record import RECORD_FIELDS, Record

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def make(**changes):
    values = {"model": "L0", "weights_digest": "ab", "scheme": "int8", "dataset": "d", "dataset_digest": "cd"}
    return Record(**{**values, "figures": {"miou": 38.6, "count": 3, "miou_large": None}, **changes})


@given(
    st.dictionaries(st.text(max_size=5).map("f_{}".format), st.none() | FINITE | st.integers(), max_size=4),
    st.dictionaries(st.text(max_size=5).map("t_{}".format), FINITE, max_size=4),
    st.text(max_size=10),
)
def test_a_record_survives_json(figures, times, notes):
    settings = {"seed": 1, "sizes": (1, 2), "deep": {"a": None}}
    record = make(figures=figures, times=times, notes=notes, settings=settings, environment={"torch": "2.4"})
    assert Record.from_json_dict(json.loads(json.dumps(record.to_json_dict()))) == record


def test_defaults_are_an_evaluation_in_pytorch_with_boxes():
    record = make()
    assert (record.kind, record.engine, record.prompt, record.placement) == (
        "evaluate",
        "pytorch",
        "box",
        None,
    )
    assert re.fullmatch("[0-9a-f]{32}", record.id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", record.created_utc)
    assert record.environment == environment()
    assert make().id != record.id


def test_the_mappings_are_copies_both_ways():
    figures, settings = {"miou": 1.0}, {"switches": ["a"]}
    record = make(figures=figures, settings=settings)
    figures["miou"] = 2.0
    settings["switches"].append("b")
    record.to_json_dict()["settings"]["switches"].append("c")
    assert record.figures == {"miou": 1.0}
    assert record.settings == {"switches": ["a"]}


def test_numbers_of_numpy_become_python_s():
    record = make(figures={"miou": np.float32(0.5), "count": np.int64(7)}, times={"wall_s": np.float64(2)})
    assert [type(value) for value in record.figures.values()] == [float, int]
    assert record.figures == {"miou": 0.5, "count": 7}
    assert type(record.times["wall_s"]) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../etc"}, "id of a record must be 8 to 64 hex digits"),
        ({"model": ""}, "model of a record must not be empty"),
        ({"scheme": 8}, "scheme of a record must be text, got 8"),
        ({"placement": 8}, "placement of a record must be text, got 8"),
        ({"weights_digest": None}, "weights_digest of a record must be text, got None"),
        ({"created_utc": "2026-05-09T07:35:25"}, "ISO 8601 time in UTC"),
        ({"created_utc": "2026-05-09T07:35:25+02:00"}, "ISO 8601 time in UTC"),
        ({"created_utc": "yesterday"}, "ISO 8601 time in UTC, got 'yesterday'"),
        ({"figures": {"miou": float("nan")}}, "miou of a record must be a finite number, got nan"),
        ({"figures": {"miou": "38.6"}}, "miou of a record must be a finite number, got '38.6'"),
        ({"figures": {"ok": True}}, "ok of a record must be a finite number, got True"),
        ({"figures": [1]}, "figures of a record must map names to values"),
        ({"times": {"wall_s": None}}, "wall_s of a record must be a finite number, got None"),
        ({"environment": {"torch": 2}}, "torch of a record must be text, got 2"),
        ({"settings": {"seed": {1, 2}}}, "settings of a record must be JSON values"),
        ({"settings": {"scale": float("inf")}}, "settings of a record must be JSON values"),
        ({"settings": {1: "a"}}, "settings of a record must map names to values"),
        ({"figures": {"model": 1}}, "different names, got 'model' twice"),
        ({"figures": {"wall_s": 1}, "times": {"wall_s": 1}}, "different names, got 'wall_s' twice"),
    ],
)
def test_what_is_not_a_record_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_unknown_missing_and_damaged_fields_are_store_errors():
    good = make(id="a" * 32).to_json_dict()
    assert list(good) == list(RECORD_FIELDS)
    with pytest.raises(StoreError, match=r"record a{32} has unknown fields: colour, taste"):
        Record.from_json_dict({**good, "taste": 1, "colour": 2})
    with pytest.raises(StoreError, match=r"record a{32} has missing fields: prompt"):
        Record.from_json_dict({key: value for key, value in good.items() if key != "prompt"})
    with pytest.raises(StoreError, match=r"record a{32} is damaged: miou of a record must be a finite"):
        Record.from_json_dict({**good, "figures": {"miou": "high"}})
    with pytest.raises(StoreError, match="must be a JSON object, got list"):
        Record.from_json_dict([good])


def test_a_replaced_record_is_checked_again():
    with pytest.raises(InputError, match="engine of a record must not be empty"):
        replace(make(), engine="")


def test_environment_names_versions_and_the_machine():
    found = environment("onnxruntime-of-another-world")
    assert found["numpy"] == np.__version__
    assert found["torch"] == metadata.version("torch")
    assert found["onnxruntime-of-another-world"] == "not installed"
    assert all(found[name] for name in ("python", "platform", "machine", "cpu", "cpu_count", "quantsam"))
