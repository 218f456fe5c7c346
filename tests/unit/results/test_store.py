import functools
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from quantsam.errors import InputError, StoreError
from quantsam.metrics.summary import ObjectScore
from quantsam.results.record import Record
from quantsam.results.store import ResultStore, default_store_path


def make(scheme="int8", **changes):
    values = {"model": "L0", "weights_digest": "ab", "dataset": "scenes", "dataset_digest": "cd"}
    values["environment"] = {"torch": "2.4"}
    return Record(**{**values, "scheme": scheme, "figures": {"miou": 38.6, "count": 3}, **changes})


def scores(count):
    return [
        ObjectScore(image_id=i // 3, annotation_id=i, area=50.5, iou=i / count, predicted_iou=0.9) for i in range(count)
    ]


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results.sqlite", busy_timeout_s=10.0)


def test_records_and_scores_come_back_as_they_were_the_newest_last(store):
    records = [make("int8", settings={"limit": None}), make("mix-dwsc"), make("fp32", times={"wall_s": 1.5})]
    for count, record in enumerate(records, start=2):
        store.append(record, scores(count))
    assert store.records() == records
    assert store.scores(records[1].id) == scores(3)
    assert ResultStore(store.path).get(records[2].id) == records[2]


def test_with_is_allowed(store):
    with store as opened:
        opened.append(make())
    assert len(store.records()) == 1


def test_a_record_without_scores_has_none(store):
    store.append(record := make())
    assert store.scores(record.id) == []


def test_scores_of_numpy_and_without_a_number_can_be_kept(store):
    values = [
        (np.int64(1), np.int64(5), np.float32(2.5), np.float64(0.5), np.float32("nan")),
        (1, 6, 2.5, 0.5, None),
    ]
    store.append(record := make(), (ObjectScore(*row) for row in values))
    assert store.scores(record.id) == [ObjectScore(1, 5, 2.5, 0.5, None), ObjectScore(1, 6, 2.5, 0.5, None)]


def test_reading_where_nothing_is_creates_nothing(tmp_path):
    store = ResultStore(tmp_path / "deep" / "results.sqlite")
    assert store.records() == []
    with pytest.raises(InputError, match=r"no record of .* begins with 'ab'"):
        store.get("ab")
    with pytest.raises(InputError, match="no record"):
        store.scores("ab")
    assert list(tmp_path.iterdir()) == []
    store.append(make())
    assert store.path.exists()


def test_an_empty_file_is_an_empty_store(store):
    store.path.touch()
    assert store.records() == []
    store.append(make())
    assert len(store.records()) == 1


@pytest.mark.parametrize(
    ("filters", "schemes"),
    [
        ({}, ["int8", "mix-dwsc", "mix-mbc-neck", "w[48]a8"]),
        ({"scheme": "int8"}, ["int8"]),
        ({"scheme": "int"}, []),
        ({"scheme": "INT8"}, []),
        ({"scheme": "mix-*"}, ["mix-dwsc", "mix-mbc-neck"]),
        ({"scheme": "w[48]a8"}, ["w[48]a8"]),
        ({"scheme": "mix-*", "model": "XL?"}, ["mix-mbc-neck"]),
        ({"placement": "*"}, ["mix-dwsc"]),
        ({"placement": None}, ["int8", "mix-dwsc", "mix-mbc-neck", "w[48]a8"]),
        ({"engine": "onnx*", "dataset": "scenes", "prompt": "box", "kind": "evaluate"}, ["w[48]a8"]),
        ({"scheme": "' OR 1 --"}, []),
    ],
)
def test_filters_are_exact_or_globs_and_all_must_hold(store, filters, schemes):
    store.append(make("int8"))
    store.append(make("mix-dwsc", placement="thesis"))
    store.append(make("mix-mbc-neck", model="XL0"))
    store.append(make("w[48]a8", engine="onnxruntime"))
    assert [record.scheme for record in store.records(**filters)] == schemes


def test_an_unknown_filter_names_the_nearest(store):
    with pytest.raises(InputError, match="no filter 'shceme': did you mean 'scheme'"):
        store.records(shceme="int8")


def test_a_record_is_found_by_the_beginning_of_its_id(store):
    ids = ["abcd0000" + "0" * 24, "abce0000" + "0" * 24, "abcd0000"]
    for record_id in ids:
        store.append(make(id=record_id), scores(1))
    assert store.get("abce").id == ids[1]
    assert store.get("abcd0000").id == "abcd0000"  # a whole id, though another begins with it
    assert store.scores("abce") == scores(1)
    with pytest.raises(InputError, match=f"'ab' must belong to one record, got 3: {ids[0]}, {ids[1]}, abcd0000$"):
        store.get("ab")
    for nothing in ("", "%", "abcf", "ABCE"):
        with pytest.raises(InputError, match="no record"):
            store.get(nothing)


def test_an_id_can_be_used_once_and_the_second_changes_nothing(store):
    store.append(record := make(), scores(2))
    with pytest.raises(StoreError, match=f"holds a record {record.id} already"):
        store.append(replace(record, scheme="fp32"), scores(5))
    assert store.records() == [record]
    assert store.scores(record.id) == scores(2)


def test_an_object_scored_twice_is_refused_before_anything_is_written(store):
    with pytest.raises(InputError, match="must name an object once, got 1 repeated"):
        store.append(make(), [*scores(3), *scores(1)])
    assert not store.path.exists()


def test_scores_that_fail_half_way_leave_nothing(store):
    def failing():
        yield from scores(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.append(make(), failing())
    assert store.records() == []


def test_odd_characters_in_the_path_are_kept(tmp_path):
    store = ResultStore(tmp_path / "50% of it? #1 ü.sqlite")
    store.append(make())
    assert [entry.name for entry in tmp_path.iterdir()] == ["50% of it? #1 ü.sqlite"]
    assert len(store.records()) == 1


def test_the_default_path_is_the_environment_s_or_the_user_s(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTSAM_STORE", "~/mine.sqlite")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store_path() == ResultStore().path == tmp_path / "mine.sqlite"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("QUANTSAM_STORE", "")
    assert default_store_path().parts[-2:] == ("quantsam", "results.sqlite")


def test_no_call_leaves_its_connection_open(store, monkeypatch):
    opened = []

    class Watched(sqlite3.Connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(self)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Watched))
    store.append(record := make(), scores(2))
    assert store.records() == [store.get(record.id)]
    store.scores(record.id)
    with pytest.raises(InputError):
        store.get("0" * 40)
    with pytest.raises(StoreError):
        store.append(record)
    assert len(opened) == 6
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_the_newest_of_each_measurement(store):
    old, other, new = make("int8"), make("int8", prompt="click"), make("int8", notes="again")
    switched = make("int8", settings={"activations": False})
    for record in (old, other, new, switched):
        store.append(record)
    assert store.newest(10) == ([other, new, switched], 4)
    assert store.newest(2) == ([new, switched], 4)
    assert store.newest(10, prompt="cl*") == ([other], 1)
    with pytest.raises(InputError, match="no filter"):
        store.newest(1, modell="L0")


def test_the_newest_of_no_store_are_none(tmp_path):
    assert ResultStore(tmp_path / "absent.sqlite").newest(5) == ([], 0)


@pytest.mark.parametrize("body", ["no json", "[]", '{"settings": 3}'])
def test_damaged_records_among_the_newest_are_store_errors(store, body):
    store.append(make())
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE records SET body = ?", (body,))
    with pytest.raises(StoreError):
        store.newest(5)
