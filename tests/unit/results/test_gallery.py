import dataclasses
import json
import sqlite3

import pytest

from quantsam.errors import InputError, StoreError
from quantsam.results.gallery import GalleryEntry
from quantsam.results.record import Record
from quantsam.results.store import ResultStore

RLE = {"size": [3, 4], "counts": "0<"}


def entry(number=1, **changes):
    values = {"rank": "worst", "image_id": 7, "annotation_id": number, "image_hw": (3, 4)}
    values |= {"box_xyxy": (0.0, 1.0, 2.0, 3.0), "click_xy": None, "truth": RLE, "fp32": RLE, "quantized": RLE}
    return GalleryEntry(**{**values, "fp32_iou": 0.5, "iou": 0.25, "picture": b"jpeg", **changes})


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results.sqlite")


@pytest.fixture
def record(store):
    made = Record(
        model="nano", weights_digest="ab", scheme="int8", dataset="d", dataset_digest="cd", figures={"miou": 1.0}
    )
    store.append(made)
    return made


def count(store, table):
    with sqlite3.connect(store.path) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_entries_come_back_as_they_were_in_order(store, record):
    kept = [entry(3, click_xy=(1, 2)), entry(1, fp32_iou=1, rank="best"), entry(2, picture=None)]
    store.keep_gallery(record.id, kept)
    assert store.gallery(record.id) == kept
    assert ResultStore(store.path).gallery(record.id[:10]) == kept


def test_a_record_without_a_gallery_has_none(store, record):
    assert store.gallery(record.id) == []


def test_a_store_from_before_there_were_galleries_has_none(store, record):
    with sqlite3.connect(store.path) as connection:
        connection.execute("DROP TABLE gallery")
        connection.execute("DROP TABLE pictures")
    assert store.gallery(record.id) == []
    store.keep_gallery(record.id, [entry()])
    assert store.gallery(record.id) == [entry()]


def test_a_picture_is_kept_once(store, record):
    store.keep_gallery(record.id, [entry(1), entry(2), entry(3, picture=b"other")])
    assert (count(store, "gallery"), count(store, "pictures")) == (3, 2)


def test_a_new_gallery_takes_the_place_of_the_old(store, record):
    store.keep_gallery(record.id, [entry(1), entry(2)])
    store.keep_gallery(record.id, [entry(5)])
    assert store.gallery(record.id) == [entry(5)]


def test_a_gallery_is_kept_whole_or_not_at_all(store, record):
    store.keep_gallery(record.id, [entry(1)])
    with pytest.raises(TypeError, match="JSON"):
        store.keep_gallery(record.id, [entry(2), entry(3, truth=object())])
    assert store.gallery(record.id) == [entry(1)]


def test_a_lost_picture_is_none(store, record):
    store.keep_gallery(record.id, [entry(1), entry(2, picture=b"other")])
    with sqlite3.connect(store.path) as connection:
        connection.execute("DELETE FROM pictures WHERE data = ?", (b"jpeg",))
    assert [e.picture for e in store.gallery(record.id)] == [None, b"other"]


def test_a_gallery_needs_its_record(store, record):
    with pytest.raises(InputError, match="no record"):
        store.keep_gallery("f" * 32, [entry()])
    with pytest.raises(InputError, match="no record"):
        store.gallery("f" * 32)


DAMAGE = [
    *({"image_hw": 3}, {"image_hw": [0, 8]}, {"image_hw": ["6", 8]}, {"iou": float("nan")}, {"iou": "0.5"}),
    *({"box_xyxy": [1, 2, 3]}, {"rank": "middling"}, {"click_xy": [1]}, {"annotation_id": 1.5}, {"new": 1}),
]


@pytest.mark.parametrize("body", ["no json", "[]", "{}", *DAMAGE])
def test_damaged_entries_are_store_errors(store, record, body):
    store.keep_gallery(record.id, [entry()])
    text = body if isinstance(body, str) else json.dumps({**json.loads(entry().to_json()), **body})
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE gallery SET body = ?", (text,))
    with pytest.raises(StoreError, match="damaged"):
        store.gallery(record.id)


def test_the_digest_is_of_the_picture_alone():
    assert entry(1).picture_digest == entry(2).picture_digest != entry(1, picture=b"x").picture_digest
    assert dataclasses.replace(entry(), picture=None).picture_digest == ""
