"""`quantsam report`."""

import importlib.util
import sqlite3

import pytest

from quantsam.results.record import Record
from quantsam.results.store import ResultStore

FEW = ("--data", "scenes:2", "--calibration", "scenes:2:1")


@pytest.fixture
def scored(run):
    """FP32 and int8 in the default store."""
    assert run("evaluate", "--scheme", "fp32", "--scheme", "int8", *FEW).code == 0


def test_a_page_and_its_figures(run, scored, tmp_path, left):
    ran = run("report", "--out", tmp_path / "r.html", "--figures", tmp_path / "deep" / "figures")
    assert (ran.code, ran.err) == (0, "")
    assert "2 results, 6 files of 2 charts" in ran.out
    charts = ("nano--1-size", "nano--encoder-layers")
    names = [f"deep/figures/{chart}.{suffix}" for chart in charts for suffix in ("pdf", "png", "svg")]
    assert left(tmp_path) == sorted(["deep", "deep/figures", *names, "r.html"])
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "INT8 everywhere, simulated" in page
    assert page.count('class="object"') >= 3
    assert "int8, simulated less fp32, PyTorch" in page
    assert "By category" in page


def test_evaluate_keeps_pictures_unless_told_not_to(run, scored, own_store):
    store = ResultStore(own_store)
    assert [len(store.gallery(record.id)) > 0 for record in store.records()] == [False, True]
    assert run("evaluate", "--scheme", "int8", "--gallery", "0", "--again", *FEW).code == 0
    assert store.gallery(store.records()[-1].id) == []


def test_json_and_filters(run, scored, tmp_path):
    found = run("report", "--out", tmp_path / "r.html", "--scheme", "int*", "--json").json
    assert found == {"report": str(tmp_path / "r.html"), "results": 1, "figures": []}


def test_an_empty_store(run, tmp_path, left):
    run("report", "--out", tmp_path / "r.html").complains(2, "needs results", "got none", "quantsam evaluate")
    assert left(tmp_path) == []


def test_filters_that_leave_nothing(run, scored, tmp_path, left):
    ran = run("report", "--out", tmp_path / "r.html", "--model", "l9", "--figures", tmp_path / "figures")
    ran.complains(2, "leave out a filter", "2 others")
    assert left(tmp_path) == []


@pytest.mark.parametrize("kind", ["text", "another program's", "newer"])
def test_a_foreign_store(run, scored, own_store, tmp_path, left, kind):
    foreign = tmp_path / "foreign.sqlite"
    if kind == "text":
        foreign.write_text("no database at all, but long enough to be looked at " * 40)
    elif kind == "newer":
        foreign.write_bytes(own_store.read_bytes())
        with sqlite3.connect(foreign) as connection:
            connection.execute("PRAGMA user_version = 99")
    else:
        with sqlite3.connect(foreign) as connection:
            connection.execute("CREATE TABLE theirs (x)")
    ran = run("report", "--store", foreign, "--out", tmp_path / "r.html")
    ran.complains(1, "foreign.sqlite", "path")
    assert left(tmp_path) == ["foreign.sqlite"]


def test_lost_pictures_are_told(run, scored, own_store, tmp_path):
    with sqlite3.connect(own_store) as connection:
        connection.execute("DELETE FROM pictures")
    ran = run("report", "--out", tmp_path / "r.html")
    assert ran.code == 0
    assert "without their image" in ran.err
    assert ran.err.count("\n") == 1


def test_places_that_cannot_be_written(run, scored, tmp_path, left):
    (tmp_path / "file").touch()
    run("report", "--out", tmp_path / "absent" / "r.html").complains(1, "cannot write", "no folder")
    run("report", "--out", tmp_path / "r.html", "--figures", tmp_path / "file").complains(1, "figures", "file")
    assert left(tmp_path) == ["file"]


def test_damaged_records(run, own_store, tmp_path, left):
    settings = {"rows": [{"unit": 3}], "by": "layer", "mode": "in"}
    common = {"model": "nano", "weights_digest": "a", "dataset": "d", "dataset_digest": "b", "figures": {}}
    ResultStore(own_store).append(Record(kind="sensitivity", scheme="int8", settings=settings, **common))
    run("report", "--out", tmp_path / "r.html").complains(1, "damaged")
    assert left(tmp_path) == []


def test_without_what_draws(run, scored, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "altair" else found(name, *more)
    )
    run("report", "--out", tmp_path / "r.html").complains(2, "altair", "pip install 'quantsam[report]'")
