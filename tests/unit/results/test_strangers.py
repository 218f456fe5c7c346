"""Ids and names that SQLite, CSV and Parquet do not take as they are."""

import os

import pytest

from quantsam.files import shown
from quantsam.metrics.summary import ObjectScore
from quantsam.results.export import export
from quantsam.results.record import Record
from quantsam.results.store import ResultStore

ODD = os.fsdecode(b"caf\xe9")


def make(**changes):
    values = {"model": "L0", "weights_digest": "ab", "dataset": "scenes", "dataset_digest": "cd", "scheme": "int8"}
    return Record(**{**values, "figures": {"miou": 38.6}, "environment": {"torch": "2.4"}, **changes})


def test_ids_of_any_size_come_back(tmp_path):
    store = ResultStore(tmp_path / "s.sqlite")
    ids = [-(10**40), -(2**63), 0, 7, 2**53 + 1, 2**63 - 1, 2**63, 2**64 + 1, 10**100]
    record = make()
    scores = [ObjectScore(image_id=-key, annotation_id=key, area=5.0, iou=0.5, predicted_iou=None) for key in ids]
    store.append(record, reversed(scores))
    assert store.scores(record.id) == scores


def test_names_are_kept_as_text_that_everything_takes(tmp_path):
    record = make(
        dataset=ODD, calibration=ODD, scheme=ODD, settings={"detections": ODD, "more": [{ODD: ODD}], "π": "π😀"}
    )
    assert record.dataset == record.calibration == record.scheme == "caf\\xe9"
    assert record.settings == {"detections": "caf\\xe9", "more": [{"caf\\xe9": "caf\\xe9"}], "π": "π😀"}
    store = ResultStore(tmp_path / "s.sqlite")
    store.append(record)
    assert store.records() == store.records(dataset=ODD) == [record]
    assert store.records(dataset="x") == []
    (tmp_path / ODD).mkdir()
    for suffix in (".csv", ".parquet", ".md", ".json"):
        export([record], tmp_path / ODD / f"out{suffix}")
        assert (tmp_path / ODD / f"out{suffix}").stat().st_size


def test_a_store_that_holds_such_a_name_is_read():
    body = make(calibration="x", settings={"a": "x"}).to_json_dict()
    assert Record.from_json_dict(body | {"calibration": ODD, "settings": {"a": ODD}}).calibration == "caf\\xe9"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("日本 é", "日本 é"),
        (ODD, "caf\\xe9"),
        ("\ud800x", "\\ud800x"),
        ("", ""),
        ("a\nb\x1b[31m\tc", "a\\nb\\x1b[31m\\tc"),
        ("a\u2028", "a\\u2028"),
    ],
)
def test_shown(name, expected):
    assert shown(name) == expected
