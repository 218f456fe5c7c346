import numpy as np
import pytest

from quantsam.errors import InputError
from quantsam.report.contact_sheet import _CELL, _GAP, _HEADER, _PROMPT, Row, contact_sheet


def make_row(height=60, width=90, columns=2, **changes):
    truth = np.zeros((height, width), bool)
    truth[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    image = np.full((height, width, 3), 128, np.uint8)
    fields = {"image": image, "truth": truth, "masks": [truth] * columns, "ious": [1.0] * columns}
    return Row(**(fields | changes))


def cell(sheet, row, column):
    left, top = _GAP + column * (_CELL + _GAP), _HEADER + row * (_CELL + _GAP)
    return np.asarray(sheet)[top : top + _CELL, left : left + _CELL].astype(int)


def count_near(pixels, colour, within=60):
    return int((np.abs(pixels - np.array(colour)).max(axis=-1) <= within).sum())


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("columns", [0, 1, 4])
def test_size_follows_rows_and_columns(rows, columns):
    sheet = contact_sheet([make_row(columns=columns)] * rows, [f"c{i}" for i in range(columns)])
    assert sheet.mode == "RGB"
    assert sheet.size == ((2 + columns) * (_CELL + _GAP) + _GAP, _HEADER + rows * (_CELL + _GAP) + _GAP)


def test_the_box_is_drawn_in_the_first_cell_only():
    plain = contact_sheet([make_row()], ["a", "b"])
    boxed = contact_sheet([make_row(box_xyxy=(10.0, 10.0, 60.0, 40.0))], ["a", "b"])
    assert count_near(cell(plain, 0, 0), _PROMPT) == 0
    assert count_near(cell(boxed, 0, 0), _PROMPT) > 200
    for column in (1, 2, 3):
        assert (cell(plain, 0, column) == cell(boxed, 0, column)).all()


def test_clicks_are_drawn_where_they_are():
    pixels = cell(contact_sheet([make_row(80, 80, points_xy=[(20.0, 60.0)])], ["a", "b"]), 0, 0)
    near = np.abs(pixels - np.array(_PROMPT)).max(axis=-1) <= 60
    y, x = np.argwhere(near).mean(axis=0) / _CELL * 80
    assert (x, y) == (pytest.approx(20, abs=1), pytest.approx(60, abs=1))


def test_a_mask_is_tinted_and_what_is_outside_is_dimmed():
    row = make_row(80, 80, columns=1, ious=[0.5])
    pixels = cell(contact_sheet([row], ["a"]), 0, 1)
    inside, outside = pixels[_CELL * 3 // 8, _CELL * 3 // 8], pixels[_CELL * 7 // 8, _CELL * 7 // 8]
    assert inside[1] > inside[0] + 20  # green: the truth
    assert outside.tolist() == [117, 117, 117]
    model = cell(contact_sheet([row], ["a"]), 0, 2)
    assert model[_CELL * 3 // 8, _CELL * 3 // 8][2] > model[_CELL * 3 // 8, _CELL * 3 // 8][0] + 20  # blue


def test_every_answer_has_its_own_iou():
    one, other = (contact_sheet([make_row(ious=ious)], ["a", "b"]) for ious in ([1.0, 0.5], [1.0, 0.25]))
    assert (cell(one, 0, 2) == cell(other, 0, 2)).all()
    assert (cell(one, 0, 3) != cell(other, 0, 3)).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (700, 3), (333, 1000)])
def test_pictures_of_any_shape_fit(height, width):
    row = make_row(height, width, box_xyxy=(0.0, 0.0, float(width), float(height)), points_xy=[(0.0, 0.0)])
    assert contact_sheet([row], ["a", "b"]).size[0] == 4 * (_CELL + _GAP) + _GAP


@pytest.mark.parametrize("box", [(5.0, 5.0, 5.0, 5.0), (5.0, 5.0, 5.5, 5.5), (-9.0, -9.0, 900.0, 900.0)])
def test_degenerate_boxes_are_drawn(box):
    contact_sheet([make_row(box_xyxy=box)], ["a", "b"])


@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_masks_are_drawn_and_nothing_is_changed(fill):
    mask = np.full((60, 90), fill)
    row = make_row(truth=mask, masks=[mask, mask])
    contact_sheet([row], ["a", "b"])
    assert (mask == fill).all()
    assert (row.image == 128).all()


def test_a_long_title_stays_in_its_column():
    short, long = (contact_sheet([make_row()], [title, "b"]) for title in ("", "int8@stage3:4:2," * 9))
    changed = np.argwhere((np.asarray(short) != np.asarray(long)).any(axis=(0, 2)))
    left = _GAP + 2 * (_CELL + _GAP)
    assert left <= changed.min()
    assert changed.max() < left + _CELL


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="at least one object, got none"):
        contact_sheet([], ["a"])


@pytest.mark.parametrize("changes", [{"masks": []}, {"ious": [1.0]}, {"ious": [1.0] * 3}])
def test_a_row_that_does_not_fit_the_columns_is_refused(changes):
    with pytest.raises(InputError, match=r"row 2 .* each of the 2 columns"):
        contact_sheet([make_row(), make_row(**changes)], ["a", "b"])
