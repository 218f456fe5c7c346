import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantsam.errors import InputError
from quantsam.metrics.iou import box_mask, mask_iou

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
MASK = hnp.arrays(np.bool_, SHAPES)
PAIR = SHAPES.flatmap(lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape)))
EDGE = st.floats(-3, 12, allow_nan=False)


@given(PAIR)
def test_iou_is_symmetric_and_within_0_and_1(pair):
    a, b = pair
    assert mask_iou(a, b) == mask_iou(b, a)
    assert 0.0 <= mask_iou(a, b) <= 1.0


@given(PAIR)
def test_iou_equals_its_definition_pixel_by_pixel(pair):
    a, b = (set(map(tuple, np.argwhere(mask))) for mask in pair)
    assert mask_iou(*pair) == (len(a & b) / len(a | b) if a | b else 0.0)


@given(MASK)
def test_a_mask_is_1_with_itself_and_0_with_its_complement(mask):
    assert mask_iou(mask, mask) == (1.0 if mask.any() else 0.0)
    assert mask_iou(mask, ~mask) == 0.0


@given(PAIR)
def test_iou_agrees_with_the_official_evaluator(pair):
    a, b = pair  # efficientvit's sam_eval_utils.iou, on 0..100
    official = float(np.count_nonzero(a & b) / (np.count_nonzero(a | b) + 1e-7)) * 100
    assert 100 * mask_iou(a, b) == pytest.approx(official, abs=2e-5)


def test_two_empty_masks_score_0():
    empty = np.zeros((3, 4), dtype=bool)
    assert mask_iou(empty, empty) == 0.0


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.zeros((3, 5), dtype=bool), r"one shape, got \(3, 5\) and \(3, 4\)"),
        (np.zeros((3, 4), dtype=np.uint8), r"prediction must be a bool mask .* got uint8 \(3, 4\)"),
        (np.zeros((1, 3, 4), dtype=bool), r"prediction must be a bool mask .* got bool \(1, 3, 4\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(prediction, message):
    with pytest.raises(InputError, match=message):
        mask_iou(prediction, np.zeros((3, 4), dtype=bool))


@given(st.tuples(EDGE, EDGE, EDGE, EDGE), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_box_holds_the_pixels_whose_centres_lie_inside(box, image_hw):
    left, top, right, bottom = box
    mask = box_mask(box, image_hw)
    expected = [
        [left <= x + 0.5 < right and top <= y + 0.5 < bottom for x in range(image_hw[1])] for y in range(image_hw[0])
    ]
    assert mask.shape == image_hw
    assert mask.tolist() == expected


def test_boxes_that_share_an_edge_share_no_pixel_and_leave_no_gap():
    left, right = box_mask((0, 0, 2.5, 2), (2, 6)), box_mask((2.5, 0, 6, 2), (2, 6))
    assert not (left & right).any()
    assert (left | right).all()


@pytest.mark.parametrize("edge", [float("nan"), float("inf")])
def test_a_box_without_numbers_is_refused(edge):
    with pytest.raises(InputError, match="four finite numbers"):
        box_mask((0.0, 0.0, edge, 1.0), (2, 2))
