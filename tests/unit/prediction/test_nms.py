"""Non-maximum suppression against a loop that cannot be wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsam.errors import InputError
from quantsam.prediction.nms import nms


def naive_iou(a, b):
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union else 0.0


def naive_nms(boxes, scores, threshold):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(naive_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def _box(corner_and_size):
    x, y, width, height = corner_and_size
    return [x, y, x + width, y + height]


few = st.integers(0, 6)  # few values: many ties, equal boxes and boxes without area
boxes_and_scores = st.lists(st.tuples(st.tuples(few, few, few, few).map(_box), st.integers(-2, 2)), max_size=12)


@given(boxes_and_scores, st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]))
def test_it_is_the_naive_loop(items, threshold):
    boxes, scores = [box for box, _ in items], [score for _, score in items]
    assert nms(boxes, scores, threshold).tolist() == naive_nms(boxes, scores, threshold)


def test_many_boxes_as_the_naive_loop():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 100, (300, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 60, (300, 2))], axis=1)
    scores = rng.random(300).round(1)
    kept = nms(boxes, scores, 0.4)
    assert kept.tolist() == naive_nms(boxes.tolist(), scores.tolist(), 0.4)
    assert 10 < len(kept) < 250


def test_an_iou_of_just_the_threshold_is_kept():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 7]]
    assert nms(boxes, [2, 1], 0.7).tolist() == [0, 1]
    assert nms(boxes, [2, 1], 0.699).tolist() == [0]


def test_right_and_bottom_are_exclusive():
    assert nms([[0, 0, 1, 1], [0, 0, 1, 1]], [1, 2], 0.5).tolist() == [1]  # one pixel each, the same one
    assert nms([[0, 0, 1, 1], [1, 0, 2, 1]], [1, 2], 0.0).tolist() == [1, 0]  # neighbours share nothing


def test_ties_go_to_the_first():
    assert nms([[0, 0, 9, 9]] * 40, [1.0] * 40, 0.5).tolist() == [0]


def test_a_box_dropped_drops_none():
    chain = [[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]]  # the second overlaps both others, they hardly each other
    assert nms(chain, [3, 2, 1], 0.4).tolist() == [0, 2]


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4))])
def test_no_boxes(boxes):
    assert nms(boxes, [], 0.5).tolist() == []


@pytest.mark.parametrize(
    ("boxes", "scores", "words"),
    [
        ([[0, 0, 1, 1]], [1, 2], r"boxes \(N, 4\) with scores \(N,\), got \(1, 4\) and \(2,\): "),
        ([0, 0, 1, 1], [1], r"got \(4,\) and \(1,\): "),
        ([[0, 0, 1]], [1], r"got \(1, 3\) and \(1,\): "),
        ([], [1], r"got \(0, 4\) and \(1,\): "),
        ([[0, 0, 1, 1]], [float("nan")], "must be finite, got NaN or infinity: "),
        ([[0, 0, 1, float("inf")]], [1], "must be finite, got NaN or infinity: "),
    ],
)
def test_what_cannot_be_right(boxes, scores, words):
    with pytest.raises(InputError, match=words):
        nms(boxes, scores, 0.5)
