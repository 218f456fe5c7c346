import numpy as np
import pytest
import torch

from quantsam.data.dataset import Annotation
from quantsam.errors import InputError
from quantsam.evaluation.prompts import PROMPTS, central_pixel, check_prompt


def mask_of(*lines: str) -> np.ndarray:
    return np.array([[character == "#" for character in line] for line in lines])


@pytest.mark.parametrize(
    ("mask", "xy"),
    [
        (mask_of(".....", ".###.", ".###.", ".###.", "....."), (2, 2)),
        (mask_of("###", "###", "###"), (1, 1)),  # beyond the picture is outside
        (mask_of("##...", "##...", "....."), (0, 0)),  # all equally deep: the first in reading order
        (mask_of(".....", "...#.", "....."), (3, 1)),  # a single pixel
        (mask_of("#"), (0, 0)),
        (mask_of("...", "..."), (0, 0)),  # no pixel: scores 0 whatever is answered
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


def annotation(box):
    return Annotation(1, 1, 1, box, 9.0, False, None)


def test_batches_have_one_prompt_an_object():
    masks = [mask_of("#..", "..."), mask_of("...", "..#")]
    annotations = [annotation((0.0, 0.0, 1.0, 1.0)), annotation((2.25, 1.0, 3.0, 2.0))]
    boxes = PROMPTS["box"](annotations, masks)
    assert boxes.boxes.tolist() == [[0.0, 0.0, 1.0, 1.0], [2.25, 1.0, 3.0, 2.0]]
    assert boxes.points is boxes.labels is None
    clicks = PROMPTS["click"](annotations, masks)
    assert clicks.points.tolist() == [[[0.0, 0.0]], [[2.0, 1.0]]]
    assert clicks.labels.tolist() == [[1], [1]]
    assert (clicks.points.dtype, clicks.labels.dtype, clicks.boxes) == (torch.float32, torch.int64, None)


def test_an_unknown_kind_names_the_nearest():
    for name in PROMPTS:
        check_prompt(name)
    with pytest.raises(InputError, match=r"prompts must be one of box, click, got 'bx': did you mean 'box'\?"):
        check_prompt("bx")
