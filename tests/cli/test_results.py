import csv
import json

import pytest
from pyarrow import parquet

import quantsam as qs
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
        assert (ran.code, ran.out, ran.err) == (0, "", f"{tmp_path / f'r.{suffix}'}: 1 result\n")
    with (tmp_path / "r.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["scheme"], float(row["miou"])) == ("int8", 52.0)
    assert parquet.read_table(tmp_path / "r.parquet").column("miou").to_pylist() == [52.0]
    assert "| int8 |" in (tmp_path / "r.md").read_text()
    assert json.loads((tmp_path / "r.json").read_text())[0]["id"][0] == "2"


def test_compare(run, three):
    found = run("results", "--compare", "1", "2", "--json").json
    assert (found["id"][0], found["compared_with"][0], found["rows"]) == ("2", "1", [])
    assert found["all"]["difference"] == pytest.approx(1.0)
    assert [found["all"][key] for key in ("objects", "wins", "losses", "ties")] == [2, 2, 0, 0]
    out = run("results", "--compare", "1", "2").out.splitlines()
    assert out[0] == "nano int8 on toy[old], box prompts: mIoU 39.50 over 2 objects"
    assert out[1] == "minus nano fp32: +1.000 ± 0.000 (SE) points of mIoU; 2 better, 0 worse, 0 within 0.5 points"
    assert out[2] == "by size"  # and not by category, which this store does not know
    assert "minus nano int8: -1.000" in run("results", "--compare", "2", "1").out


@pytest.fixture
def scored(run, own_store):
    """Ids of FP32 and of int8 of the same scenes."""
    line = ("evaluate", "--data", "scenes:4", "--calibration", "scenes:1:1", "--scheme", "fp32", "--scheme", "w4a8")
    return [record["id"] for record in run(*line, "--json").json]


def test_objects_are_listed_with_what_they_are_called_the_worst_first(run, scored, own_store):
    fp32, quantized = scored
    found = run("results", quantized[:8], "--objects", "--json").json
    assert (found["id"], found["compared_with"]) == (quantized, fp32)
    rows = found["rows"]
    scores = {score.annotation_id: score for score in ResultStore(own_store).scores(quantized)}
    assert len(rows) == found["all"]["objects"] == len(scores)
    dataset = qs.open_dataset("scenes:4")
    objects = [a for image_id in dataset.image_ids for a in dataset.annotations(image_id)]
    categories = {a.id: dataset.category_names[a.category_id] for a in objects}
    for row in rows:
        score = scores[row["annotation_id"]]
        assert row["category"] == categories[row["annotation_id"]]
        assert (row["image_id"], row["area"], row["file"]) == (score.image_id, score.area, None)
        assert (row["iou"], row["predicted_iou"]) == (100 * score.iou, 100 * score.predicted_iou)
        assert row["difference"] == pytest.approx(row["iou"] - row["baseline_iou"])
    differences = [row["difference"] for row in rows]
    assert differences == sorted(differences)
    best = run("results", quantized, "--objects", "--best", "--json").json["rows"]
    assert [row["annotation_id"] for row in best] == [row["annotation_id"] for row in rows][::-1]
    out = run("results", quantized, "--objects", "--rows", "3").out
    assert rows[0]["category"] in out
    assert f"{len(rows) - 3} more: --rows {len(rows)} prints all" in out


@pytest.mark.parametrize("by", ["category", "size", "image"])
def test_means_over_groups_of_objects(run, scored, by):
    fp32, quantized = scored
    rows = run("results", quantized, "--objects", "--json").json["rows"]
    asked = ("--images",) if by == "image" else ("--by", by)
    groups = run("results", quantized, *asked, "--json").json["rows"]
    key = "image_id" if by == "image" else by
    assert {group["group"] for group in groups} == {str(row[key]) for row in rows}
    for group in groups:
        members = [row for row in rows if str(row[key]) == group["group"]]
        assert group["objects"] == len(members)
        assert group["miou"] == pytest.approx(sum(row["iou"] for row in members) / len(members))
        assert group["difference"] == pytest.approx(sum(row["difference"] for row in members) / len(members))
        assert group["wins"] == sum(row["difference"] > 0.5 for row in members)
        assert group["wins"] + group["losses"] + group["ties"] == len(members)
    assert groups[0]["group"] in run("results", quantized, *asked).out
    same = run("results", "--compare", fp32, quantized, *asked, "--json").json["rows"]
    assert same == groups


def test_tables_of_objects_are_exported(run, scored, tmp_path):
    fp32, quantized = scored
    rows = run("results", quantized, "--objects", "--json").json["rows"]
    for suffix in ("csv", "parquet", "json", "md"):
        ran = run("results", quantized, "--objects", "--export", tmp_path / f"o.{suffix}")
        assert (ran.out, ran.err) == ("", f"{tmp_path / f'o.{suffix}'}: {len(rows)} rows\n")
    assert json.loads((tmp_path / "o.json").read_text()) == rows
    assert parquet.read_table(tmp_path / "o.parquet").drop(["file"]).to_pylist() == [
        {key: value for key, value in row.items() if key != "file"} for row in rows
    ]
    with (tmp_path / "o.csv").open() as file:
        assert [float(row["iou"]) for row in csv.DictReader(file)] == [row["iou"] for row in rows]
    alone = run("results", fp32, "--objects", "--json").json
    assert alone["compared_with"] is None
    assert all(row["difference"] is None for row in alone["rows"])
    ious = [row["iou"] for row in alone["rows"]]
    assert ious == sorted(ious)


def test_a_record_is_printed_again(run, scored, tmp_path):
    _, quantized = scored
    out = run("results", quantized[:8]).out
    for words in (f"evaluate {quantized}", "calibration: scenes-1-seed1", "data: scenes-4-seed0, prompts box", "miou"):
        assert words in out
    assert run("results", quantized, "--json").json["id"] == quantized
    run("results", quantized, "--export", tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open() as file:
        assert "miou" in {row["figure"] for row in csv.DictReader(file)}


def test_what_makes_no_sense_about_objects_is_refused(run, three):
    run("results", "--objects").complains(2, "are of one result: give its ID")
    run("results", "1", "--compare", "1", "2").complains(2, "--compare has both ids itself")
    run("results", "1", "--objects", "--by", "size").complains(2, "exclude each other")
    run("results", "1", "--model", "nano").complains(2, "--model chooses among all results")
    run("results", "1", "--by", "category").complains(2, "categories of these objects are not known")
    run("results", "--best").complains(2, "--best is of --objects, --images or --by category")
    three.append(record(8, prompt="click"))
    assert "(they differ in more: prompts box and click)" in run("results", "--compare", "2", "8").out
    three.append(record(5, kind="latency", scores=()))
    run("results", "5", "--objects").complains(2, "must be an evaluation", "got latency")
    run("results", "--compare", "5", "1").complains(2, "record 50000000 must be an evaluation", "got latency")
    three.append(record(6, scores=(ObjectScore(1, 1, 900.0, 0.5, None),)))
    run("results", "--compare", "1", "6").complains(2, "same objects, got 1 in one only, the first is annotation 2")


def test_columns_that_tell_rows_apart_are_shown(run, three):
    assert "calibration" not in run("results").out
    three.append(record(4, calibration="scenes-1-seed1", settings={"threads": 2}))
    out = run("results", "--scheme", "int8").out
    assert "calibration" in out
    assert "threads" not in out  # they can be told apart already
    three.append(record(5, calibration="scenes-1-seed1", settings={"threads": 4}))
    assert "threads" in run("results", "--scheme", "int8").out


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
