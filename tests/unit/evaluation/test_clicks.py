import numpy as np
import pytest
from scipy import ndimage

from quantsam.evaluation.clicks import Click, next_click


def central_pixel(mask):
    """Where the first click goes."""
    click = next_click(np.zeros_like(mask), mask, [])
    assert click is not None
    assert click.positive
    return click.x, click.y


def mask_of(*lines):
    return np.array([[character == "#" for character in line] for line in lines])


@pytest.mark.parametrize(
    ("mask", "xy"),
    [
        (mask_of(".....", ".###.", ".###.", ".###.", "....."), (2, 2)),
        (mask_of("###", "###", "###"), (1, 1)),  # beyond the image is outside
        (mask_of("##...", "##...", "....."), (0, 0)),  # all equally deep: the first in reading order
        (mask_of(".....", "...#.", "....."), (3, 1)),  # a single pixel
        (mask_of("#"), (0, 0)),
        (mask_of("#......", ".......", "...####", "...####", "...####"), (4, 3)),  # the deeper of two parts
    ],
)
def test_the_deepest_pixel(mask, xy):
    assert central_pixel(mask) == xy


def test_a_ring_is_clicked_on_the_ring_and_not_in_its_hole():
    y, x = np.mgrid[:41, :61]
    radius = np.hypot(x - 30, y - 20)
    ring = (radius < 19) & (radius > 9)
    x0, y0 = central_pixel(ring)
    assert ring[y0, x0]
    assert 12 <= np.hypot(x0 - 30, y0 - 20) <= 16


def test_depth_is_euclidean_and_not_counted_in_steps():
    mask = np.zeros((40, 80), bool)
    mask[5:20, 5:20] = True  # a square, 8 deep in the middle
    for step in range(19):  # a diamond, 10 steps deep, but only 7 as the crow flies
        half = 9 - abs(9 - step)
        mask[15 + step, 60 - half : 61 + half] = True
    x, y = central_pixel(mask)
    assert (x, y) == (12, 12)


def test_no_other_pixel_is_deeper():
    mask = np.random.default_rng(3).random((12, 14)) < 0.8
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    depth = {(x, y): np.hypot(*(outside - (y, x)).T).min() for y, x in np.argwhere(mask)}
    assert depth[central_pixel(mask)] == max(depth.values())


def test_the_deeper_error_is_clicked_and_its_sign_says_what_it_is():
    truth = mask_of("#######..", "#######..", "#######..", ".........", ".........")
    answer = mask_of("######...", "######...", "######...", "...######", "...######")
    assert next_click(answer, truth, []) == Click(3, 3, positive=False)  # two deep, what is missed is one deep
    assert next_click(answer, truth | answer, []) == Click(6, 0, positive=True)


def test_of_equally_deep_errors_the_excess_is_clicked():
    truth, answer = mask_of("#...."), mask_of("....#")
    assert next_click(answer, truth, []) == Click(4, 0, positive=False)


def test_no_pixel_is_clicked_twice_and_no_error_needs_no_click():
    truth = mask_of("##.", "...")
    nothing = np.zeros_like(truth)
    first = next_click(nothing, truth, [])
    second = next_click(nothing, truth, [first])
    assert {(first.x, first.y), (second.x, second.y)} == {(0, 0), (1, 0)}
    assert next_click(nothing, truth, [first, second]) is None
    assert next_click(truth, truth, []) is None
    assert next_click(nothing, nothing, []) is None


def test_clicks_are_those_of_the_whole_picture_s_distance_transform():
    """Only the error's surroundings are looked at; that must change nothing."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        truth, answer = (ndimage.gaussian_filter(rng.random((30, 40)), 3) > 0.5 for _ in range(2))
        missed, excess = (
            ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
            for region in (truth & ~answer, answer & ~truth)
        )
        earlier = []
        for _ in range(4):
            positive = bool(missed.max() > excess.max())
            depth = missed if positive else excess
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            click = next_click(answer, truth, earlier)
            assert click == Click(int(x), int(y), positive)
            earlier.append(click)
            missed[y, x] = excess[y, x] = 0
