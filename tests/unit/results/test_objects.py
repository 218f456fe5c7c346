"""Objects beside those of another record."""

import pytest

from quantsam.metrics.summary import ObjectScore
from quantsam.results.objects import object_rows, whole
from quantsam.results.record import Record
from quantsam.results.store import ResultStore


def record(ious):
    scores = tuple(ObjectScore(1, number, 200.0, iou, None) for number, iou in enumerate(ious))
    common = {"model": "nano", "weights_digest": "ab", "scheme": "int8", "dataset": "d", "dataset_digest": "cd"}
    return Record(**common, figures={}, scores=scores)


@pytest.mark.parametrize("pixels", [100, 150, 151, 152, 159])
def test_half_a_point_is_a_tie_whatever_the_last_digit_of_the_difference(tmp_path, pixels):
    store = ResultStore(tmp_path / "r.sqlite")
    one, other = record([pixels / 200, 0.5, 0.5]), record([(pixels + 1) / 200, 0.506, 0.494])
    found = whole(object_rows(store, other, one))
    assert (found.wins, found.losses, found.ties) == (1, 1, 1)
