import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsam.errors import InputError
from quantsam.metrics.summary import AREA_RANGES, AreaSummary, ObjectScore, compare_paired, summarize

IOU = st.floats(0, 1)
AREA = st.floats(0, 20_000)
PAIRED = st.lists(st.tuples(IOU, IOU), min_size=1, max_size=30)


def score(annotation_id, iou, area=500.0):
    return ObjectScore(image_id=1, annotation_id=annotation_id, area=area, iou=iou, predicted_iou=None)


@pytest.mark.parametrize(
    ("area", "size"),
    [
        (0.0, "small"),
        (1023.99, "small"),
        (1024.0, "medium"),
        (9216.0, "medium"),
        (9216.01, "large"),
    ],
)
def test_each_area_belongs_to_all_and_to_one_size(area, size):
    assert [name for name, belongs in AREA_RANGES.items() if belongs(area)] == ["all", size]


@given(st.lists(st.tuples(IOU, AREA), max_size=30))
def test_sizes_add_up_to_all(objects):
    summary = summarize([score(i, iou, area) for i, (iou, area) in enumerate(objects)])
    sizes = [summary[name] for name in ("small", "medium", "large")]
    assert summary["all"].count == len(objects) == sum(size.count for size in sizes)
    total = sum(size.mean_iou_percent * size.count for size in sizes if size.count)
    if objects:
        assert summary["all"].mean_iou_percent * len(objects) == pytest.approx(total, abs=1e-9)


@given(st.lists(IOU, min_size=2, max_size=30))
def test_mean_and_standard_error_are_the_textbook_ones(ious):
    summary = summarize([score(i, iou) for i, iou in enumerate(ious)])["all"]
    percents = [100 * iou for iou in ious]
    assert summary.mean_iou_percent == pytest.approx(statistics.fmean(percents), abs=1e-9)
    assert summary.standard_error == pytest.approx(statistics.stdev(percents) / len(ious) ** 0.5, abs=1e-9)


def test_no_object_has_no_mean_and_one_object_no_standard_error():
    summary = summarize([score(1, 0.5)])
    assert summary["large"] == AreaSummary(mean_iou_percent=None, count=0, standard_error=None)
    assert summary["small"] == AreaSummary(mean_iou_percent=50.0, count=1, standard_error=None)


@given(st.lists(IOU, max_size=30), st.randoms())
def test_the_order_of_objects_changes_no_digit(ious, random):
    scores = [score(i, iou) for i, iou in enumerate(ious)]
    before = summarize(scores)
    random.shuffle(scores)
    assert summarize(scores) == before


def test_scores_may_come_from_a_generator():
    assert summarize(score(i, 1.0) for i in range(3))["small"].count == 3


@given(PAIRED)
def test_mean_difference_is_the_difference_of_the_means(pairs):
    a = [score(i, first) for i, (first, _) in enumerate(pairs)]
    b = [score(i, second) for i, (_, second) in reversed(list(enumerate(pairs)))]
    difference = compare_paired(a, b)
    means = [summarize(scores)["all"].mean_iou_percent for scores in (a, b)]
    assert difference.mean_difference == pytest.approx(means[1] - means[0], abs=1e-9)
    assert difference.count == len(pairs)
    back = compare_paired(b, a)
    assert back.mean_difference == -difference.mean_difference
    assert back.standard_error == pytest.approx(difference.standard_error, abs=1e-9)


def test_objects_are_matched_by_annotation_and_not_by_position():
    difference = compare_paired([score(1, 0.1), score(2, 0.9)], [score(2, 0.8), score(1, 0.2)])
    assert difference.mean_difference == pytest.approx(0.0, abs=1e-9)
    assert difference.standard_error == pytest.approx(10.0)  # +10 and -10: std 14.14 / sqrt(2)


def test_different_objects_cannot_be_compared():
    a, b = [score(i, 0.5) for i in (1, 2, 3)], [score(i, 0.5) for i in (3, 4)]
    with pytest.raises(InputError, match=r"got 3 scored by only one: the first is annotation 1, only in the first"):
        compare_paired(a, b)
    with pytest.raises(InputError, match=r"annotation 1, only in the second"):
        compare_paired(b, a)


def test_an_object_scored_twice_is_refused():
    with pytest.raises(InputError, match="second evaluation must score annotation 5 once"):
        compare_paired([score(5, 0.5)], [score(5, 0.5), score(5, 0.6)])


def test_nothing_cannot_be_compared_with_nothing():
    with pytest.raises(InputError, match="at least one object"):
        compare_paired([], [])


@pytest.mark.parametrize("iou", [-0.1, 1.1, 78.4, float("nan")])
def test_an_iou_outside_0_to_1_is_refused(iou):
    with pytest.raises(InputError, match=r"iou of annotation 9 must be in 0\.\.1"):
        score(9, iou)


@pytest.mark.parametrize("area", [-1.0, float("nan")])
def test_an_impossible_area_is_refused(area):
    with pytest.raises(InputError, match="area of annotation 9 must be >= 0"):
        score(9, 0.5, area)


def test_metrics_and_results_import_no_torch_and_no_pyarrow():
    code = (
        "import quantsam.metrics.iou, quantsam.metrics.summary, sys\n"
        "import quantsam.results.export, quantsam.results.store\n"
        "print({'torch', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
