import contextlib

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_api
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from quantsam.errors import DatasetError
from quantsam.metrics.segmentations import check_polygons, check_rle

MASKS = st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(MASKS)
def test_a_mask_passes_in_every_form(mask):
    rle = coco_api.encode(np.asfortranarray(mask, np.uint8))
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=~mask[0, 0], append=~mask[-1, -1]))).tolist()
    runs = [0, *runs] if mask[0, 0] else runs
    for counts in (rle["counts"], rle["counts"].decode(), runs):
        checked = check_rle({"size": list(mask.shape), "counts": counts}, mask.shape, "results[0]")
        assert np.array_equal(coco_api.decode(checked), mask)


@given(st.binary(max_size=30) | st.text("0123456789:;<=>?@ABCabcnopPQRST", max_size=30))
def test_a_random_string_is_refused_or_fills_the_image(counts):
    checked = None
    with contextlib.suppress(DatasetError):  # the evaluator may run for ever on what is refused: it is not asked
        checked = check_rle({"size": [20, 30], "counts": counts}, (20, 30), "results[0]")
    if checked is not None:
        assert coco_api.decode(checked).shape == (20, 30)


@pytest.mark.parametrize("counts", [b"", "1", "Z", "é", [600, 1], [-1, 601], [], [1.0, 600], [10**30], "o" * 9])
def test_damage_is_refused(counts):
    with pytest.raises(DatasetError, match=r"results\[4\]: the RLE's runs do not fill its 20 x 30 pixels"):
        check_rle({"size": [20, 30], "counts": counts}, (20, 30), "results[4]")


@pytest.mark.parametrize("wrong", [True, 1.5, "1", None, float("inf")])
def test_counts_that_are_no_whole_numbers_are_named(wrong):
    with pytest.raises(DatasetError, match=rf"results\[4\]: the RLE's `counts` must be whole numbers, got '?{wrong}"):
        check_rle({"size": [20, 30], "counts": [wrong, 599]}, (20, 30), "results[4]")


def test_whole_numbers_may_be_written_as_floats():
    assert check_rle({"size": [2, 3], "counts": [1.0, 2.0, 3]}, (2, 3), "results[0]")["counts"] == b"123"


@pytest.mark.parametrize("rle", [None, "ab", {"size": [2, 2]}, {"size": [2, 2], "counts": 4}, [[0, 0, 1, 0, 1, 1]]])
def test_no_rle_is_refused(rle):
    with pytest.raises(DatasetError, match=r"results\[4\]: `segmentation` must be an RLE with `size` and `counts`"):
        check_rle(rle, (2, 2), "results[4]")


@pytest.mark.parametrize("size", [None, [2, 3], 4, [2, 2, 1]])
def test_an_rle_of_another_size_is_refused(size):
    with pytest.raises(DatasetError, match=r"`size` must be its image's \[height, width\] = \[2, 2\], got"):
        check_rle({"size": size, "counts": [4]}, (2, 2), "results[4]")


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([], "must be an RLE or polygons"),
        ("abcdef", "must be an RLE or polygons"),
        ([[0, 0, 1, 1]], "at least 3 points"),
        ([[0, 0, 1, 1, 2, 2, 3]], "at least 3 points"),
        ([7], "at least 3 points"),
        ([[0, 0, 1, 1, 2, float("nan")]], "finite numbers"),
        ([[0, 0, 1, 1, 2, "3"]], "finite numbers"),
        ([[0, 0, 1, 1, 2, 10**400]], "finite numbers"),
        ([[0, 0, 1, 1, 9e6, 9e6]], "an outline of 18,000,000 pixels"),
    ],
)
def test_polygons_that_cannot_be_drawn_are_refused(polygons, message):
    with pytest.raises(DatasetError, match=rf"annotations\[2\].*: .*{message}"):
        check_polygons(polygons, "annotations[2] of the ground truth")


def test_polygons_may_reach_outside():
    polygons = [[-5, -5, 30.5, 0, 9, 9]]
    assert check_polygons(polygons, "annotations[0]") is polygons
