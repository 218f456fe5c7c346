"""Points, crops and settings of "segment everything"."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsam.errors import InputError
from quantsam.prediction.grid import GridSettings, crop_boxes, point_grid


def test_points_are_the_centres_of_cells_row_by_row():
    points = point_grid(4).reshape(4, 4, 2)
    np.testing.assert_allclose(points[0, :, 0], [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(points[:, :, 0], np.tile(points[0, :, 0], (4, 1)))
    np.testing.assert_allclose(points[:, :, 1], points[:, :, 0].T)
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def test_crops_of_a_known_picture():
    # SAM's numbers: overlap int(512 / 1500 * 480) = 163, then half of it
    crops = crop_boxes((480, 640), 2, 512 / 1500)
    assert [layer for _, layer in crops] == [0] + [1] * 4 + [2] * 16
    assert [box for box, _ in crops[:5]] == [
        (0, 0, 640, 480),
        (0, 0, 402, 322),
        (0, 159, 402, 480),
        (239, 0, 640, 322),
        (239, 159, 640, 480),
    ]
    assert crops[5][0] == (0, 0, 221, 181)  # ceil((640 + 3 * 81) / 4), ceil((480 + 3 * 81) / 4)
    assert crops[-1][0] == (420, 300, 640, 480)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 3), st.floats(0, 0.9))
def test_crops_of_each_layer_cover_the_picture(height, width, layers, ratio):
    crops = crop_boxes((height, width), layers, ratio)
    assert crops[0] == ((0, 0, width, height), 0)
    boxes = [box for box, _ in crops]
    assert len(set(boxes)) == len(boxes) <= sum(4**layer for layer in range(layers + 1))
    assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in boxes)
    for layer in {layer for _, layer in crops}:
        covered = np.zeros((height, width), bool)
        for (x0, y0, x1, y1), of_layer in crops:
            if of_layer == layer:
                covered[y0:y1, x0:x1] = True
        # crops equal to one of a layer before are left out: with little room or nearly whole overlap
        assert covered.all() or min(height, width) < 16 or ratio > 0.5


def test_crops_overlap_by_the_fraction_asked_for():
    for ratio, overlap in ((0.0, 0), (0.25, 50), (0.5, 100)):
        left, right = crop_boxes((200, 400), 1, ratio)[1::2][:2]
        assert left[0][2] - right[0][0] == overlap


def test_points_of_a_layer():
    settings = GridSettings(points_per_side=32, crop_points_downscale=3)
    assert [settings.points_in_layer(layer) for layer in range(5)] == [32, 10, 3, 1, 1]
    assert [GridSettings().points_in_layer(layer) for layer in range(3)] == [32, 32, 32]


def test_the_defaults_are_those_of_sam():
    assert dataclasses.astuple(GridSettings()) == (32, 64, 0.88, 0.95, 1.0, 0.7, 0, 0.7, 512 / 1500, 1, 0)


WHOLE = ("points_per_side", "points_per_batch", "crop_layers", "crop_points_downscale", "min_region_area")
FRACTIONS = ("iou_threshold", "stability_threshold", "box_nms_threshold", "crop_nms_threshold", "crop_overlap_ratio")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GridSettings)])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 10**12, "1", None, True, [1] * 1000])
def test_settings_that_cannot_be_right(name, value):
    with pytest.raises(
        InputError, match=rf"^{name} must be a (whole )?number from [0-9.]+ to [0-9.,e+]+, got .*: \w"
    ) as e:
        GridSettings(**{name: value})
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 200


@pytest.mark.parametrize("name", WHOLE)
def test_a_fraction_is_no_whole_number(name):
    with pytest.raises(InputError, match=f"{name} must be a whole number from .* got 1.0: "):
        GridSettings(**{name: 1.0})
    assert getattr(GridSettings(**{name: np.int64(1)}), name) == 1


@pytest.mark.parametrize("name", ["points_per_side", "points_per_batch", "crop_points_downscale"])
def test_a_grid_needs_a_point(name):
    with pytest.raises(InputError, match=f"{name} must be a whole number from 1 to .* got 0: "):
        GridSettings(**{name: 0})


@pytest.mark.parametrize("name", FRACTIONS)
def test_a_threshold_is_a_fraction(name):
    with pytest.raises(InputError, match=f"{name} must be a number from 0 to .* got 1.01: "):
        GridSettings(**{name: 1.01})
    assert getattr(GridSettings(**{name: np.float32(0.5)}), name) == 0.5
