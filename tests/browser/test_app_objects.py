"""Objects and the three masks of each, on the local page in a real browser."""

import re

import pytest

from .app_page import (
    BUTTONS,
    SECOND,
    area,
    at,
    drag,
    in_order,
    iou,
    masks_of,
    open_first_example,
    painted,
    pressed,
    status,
    two_objects,
)


def test_each_panel_shows_the_mask_of_highest_predicted_iou_and_the_other_two_on_request(open_app):
    page = open_app()
    open_first_example(page)
    panels = masks_of(page, lambda: page.mouse.click(*at(page, 0.85, 0.15)))
    table = panels["int8"]["iou_tables"][0]
    best = {}
    for name in ("fp32", "int8"):
        candidates = in_order(panels[name]["masks"][0])
        texts = page.locator(BUTTONS.format(name)).all_inner_texts()
        assert texts == [f"{100 * one['predicted_iou']:.1f} %" for one in candidates]
        best[name] = pressed(page, name)
        assert best[name] == max(range(3), key=lambda i: candidates[i]["predicted_iou"])
        assert area(page, name) == candidates[best[name]]["area"]
    assert iou(page, "int8") == pytest.approx(100 * table[best["fp32"]][best["int8"]], abs=0.051)
    for number in range(3):
        one = page.locator(BUTTONS.format("int8")).nth(number)
        one.click()
        assert one.evaluate("b => b === document.activeElement")
        assert pressed(page, "int8") == number
        assert area(page, "int8") == in_order(panels["int8"]["masks"][0])[number]["area"]
        assert pressed(page, "fp32") == best["fp32"]
        assert iou(page, "int8") == pytest.approx(100 * table[best["fp32"]][number], abs=0.051)
        told = status(page, f"^mask {number + 1} of int8, predicted IoU ")
        assert told.endswith(f"int8: IoU with FP32 {100 * table[best['fp32']][number]:.1f} %")
    other = (best["fp32"] + 1) % 3
    page.locator(BUTTONS.format("fp32")).nth(other).click()
    assert area(page, "fp32") == in_order(panels["fp32"]["masks"][0])[other]["area"]
    assert iou(page, "int8") == pytest.approx(100 * table[other][2], abs=0.051)
    assert len({one["area"] for one in in_order(panels["fp32"]["masks"][0])}) == 3
    page.get_by_label("mix-dwsc").check()
    status(page, "^done")
    assert (pressed(page, "fp32"), pressed(page, "int8")) == (other, 2)  # the same prompt: the choice stays
    masks_of(page, lambda: page.mouse.click(*at(page, 0.86, 0.2)))
    best_now = page.locator(BUTTONS.format("fp32")).all_inner_texts()
    assert pressed(page, "fp32") == max(range(3), key=lambda i: float(best_now[i].removesuffix(" %")))


def test_the_buttons_are_those_of_the_chosen_object(open_app):
    page = open_app()
    open_first_example(page)
    panels = two_objects(page)
    shown = [f"{100 * one['predicted_iou']:.1f} %" for one in in_order(panels["fp32"]["masks"][1])]
    assert page.locator(BUTTONS.format("fp32")).all_inner_texts() == shown
    page.locator("#objects button").first.click()
    assert status(page, "^object 1 of 2").startswith("object 1 of 2; int8: IoU with FP32")
    shown = [f"{100 * one['predicted_iou']:.1f} %" for one in in_order(panels["fp32"]["masks"][0])]
    assert page.locator(BUTTONS.format("fp32")).all_inner_texts() == shown
    number = (pressed(page, "int8") + 1) % 3
    page.locator(BUTTONS.format("int8")).nth(number).click()
    assert "int8: mean IoU with FP32" in status(page, "^mask")
    tables = panels["int8"]["iou_tables"]
    a, b = panels["fp32"]["masks"], panels["int8"]["masks"]
    expected = tables[0][a[0]["number"]][number], tables[1][a[1]["number"]][b[1]["number"]]
    assert iou(page, "int8") == pytest.approx(50 * sum(expected), abs=0.051)
    page.locator("#objects > li:nth-child(2) button").first.click()
    assert pressed(page, "int8") == b[1]["number"]
    page.locator("#objects button").first.click()
    assert pressed(page, "int8") == number


