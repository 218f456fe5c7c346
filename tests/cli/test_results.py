import csv
import json

import pytest
from pyarrow import parquet

from quantsam.metrics.summary import ObjectScore
from quantsam.results.record import Record
from quantsam.results.store import ResultStore


def record(number, **changes):
    fields = {
        "id": f"{number}{'0' * 31}",
        "model": "nano",
        "weights_digest": "ab",
        "scheme": "int8",
        "placement": "thesis",
        "dataset": "toy[old]",
        "dataset_digest": "cd",
        "figures": {"miou": 50.0 + number, "count": 2, "standard_error": 1.5},
        "scores": tuple(ObjectScore(1, i, 900.0, 0.25 * i + 0.01 * number, None) for i in (1, 2)),
    }
    return Record(**(fields | changes))


@pytest.fixture
def three(own_store):
    store = ResultStore(own_store)
    store.append(record(1, scheme="fp32", placement=None))
    store.append(record(2))
    store.append(record(3, scheme="mix-dwsc", dataset="other", dataset_digest="ef", prompt="click"))
    return store


def test_nothing_yet(run, own_store):
    ran = run("results")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"no results are in {own_store}: `quantsam evaluate` adds some\n"
    assert run("results", "--json").json == []
    assert not own_store.exists()


def test_the_list_is_in_order_newest_last(run, three):
    out = run("results").out
    assert out.startswith(f"3 results in {three.path}")
    assert [line.split()[0] for line in out.splitlines()[3:]] == ["10000000", "20000000", "30000000"]
    assert "toy[old]" in out
    assert [r["id"][0] for r in run("results", "--json").json] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--scheme", "int8"], "2"),
        (["--scheme", "*t8"], "2"),
        (["--dataset", "toy[old]"], "12"),
        (["--prompt", "click"], "3"),
        (["--placement", "thesis"], "23"),
        (["--model", "n*", "--dataset", "other"], "3"),
        (["--model", "L0"], ""),
    ],
)
def test_filters(run, three, options, ids):
    assert "".join(r["id"][0] for r in run("results", *options, "--json").json) == ids


def test_a_filter_that_matches_nothing_says_so(run, three):
    assert run("results", "--model", "L0").err == f"no results match in {three.path}: leave out a filter\n"


def test_placement_is_shown_where_there_are_several(run, three):
    assert "placement" not in run("results").out
    three.append(record(4, placement="onnxruntime"))
    assert "placement" in run("results").out


def test_exports(run, three, tmp_path):
    for suffix in ("csv", "parquet", "md", "json"):
        ran = run("results", "--scheme", "*t8", "--export", tmp_path / f"r.{suffix}")
        assert (ran.code, ran.out, ran.err) == (0, "", f"{tmp_path / f'r.{suffix}'}: 1 results\n")
    with (tmp_path / "r.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["scheme"], float(row["miou"])) == ("int8", 52.0)
    assert parquet.read_table(tmp_path / "r.parquet").column("miou").to_pylist() == [52.0]
    assert "| int8 |" in (tmp_path / "r.md").read_text()
    assert json.loads((tmp_path / "r.json").read_text())[0]["id"][0] == "2"


def test_compare(run, three):
    found = run("results", "--compare", "1", "2", "--json").json
    assert found["mean_difference"] == pytest.approx(1.0)
    assert found["count"] == 2
    out = run("results", "--compare", "1", "2").out
    assert out == "nano int8 minus nano fp32: +1.000 ± 0.000 points of mIoU over the same 2 objects\n"
    assert run("results", "--compare", "2", "1").out.startswith("nano fp32 minus nano int8: -1.000")


def test_compare_refuses_other_data(run, three):
    run("results", "--compare", "1", "3").complains(2, "same data", "toy[old]", "other")


def test_ids_that_mean_nothing_or_too_much(run, three):
    three.append(record(1, id="11" + "0" * 30))
    run("results", "--compare", "1", "2").complains(2, "'1'", "one record, got 2")
    run("results", "--compare", "9", "2").complains(2, "'9'")


@pytest.mark.parametrize("content", [b"not a database at all, but text" * 40, b"SQLite format 3\0" + b"\xff" * 400])
def test_a_damaged_store_is_one_line_before_any_work(run, own_store, content):
    own_store.write_bytes(content)
    run("results").complains(1, str(own_store))
    run("evaluate", "--data", "scenes:1").complains(1, str(own_store))
    assert own_store.read_bytes() == content


def test_a_store_below_a_file_is_found_before_any_work(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("quantsam.runs.run.load_model", lambda *a, **k: pytest.fail("the store must be looked at"))
    ran = run("evaluate", "--data", "scenes:1", "--store", tmp_path / "file" / "r.sqlite")
    ran.complains(1, "is a file, not a folder", "another path")
