import pytest

from quantsam.errors import InputError
from quantsam.metrics.summary import ObjectScore
from quantsam.results.compare import compare
from quantsam.results.record import Record


def record(ious, digest="aa", name="toy"):
    scores = tuple(ObjectScore(1, number, 900.0, iou, None) for number, iou in ious.items())
    return Record(
        model="nano",
        weights_digest="bb",
        scheme="int8",
        dataset=name,
        dataset_digest=digest,
        figures={"miou": 1.0},
        scores=scores,
    )


def test_the_difference_is_the_second_minus_the_first():
    difference = compare(record({1: 0.5, 2: 0.25}), record({2: 0.75, 1: 0.5}))
    assert (difference.mean_difference, difference.standard_error, difference.count) == (25.0, 25.0, 2)


def test_a_record_compared_with_itself():
    same = record({1: 0.3, 2: 0.7})
    assert compare(same, same).mean_difference == compare(same, same).standard_error == 0.0


def test_other_data_is_refused_even_under_the_same_name():
    with pytest.raises(InputError, match=r"same data, got toy \(aa\) and toy \(cc\): evaluate both on one dataset"):
        compare(record({1: 0.5}), record({1: 0.5}, digest="cc"))


@pytest.mark.parametrize("other", [{1: 0.5}, {1: 0.5, 3: 0.5}, {}])
def test_other_objects_are_refused(other):
    with pytest.raises(InputError, match="must score the same objects"):
        compare(record({1: 0.5, 2: 0.5}), record(other))


def test_records_without_scores_are_refused():
    with pytest.raises(InputError, match="at least one object"):
        compare(record({}), record({}))