def test_the_iou_between_masks_is_never_called_just_iou(open_app):
    page = open_app()
    open_first_example(page)
    two_objects(page)
    page.locator("#objects button").first.click()
    texts = [page.locator("body").inner_text()]
    page.get_by_role("button", name="Segment everything").click()
    status(page, "^done")
    texts.append(page.locator("body").inner_text())
    for text in texts:
        assert "IoU with FP32" in text
        assert not re.search(r"(?<!predicted )IoU(?! with FP32)", text)


def test_undo_and_redo_by_buttons_and_keys(open_app):
    page = open_app()
    open_first_example(page)
    boxes = page.locator(".stage").first.locator("rect.box")
    assert page.locator("#undo").is_disabled()
    assert page.locator("#redo").is_disabled()
    two_objects(page)
    both = painted(page, "fp32")
    page.locator("#undo").click()
    status(page, "^done")
    one = painted(page, "fp32")
    assert boxes.count() == 1
    page.keyboard.press("Control+z")
    status(page, "^drag a box")
    assert boxes.count() == 0
    assert page.locator("#undo").is_disabled()
    page.keyboard.press("Control+Shift+z")
    status(page, "^done")
    assert painted(page, "fp32") == one
    page.locator("#redo").click()
    status(page, "^done")
    assert painted(page, "fp32") == both
    assert page.locator("#redo").is_disabled()
    page.keyboard.press("Control+z")
    status(page, "^done")
    page.get_by_label("a new box keeps").uncheck()
    drag(page, *SECOND)
    status(page, "^done")
    assert page.locator("#redo").is_disabled()  # what was taken back is gone
    page.locator("#clear").click()
    assert boxes.count() == 0
    page.keyboard.press("Control+z")
    status(page, "^done")
    assert boxes.count() == 1
    page.mouse.click(*at(page, 0.7, 0.2))
    page.locator(".stage >> g.on").first.wait_for()
    page.keyboard.press("Control+z")
    status(page, "^done")
    assert page.locator(".stage g").count() == 0


def test_one_object_is_deleted_and_comes_back(open_app):
    page = open_app()
    open_first_example(page)
    panels = two_objects(page)
    page.locator("#objects button").first.click()
    page.locator("#delete").click()
    status(page, "^done")
    assert page.locator("#objects li").count() == 1
    assert area(page, "fp32") == panels["fp32"]["masks"][1]["area"]
    page.keyboard.press("Control+z")
    status(page, "^done")
    page.get_by_role("button", name="Delete object 2").click()
    status(page, "^done")
    assert area(page, "fp32") == panels["fp32"]["masks"][0]["area"]
    page.get_by_role("button", name="Delete object 1").click()
    status(page, "^drag a box")
    assert page.locator("#objects").is_hidden()
    assert page.locator("#delete").is_disabled()
    assert painted(page, "fp32") == {}
    page.mouse.click(*at(page, 0.85, 0.15))
    page.mouse.click(*at(page, 0.86, 0.2))
    page.locator("#objects").get_by_text("2 points").wait_for()
    page.keyboard.press("Delete")
    status(page, "^drag a box")
    assert page.locator(".stage g").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen_with_objects_masks_and_keys(open_app, width):
    page = open_app(width=width, height=844)
    open_first_example(page)
    two_objects(page)
    page.keyboard.press("+")
    page.keyboard.press("?")
    for selector in ("body", "#keys", "#save", "#zoom", "#objects"):
        area_ = page.locator(selector).bounding_box()
        assert 0 <= area_["x"] <= area_["x"] + area_["width"] <= width, selector
    assert page.evaluate("document.documentElement.scrollWidth") == width
