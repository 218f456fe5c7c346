"""Records of each kind give typed results; those of earlier versions are read in the form of this one."""

import json
import sqlite3
import sys
from types import SimpleNamespace

import pytest

from quantsam.errors import InputError, StoreError
from quantsam.results.agreement_record import AgreementRecord
from quantsam.results.distribution_record import DistributionRecord
from quantsam.results.kinds import read_record
from quantsam.results.record import Record
from quantsam.results.search_record import SearchEntry, SearchRecord
from quantsam.results.sensitivity_record import RowScore, SensitivityRecord
from quantsam.results.store import ResultStore

COMMON = {"model": "nano", "weights_digest": "ab", "figures": {"count": 3}, "environment": {}}
ROWS = [
    RowScore("stage1:0:0", "conv", "both", ("stage1:0:0",), 0.1, 0.1, 1.0, 0.1, 30.0, 4, 9),
    RowScore("stage1:0:1", "conv", "both", ("stage1:0:1",), 2.0, 0.2, 7.0, 0.1, 20.0, 4, 9),
]
ENTRIES = [
    SearchEntry("small", "found", True, ("int8",), 1.0, 8, 3.0, 0.1, 4.0, 0.1),
    SearchEntry("odd", "hand-made", False, ("int8",), 2.0, 8, 3.5, 0.1, 4.5, 0.1),
    SearchEntry("large", "found", True, ("float",), 4.0, 32, 0.0, 0.0, 0.0, 0.0),
]


def study():
    results = {"rows": [row.to_json_dict() for row in ROWS]}
    return SensitivityRecord(**COMMON, scheme="int8", dataset="toy", dataset_digest="cd", results=results)


def search(**changes):
    results = {"entries": [entry.to_json_dict() for entry in ENTRIES]}
    return SearchRecord(**{**COMMON, "scheme": None, "dataset": "toy", "results": results, **changes})


def test_rows_of_a_study():
    assert study().kind == "sensitivity"
    assert study().rows == ROWS
    assert [row.unit for row in study().worst_first] == ["stage1:0:1", "stage1:0:0"]


def test_the_front_of_a_search_and_what_was_chosen():
    assert [entry.name for entry in search().front] == ["small", "large"]
    assert search().chosen is None
    assert search(scheme="large").chosen == ENTRIES[2]
    assert search().label == "several schemes"


def test_a_store_gives_typed_records_back(tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    latency = Record(**COMMON, kind="latency", scheme="int8", prompt=None)
    kept = [study(), search(), latency]
    for record in kept:
        store.append(record)
    assert store.records() == kept
    assert [type(record) for record in store.records()] == [SensitivityRecord, SearchRecord, Record]
    assert (store.records()[2].dataset, store.records()[2].prompt) == (None, None)


OLD = {
    "sensitivity": (
        {"scheme": "int8", "settings": {"by": "layer", "rows": [row.to_json_dict() for row in ROWS]}},
        lambda record: record.rows == ROWS and record.settings == {"by": "layer"},
    ),
    "search": (
        {"scheme": "front", "settings": {"unit": "bytes", "entries": [e.to_json_dict() for e in ENTRIES]}},
        lambda record: (record.scheme, record.entries, record.settings) == (None, ENTRIES, {"unit": "bytes"}),
    ),
    "distributions": (
        {"scheme": "int8", "prompt": "none", "settings": {"sites": []}},
        lambda record: record.prompt is None and record.sites == [],
    ),
    "agree": (
        {
            "scheme": "int8",
            "figures": {"count": 3, "between_openvino+vnni_gap": 0.1, "between_openvino+vnni_mask_iou": 99.0},
            "settings": {"silently_float": ["stage1:0:0"]},
        },
        lambda record: (record.between, record.silently_float) == (["openvino+vnni"], ["stage1:0:0"]),
    ),
    "latency": (
        {"scheme": "int8", "dataset": "noise", "dataset_digest": "", "prompt": "none", "settings": {}},
        lambda record: (record.dataset, record.dataset_digest, record.prompt) == (None, None, None),
    ),
}
TYPES = {"sensitivity": SensitivityRecord, "search": SearchRecord, "agree": AgreementRecord}
TYPES |= {"distributions": DistributionRecord, "latency": Record}


def old_body(kind):
    values = Record(**COMMON, kind=kind, scheme="int8", dataset="toy", dataset_digest="cd").to_json_dict()
    del values["results"]
    return {**values, **OLD[kind][0]}


@pytest.mark.parametrize("kind", OLD)
def test_records_of_earlier_versions(kind):
    record = read_record(old_body(kind))
    assert type(record) is TYPES[kind]
    assert OLD[kind][1](record)
    assert read_record(json.loads(json.dumps(record.to_json_dict()))) == record


def test_an_old_record_and_a_new_one_of_the_same_thing_are_one(tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    new = Record(**COMMON, kind="latency", scheme="int8", prompt=None)
    store.append(Record(**COMMON, kind="latency", scheme="int8", prompt=None))
    store.append(new)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE records SET body = ? WHERE seq = 1", (json.dumps(old_body("latency")),))
    connection.close()
    assert store.newest(9) == ([new], 2)


def test_a_record_without_its_results_is_refused():
    with pytest.raises(StoreError, match=r"of kind sensitivity is damaged: it does not list its rows"):
        _ = SensitivityRecord(**COMMON, scheme="int8").rows


def test_tables_for_people_and_for_pandas(monkeypatch):
    assert [row["unit"] for row in study().table()] == ["stage1:0:0", "stage1:0:1"]
    assert "formats" not in search().table()[0]
    assert Record(**COMMON, scheme="int8").table() == [{"figure": "count", "value": 3}]
    page = study()._repr_html_()
    assert "<caption>sensitivity: nano, int8 on toy, pytorch</caption>" in page
    assert page.count("<tr>") == 3
    odd = Record(**{**COMMON, "figures": {"<b>": 1.23456}}, scheme="int8")
    assert "<td>&lt;b&gt;</td><td>1.235</td>" in odd._repr_html_()
    monkeypatch.setattr("quantsam.results.record.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package pandas, which is not installed: pip install pandas"):
        study().to_pandas()
    monkeypatch.setattr("quantsam.results.record.find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert study().to_pandas() == ("frame", study().table())


def test_a_long_table_says_what_it_left_out():
    results = {"rows": [ROWS[0].to_json_dict()] * 100}
    page = SensitivityRecord(**COMMON, scheme="int8", results=results)._repr_html_()
    assert "40 further rows" in page
