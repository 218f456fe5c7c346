"""The local page in a real browser."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from quantsam.app.pictures import EXAMPLES
from quantsam.models.zoo import load_model
from quantsam.plans.make import make_plan
from quantsam.plans.sizes import account

from .app_page import WAIT_MS, at, choose, drag, hold, iou, open_first_example, painted, scene, status, wait_until


def test_a_box_is_dragged_and_masks_appear_with_their_iou(open_app):
    page = open_app()
    open_first_example(page)
    assert painted(page, "fp32") == {}
    drag(page, 0.13, 0.54, 0.57, 1.0)
    assert "int8: IoU with FP32" in status(page, "^done")
    pixels = sum(painted(page, "fp32").values())
    assert 0.02 < pixels / 512**2 < 0.25
    assert sum(painted(page, "int8").values()) == pytest.approx(pixels, rel=0.5)
    assert 50 < iou(page, "int8") <= 100
    figures = page.locator("[data-caption='int8']").inner_text()
    nano = load_model("nano")
    size = f"{account(nano.float_encoder, make_plan(nano, 'int8').sites).size_bytes / 2**20:.2f}"
    assert re.search(rf"encoder\s*[\d.,]+ ms\s*decoder\s*[\d.,]+ ms\s*size\s*{re.escape(size)} MiB", figures)
    page.locator("#clear").click()
    status(page, "^drag a box")
    assert painted(page, "fp32") == {}
    page.locator("#undo").click()
    status(page, "^done")
    assert sum(painted(page, "fp32").values()) == pixels


def test_left_and_right_clicks_are_points(open_app):
    page = open_app()
    open_first_example(page)
    menus = page.evaluate_handle(
        "() => { const seen = []; addEventListener('contextmenu', e => seen.push(e.defaultPrevented)); return seen; }"
    )
    page.mouse.click(*at(page, 0.85, 0.15))
    status(page, "^done")
    assert page.locator(".stage").first.locator("g.on").count() == 1
    before = painted(page, "fp32")
    page.mouse.click(*at(page, 0.2, 0.2, stage=1), button="right")
    page.locator(".stage >> g.off").first.wait_for()
    status(page, "^done")
    assert page.locator(".stage").first.locator("g").count() == 2
    assert painted(page, "fp32") != before
    page.locator("h1").click(button="right")
    assert menus.json_value() == [True, False]
    page.locator("#undo").click()
    status(page, "^done")
    assert painted(page, "fp32") == before


def test_touch_and_the_choice_of_what_a_click_is(open_app):
    page = open_app(width=390, height=844, has_touch=True)
    open_first_example(page)
    page.touchscreen.tap(*at(page, 0.85, 0.15))
    status(page, "^done")
    page.get_by_label("off it").check()
    page.locator(".stage").first.scroll_into_view_if_needed()
    page.touchscreen.tap(*at(page, 0.2, 0.2))
    page.locator(".stage >> g.off").first.wait_for()
    status(page, "^done")


def test_differences_are_marked_in_three_colours(open_app):
    page = open_app()
    open_first_example(page)
    drag(page, 0.05, 0.05, 0.95, 0.95)
    status(page, "^done")
    fp32, int8 = (sum(painted(page, name).values()) for name in ("fp32", "int8"))
    page.get_by_label("mark differences").check()
    page.get_by_text("extra", exact=True).wait_for()
    found = painted(page, "int8")
    common, missed, extra = (found.get(rgb, 0) for rgb in ("86,180,233", "213,94,0", "240,228,66"))
    assert (common + missed, common + extra) == (fp32, int8)
    assert missed + extra > 0
    assert iou(page, "int8") == pytest.approx(100 * common / (common + missed + extra), abs=0.06)
    assert set(painted(page, "fp32")) == {"86,180,233"}


def test_schemes_are_ticked_and_the_slider_moves_by_keys_and_pointer(open_app):
    page = open_app()
    open_first_example(page)
    drag(page, 0.13, 0.54, 0.57, 1.0)
    status(page, "^done")
    page.get_by_label("mix-dwsc").check()
    status(page, "mix-dwsc: IoU with FP32")
    assert page.locator("figure").count() == 3
    page.get_by_label("slider").check()
    assert page.locator("figure").count() == 1
    page.get_by_label("over FP32").select_option("mix-dwsc")
    assert sum(painted(page, "mix-dwsc").values()) > 0
    split = page.get_by_label("Divider")
    over = page.locator(".over")
    split.focus()
    page.keyboard.press("Home")
    assert over.evaluate("c => getComputedStyle(c).clipPath") == "inset(0px 0px 0px 0%)"
    page.keyboard.press("End")
    assert over.evaluate("c => getComputedStyle(c).clipPath") == "inset(0px 0px 0px 100%)"
    split.fill("50")
    boxes = page.locator("rect.box").count()
    page.mouse.move(*at(page, 0.5, 0.2))
    page.mouse.down()
    page.mouse.move(*at(page, 0.25, 0.2), steps=2)
    page.mouse.up()
    assert split.input_value() == "25"
    assert page.locator("rect.box").count() == boxes


def test_everything_is_segmented(open_app):
    page = open_app()
    open_first_example(page)
    page.get_by_label("points a side").fill("8")
    page.get_by_label("least predicted IoU").fill("0.3")
    page.get_by_role("button", name="Segment everything").click()
    assert "int8: mean IoU with FP32" in status(page, "^done")
    caption = page.locator("[data-caption='fp32']").inner_text()
    count = int(re.search(r"masks\s*(\d+)", caption)[1])
    assert count >= 2
    fp32, int8 = (set(painted(page, name, least_alpha=255)) for name in ("fp32", "int8"))  # borders: exact colours
    assert 2 <= len(fp32) <= count
    assert fp32 & int8


def test_two_users_keep_their_own_pictures(open_app):
    alone = []
    for seed in (1, 16):
        page = open_app()
        choose(page, scene(seed))
        page.locator(".stage").nth(1).wait_for()
        drag(page, 0.1, 0.2, 0.8, 0.9)
        status(page, "^done")
        alone.append((painted(page, "fp32"), painted(page, "int8"), iou(page, "int8")))
    assert alone[0] != alone[1]
    pages = [open_app(), open_app()]
    for page, seed in zip(pages, (1, 16), strict=True):
        choose(page, scene(seed))
    for page in pages:
        page.locator(".stage").nth(1).wait_for()
        drag(page, 0.1, 0.2, 0.8, 0.9)
    for page, expected in zip(pages, alone, strict=True):
        status(page, "^done")
        assert (painted(page, "fp32"), painted(page, "int8"), iou(page, "int8")) == expected


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_screen_does_not_scroll_sideways(open_app, dark):
    page = open_app(width=390, height=844, dark=dark)
    widths = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    open_first_example(page)
    for label in ("mix-dwsc", "slider", "mark differences"):
        page.get_by_label(label).check()
        page.locator("details").evaluate("d => { d.open = true; }")
        scroll, client = page.evaluate(widths)
        assert scroll <= client == 390
    assert page.locator("body").evaluate("b => getComputedStyle(b).backgroundColor") == (
        "rgb(19, 22, 25)" if dark else "rgb(243, 244, 246)"
    )


def test_a_file_that_is_no_picture_is_refused_and_the_old_picture_stays(open_app):
    page = open_app(expect_errors=["415"])
    open_first_example(page)
    drag(page, 0.13, 0.54, 0.57, 1.0)
    status(page, "^done")
    before = painted(page, "fp32"), painted(page, "int8"), iou(page, "int8")
    choose(page, b"a text, not an image", "notes.txt")
    assert "not an image" in status(page, "not an image")
    assert page.locator("#status.error").is_visible()
    assert (painted(page, "fp32"), painted(page, "int8"), iou(page, "int8")) == before
    assert sum(before[0].values()) > 0
    assert page.locator("rect.box").count() == 2
    drag(page, 0.05, 0.05, 0.95, 0.95)
    status(page, "^done")
    assert page.locator("#status.error").count() == 0


def test_a_refusal_stays_while_the_old_pictures_masks_come(open_app):
    page = open_app(expect_errors=["415"])
    open_first_example(page)
    masks = hold(page, "**/api/masks")
    drag(page, 0.13, 0.54, 0.57, 1.0)
    wait_until(page, lambda: masks)
    choose(page, b"a text, not an image", "notes.txt")
    status(page, "not an image")
    masks[0].continue_()
    page.locator("[data-caption='int8'] dd.iou").wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(100)
    assert "not an image" in status(page, "not an image")
    assert sum(painted(page, "fp32").values()) > 0
    page.unroute("**/api/masks")
    page.get_by_label("mix-dwsc").check()
    status(page, "^done")


def test_of_two_pictures_the_one_chosen_last_is_shown(open_app):
    page = open_app()
    slow = hold(page, f"**/api/examples/{EXAMPLES[0]}")
    page.get_by_role("button", name="Example 1").click()
    wait_until(page, lambda: slow)
    page.get_by_role("button", name="Example 2").click()
    page.locator(".stage").nth(1).wait_for()
    shown = page.locator(".stage img").first.get_attribute("src")
    drag(page, 0.13, 0.54, 0.57, 1.0)
    status(page, "^done")
    with page.expect_response(f"**/api/examples/{EXAMPLES[0]}"):
        slow[0].continue_()
    page.wait_for_timeout(100)
    assert page.locator(".stage img").first.get_attribute("src") == shown
    assert page.locator("rect.box").count() == 2
    status(page, "^done")


def test_masks_of_the_picture_before_are_not_painted_on_the_next(open_app):
    page = open_app()
    open_first_example(page)
    drag(page, 0.13, 0.54, 0.57, 1.0)
    status(page, "^done")
    shown = page.locator(".stage img").first.get_attribute("src")
    example, masks = hold(page, f"**/api/examples/{EXAMPLES[1]}"), hold(page, "**/api/masks")
    page.get_by_role("button", name="Example 2").click()
    wait_until(page, lambda: example)
    page.get_by_label("mix-dwsc").check()
    wait_until(page, lambda: masks)
    example[0].continue_()
    status(page, "^512 x 512 pixels")
    with contextlib.suppress(Exception):  # the page has given this request up
        masks[0].continue_()
    page.wait_for_timeout(1000)
    assert page.locator(".stage img").first.get_attribute("src") != shown
    assert [painted(page, name) for name in ("fp32", "int8", "mix-dwsc")] == [{}] * 3
    assert page.locator("rect.box").count() == 0
    assert status(page, "pixels").startswith("512 x 512 pixels")


def test_masks_that_are_left_out_are_said(open_app):
    page = open_app()
    open_first_example(page)
    mask = {"runs": [0, 9, 512 * 512 - 9], "area": 9, "predicted_iou": 0.5}
    panel = {"event": "panel", "encoder_ms": 1, "decoder_ms": 1, "size_bytes": 1, "masks": [mask], "left_out": 41}
    events = [{**panel, "name": "fp32", "ious": None}, {**panel, "name": "int8", "ious": [1], "left_out": 0}]
    body = "".join(json.dumps(event) + "\n" for event in [*events, {"event": "done"}])
    page.route("**/api/masks", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    page.get_by_role("button", name="Segment everything").click()
    assert status(page, "^done").endswith("fp32: 41 masks left out, the best 1 are shown")
    assert re.search(r"masks\s*1 of 42\b", page.locator("[data-caption='fp32']").inner_text())
    assert re.search(r"masks\s*1\s", page.locator("[data-caption='int8']").inner_text())


def test_a_file_that_is_too_large_is_not_even_sent(open_app):
    page = open_app()
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    choose(page, b"x" * 1_000_001)
    assert "at most 1 MB" in status(page, "at most")
    assert sent == []


def test_dropping_and_pasting(open_app):
    page = open_app()
    deliver = """([type, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
        const event = type === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    for type_, width in (("drop", 96), ("paste", 80)):
        file = io.BytesIO()
        Image.fromarray(np.full((64, width, 3), 99, np.uint8)).save(file, "PNG")
        page.evaluate(deliver, [type_, list(file.getvalue())])
        status(page, f"^{width} x 64 pixels")


def test_the_keyboard_alone_will_do(open_app):
    page = open_app()

    def tab_to(selector):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#file")
    assert page.locator("#file + label").evaluate("l => getComputedStyle(l).outlineStyle") == "solid"
    tab_to("#examples button")
    page.keyboard.press("Enter")
    page.locator(".stage").nth(1).wait_for()
    tab_to("#prompt summary")
    page.keyboard.press("Enter")
    for value in ("70", "280", "290", "512"):
        page.keyboard.press("Tab")
        page.keyboard.type(value)
    page.keyboard.press("Enter")
    status(page, "^done")
    assert page.locator(".stage rect.box").first.get_attribute("width") == "220"
    tab_to("#px")
    page.keyboard.type("100")
    page.keyboard.press("Enter")
    status(page, "fill in all of x, y")
    page.keyboard.press("Tab")
    page.keyboard.type("400")
    page.keyboard.press("Enter")
    page.locator(".stage g.on").first.wait_for()
    status(page, "^done")


def test_what_makes_no_sense_is_said(open_app):
    page = open_app(expect_errors=["422"])
    use_box = page.locator("#box-form button")
    page.locator("summary").click()
    use_box.click()
    status(page, "choose an image first")
    open_first_example(page)
    for name, value in zip(("x0", "y0", "x1", "y1"), (50, 50, 20, 20), strict=True):
        page.locator(f"#{name}").fill(str(value))
    use_box.click()
    status(page, "right of its left")
    page.locator("#x1").fill("600")
    page.locator("#y1").fill("70")
    use_box.click()
    status(page, "lie in the image, 512 x 512")
    assert page.locator("rect").count() == 0
    page.mouse.click(*at(page, 0.5, 0.5), button="right")
    status(page, "at least one point must lie on the object")  # the server says this one
    drag(page, 0.1, 0.5, 0.5, 0.9)
    status(page, "^done")
    page.get_by_label("a new box keeps").check()
    drag(page, 0.6, 0.5, 0.9, 0.9)
    page.locator(".stage >> nth=0 >> rect.box >> nth=1").wait_for()
    status(page, "^done")
    page.mouse.click(*at(page, 0.5, 0.5))
    status(page, "points refine one box")


def test_every_control_has_a_name(open_app):
    page = open_app()
    open_first_example(page)
    page.get_by_label("slider").check()
    nameless = page.evaluate("""() => [...document.querySelectorAll("input, select, button")]
        .filter(e => !(e.labels?.length || e.textContent.trim() || e.querySelector("img[alt]")))
        .map(e => e.outerHTML)""")
    assert nameless == []


def test_a_server_that_is_gone_is_said(open_app):
    page = open_app(expect_errors=["ERR_FAILED"])
    open_first_example(page)
    page.route("**/api/masks", lambda route: route.abort())
    drag(page, 0.13, 0.54, 0.57, 1.0)
    status(page, "does not answer")
