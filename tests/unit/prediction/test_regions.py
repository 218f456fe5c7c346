"""Boxes, holes and islands of masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantsam.prediction.regions import remove_small_regions, tight_box

masks = hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8)))


def drawn(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def sizes(mask):
    """Sizes of 8-connected regions by flood fill."""
    left, found = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        todo, size = [left.pop()], 0
        while todo:
            y, x = todo.pop()
            size += 1
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(size)
    return found


def test_holes_are_filled_and_islands_removed():
    before = drawn(
        "#####...",
        "#.###..#",
        "#####..#",
        "#..##...",
        "#..##...",
    )
    assert (
        remove_small_regions(before, 2) == drawn(*["#####...", "#####..#", "#####..#", "#..##...", "#..##..."])
    ).all()
    assert (
        remove_small_regions(before, 3) == drawn(*["#####...", "#####...", "#####...", "#..##...", "#..##..."])
    ).all()
    assert (remove_small_regions(before, 5) == drawn(*["#####..."] * 5)).all()
    assert (remove_small_regions(before, 1) == before).all()


def test_corners_connect():
    diagonal = np.eye(5, dtype=bool)
    assert (remove_small_regions(diagonal, 5) == diagonal).all()
    assert (remove_small_regions(~diagonal, 5) == ~diagonal).all()


def test_the_largest_island_stays_when_all_are_small():
    before = drawn("#..##..#", "........", "........")
    assert (remove_small_regions(before, 10) == drawn("...##...", "........", "........")).all()


def test_nothing_to_remove():
    for value in (True, False):
        mask = np.full((4, 4), value)
        assert (remove_small_regions(mask, 10) == mask).all()


@given(masks, st.integers(1, 12))
def test_no_small_region_is_left(before, min_area):
    untouched = before.copy()
    after = remove_small_regions(before, min_area)
    assert (before == untouched).all()
    assert after.any() or not before.any() or (~before).sum() == 0
    assert len(sizes(after)) <= 1 or min(sizes(after)) >= min_area
    if min_area == 1:
        assert (after == before).all()


@pytest.mark.parametrize(("x0", "y0", "x1", "y1"), [(0, 0, 1, 1), (2, 1, 5, 3), (0, 0, 6, 4), (5, 3, 6, 4)])
def test_box_of_a_rectangle(x0, y0, x1, y1):
    mask = np.zeros((4, 6), bool)
    mask[y0:y1, x0:x1] = True
    assert tight_box(mask) == (x0, y0, x1, y1)


@given(masks.filter(lambda mask: mask.any()))
def test_a_box_is_tight(mask):
    x0, y0, x1, y1 = tight_box(mask)
    inside = mask[y0:y1, x0:x1]
    assert inside.sum() == mask.sum()
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()
