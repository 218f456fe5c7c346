import base64
import dataclasses
import json

import pytest

from quantsam.metrics.summary import ObjectScore
from quantsam.report import comparison as comparisons
from quantsam.report.comparison import make_comparison
from quantsam.report.comparison_view import comparison_view
from quantsam.report.content import read_content
from quantsam.results.compare import compare
from quantsam.results.object_names import ObjectNames
from quantsam.results.objects import group_rows, object_rows, whole, worst_first

from .conftest import make_record, make_scores

AREAS = (100.0, 900.0, 5000.0, 20000.0)
FP32, INT8, MIX = (0.8, 0.9, 0.7, 0.8), (0.1, 0.9, 0.9, 0.9), (0.8, 0.9, 0.7, 0.76)


def scores_of(ious):
    return [ObjectScore(7 + n // 2, 10 + n, AREAS[n], iou, None) for n, iou in enumerate(ious)]


def put(store, scheme, ious, **changes):
    record = make_record(scheme, 100 * sum(ious) / len(ious), **changes)
    store.append(record, scores_of(ious))
    return dataclasses.replace(record, scores=tuple(scores_of(ious)))


@pytest.fixture
def three(store):
    """FP32, int8 and a mixture, with names."""
    names = ObjectNames({1: "car", 2: "<b>"}, {10: 1, 11: 2, 12: 1, 13: 3}, {7: "a/seven.jpg"})
    store.keep_names("cd", names)
    return put(store, "fp32", FP32, size_mib=40.0), put(store, "int8", INT8), put(store, "mix", MIX, size_mib=20.0)


def task_of(store):
    return read_content(store).models[0].tasks[0]


def unpacked(text, width):
    raw = base64.b64decode(text)
    return [int.from_bytes(raw[at : at + width]) for at in range(0, len(raw), width)]


def test_fp32_and_what_changed_most_are_shown_first_with_the_figures_of_the_object_tables(store, three):
    fp32, _, _ = three
    put(store, "poor", (0.1, 0.1, 0.1, 0.1))
    found = make_comparison(store, task_of(store))
    first, second = found.results[found.first], found.results[found.second]
    assert (first.record.id, second.label) == (fp32.id, "poor")
    poor = dataclasses.replace(second.record, scores=tuple(store.scores(second.record.id)))
    assert list(found.rows) == object_rows(store, poor, fp32)


def test_the_tables_say_what_the_object_tables_say(store, three):
    fp32, int8, _ = three
    view = comparison_view("n", make_comparison(store, task_of(store)))
    rows = object_rows(store, int8, fp32)
    everything, difference = whole(rows), compare(fp32, int8)
    assert view.summary.startswith("int8, simulated less fp32, PyTorch: -10.00 ± 20.41 points of mIoU over 4 objects.")
    assert (f"{difference.mean_difference:.2f}", f"{difference.standard_error:.2f}") == ("-10.00", "20.41")
    assert view.summary.endswith("2 objects are better, 1 worse, 1 within 0.5 points.")
    assert (everything.wins, everything.losses, everything.ties) == (2, 1, 1)
    assert view.command == f"quantsam results --compare {fp32.id[:8]} {int8.id[:8]}"
    for by in ("size", "category"):
        expected = group_rows(rows, by)
        assert [row.cells[:2] for row in view.tables[by].rows] == [(g.group, str(g.objects)) for g in expected]
        assert [row.cells[3] for row in view.tables[by].rows] == [f"{g.miou:.2f}" for g in expected]
    assert view.tables["size"].rows[0].cells == ("small", "2", "85.00", "50.00", "-35.00 ± 35.00", "0", "1", "1")
    assert [row.cells[0] for row in view.tables["worst"].rows] == [str(r.annotation_id) for r in worst_first(rows)]
    assert view.tables["worst"].rows[0].cells == ("10", "car", "a/seven.jpg", "small", "80.00", "10.00", "-70.00")
    assert view.tables["worst"].rows[2].cells[1:3] == ("3", "image 8")  # no name: the category's number, the image's id
    assert "one standard error" in view.tables["size"].note


def test_the_page_holds_each_iou_once_and_to_more_digits_than_are_shown(store, three):
    data = make_comparison(store, task_of(store)).to_json()
    assert [result["name"] for result in data["results"]] == ["fp32, PyTorch", "int8, simulated", "mix, simulated"]
    for result, ious in zip(data["results"], (FP32, INT8, MIX), strict=True):
        found = [value / data["whole"] for value in unpacked(result["ious"], 3)]
        assert found == pytest.approx(ious, abs=1e-7)
    assert [data["sizes"][n] for n in unpacked(data["size"], 1)] == ["small", "small", "medium", "large"]
    categories = unpacked(data["category"], 2)
    assert [data["categories"][n] for n in categories] == ["car", "<b>", "car", "3"]
    assert [data["images"][n] for n in unpacked(data["image"], 3)] == ["a/seven.jpg"] * 2 + ["image 8"] * 2
    assert data["annotation"] == "10 11 12 13"
    assert json.loads(json.dumps(data))["tie"] == pytest.approx(0.5, abs=1e-4)


def test_without_names_there_is_no_table_by_category(store):
    put(store, "fp32", FP32)
    put(store, "int8", INT8)
    found = make_comparison(store, task_of(store))
    assert unpacked(found.to_json()["category"], 2) == [2**16 - 1] * 4
    view = comparison_view("n", found)
    assert [*view.tables] == ["size", "worst"]
    assert any("evaluate --again" in note for note in view.notes)


def test_without_fp32_the_best_is_shown_first(store):
    put(store, "mix", MIX)
    put(store, "int8", INT8)
    found = make_comparison(store, task_of(store))
    assert (found.results[found.first].label, found.results[found.second].label) == ("mix", "int8")


def test_one_result_with_scores_cannot_be_compared(store):
    put(store, "fp32", FP32)
    store.append(make_record("int8", 70.0))
    assert make_comparison(store, task_of(store)) is None


def test_what_would_make_the_page_too_large_is_left_out_and_said(store, three, monkeypatch):
    monkeypatch.setattr(comparisons, "MOST_RESULTS", 2)
    monkeypatch.setattr(comparisons, "MOST_OBJECTS", 3)
    found = make_comparison(store, task_of(store))
    assert [result.label for result in found.results] == ["fp32", "int8"]  # int8 changed most
    assert [row.annotation_id for row in found.rows] == [10, 12]
    assert (found.objects, found.left_out, found.size) == (4, 1, 4)
    notes = " ".join(comparison_view("n", found).notes)
    assert "2 of 4 objects" in notes
    assert "1 older results cannot be chosen" in notes


def test_a_result_of_other_objects_is_no_choice(store):
    store.append(make_record("a"), make_scores([0.5, 0.5]))
    store.append(make_record("b"), make_scores([0.5, 0.25]))
    store.append(make_record("c"), make_scores([0.5]))
    assert {r.label for r in make_comparison(store, task_of(store)).results} <= {"a", "b"}
