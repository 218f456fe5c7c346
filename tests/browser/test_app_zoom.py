"""Zoom and pan of the local page in a real browser."""

import io

import numpy as np
import pytest
from PIL import Image

from .app_page import at, choose, drag, open_first_example, painted, status, wait_until

VIEW = """() => {
    const [x, y, width, height] = document.querySelector(".stage svg").getAttribute("viewBox").split(" ").map(Number);
    return { x, y, width, height };
}"""


def view(page):
    """Return which part of the image is seen, in its pixels."""
    return page.evaluate(VIEW)


def level(page):
    return int(page.locator("#zoom-level").inner_text().removesuffix(" %"))


def press(page, keys, times=1):
    for _ in range(times):
        page.keyboard.press(keys)


def box(page, stage=0):
    """Return the drawn box in pixels of the image: left, top, right, bottom."""
    rect = page.locator(".stage").nth(stage).locator("rect.box").first
    x, y, width, height = (float(rect.get_attribute(name)) for name in ("x", "y", "width", "height"))
    return [x, y, x + width, y + height]


def test_a_box_at_zoom_4_has_the_pictures_own_pixels(open_app):
    page = open_app()
    open_first_example(page)
    press(page, "+", 4)
    assert level(page) == 400
    assert view(page) == pytest.approx({"x": 192, "y": 192, "width": 128, "height": 128})
    with page.expect_request("**/api/masks") as asked:
        drag(page, 0.25, 0.5, 0.75, 0.875)
    assert asked.value.post_data_json["boxes"] == [[224, 256, 288, 304]]
    status(page, "^done")
    found = painted(page, "fp32"), painted(page, "int8")
    for stage in (0, 1):
        assert box(page, stage) == [224, 256, 288, 304]
        seen = page.locator(".stage").nth(stage).locator("rect.box").bounding_box()
        left, top = at(page, 0.25, 0.5, stage)
        right, bottom = at(page, 0.75, 0.875, stage)
        drawn = [seen["x"], seen["y"], seen["x"] + seen["width"], seen["y"] + seen["height"]]
        assert drawn == pytest.approx([left, top, right, bottom], abs=2.5)  # the line is 2 px wide
    press(page, "0")
    assert level(page) == 100
    page.locator("summary").click()
    for name, value in zip(("x0", "y0", "x1", "y1"), (224, 256, 288, 304), strict=True):
        page.locator(f"#{name}").fill(str(value))
    page.locator("#box-form button").click()
    status(page, "^done")
    assert (painted(page, "fp32"), painted(page, "int8")) == found


def test_picture_and_masks_are_zoomed_alike_and_lie_on_each_other(open_app):
    page = open_app()
    open_first_example(page)
    drag(page, 0.13, 0.54, 0.57, 1.0)
    status(page, "^done")
    page.locator("#zoom-in").click(click_count=2)
    page.get_by_label("slider").check()
    places = "e => { const { x, y, width, height } = e.getBoundingClientRect(); return [x, y, width, height]; }"
    image = page.locator(".stage img").evaluate(places)
    stage = page.locator(".stage").bounding_box()
    assert image[2] == pytest.approx(2 * stage["width"])
    for name in ("fp32", "int8"):
        assert page.locator(f"canvas[data-masks={name}]").evaluate(places) == pytest.approx(image)
    divider = page.locator(".divider").bounding_box()
    assert divider["x"] + divider["width"] / 2 == pytest.approx(stage["x"] + stage["width"] / 2, abs=1)


def test_the_wheel_zooms_about_the_pointer_and_a_whole_picture_lets_the_page_scroll(open_app):
    page = open_app(height=500)
    open_first_example(page)
    page.mouse.move(*at(page, 0.25, 0.5))
    before = page.evaluate("scrollY")
    for _ in range(2):
        page.mouse.wheel(0, -100)
    wait_until(page, lambda: level(page) == 200)
    assert view(page) == pytest.approx({"x": 64, "y": 128, "width": 256, "height": 256}, abs=0.5)
    assert page.evaluate("scrollY") == before
    page.mouse.wheel(0, 400)
    wait_until(page, lambda: level(page) == 100)
    assert page.evaluate("scrollY") == before
    page.mouse.wheel(0, 100)
    wait_until(page, lambda: page.evaluate("scrollY") > before)
    assert view(page) == pytest.approx({"x": 0, "y": 0, "width": 512, "height": 512})


@pytest.mark.parametrize("way", ["middle", "space"])
def test_the_picture_is_moved_by_space_or_the_middle_button_and_no_box_is_made(open_app, way):
    page = open_app()
    open_first_example(page)  # the example's button has the focus: Space must not press it
    page.locator("#zoom-in").click(click_count=2)
    shown = page.locator(".stage img").first.get_attribute("src")
    page.mouse.move(*at(page, 0.5, 0.5))
    if way == "space":
        page.keyboard.down(" ")
    page.mouse.down(button="middle" if way == "middle" else "left")
    page.mouse.move(*at(page, 0.75, 0.25), steps=3)
    page.mouse.up(button="middle" if way == "middle" else "left")
    if way == "space":
        page.keyboard.up(" ")
    assert view(page) == pytest.approx({"x": 64, "y": 192, "width": 256, "height": 256})
    page.mouse.move(*at(page, 0.5, 0.5))
    page.mouse.down(button="middle")
    page.mouse.move(*at(page, 0.5, 0.99), steps=2)
    page.mouse.move(*at(page, 2.2, 0.99), steps=2)
    page.mouse.up(button="middle")
    assert view(page)["x"] == 0  # not beyond the image
    assert page.locator("rect, .stage g").count() == 0
    assert page.locator(".stage img").first.get_attribute("src") == shown
    with page.expect_request("**/api/masks") as asked:
        drag(page, 0, 0, 0.5, 0.5)
    x, y = view(page)["x"], view(page)["y"]
    assert asked.value.post_data_json["boxes"] == [[x, round(y), 128, round(y + 128)]]
    status(page, "^done")


def test_space_still_presses_the_button_that_was_reached_by_tab(open_app):
    page = open_app()
    open_first_example(page)
    page.mouse.move(*at(page, 0.5, 0.5))
    page.locator("#zoom-out").focus()
    page.keyboard.press("Tab")
    page.keyboard.press(" ")
    assert level(page) == 141
    assert page.locator("body.panning").count() == 0


def test_keys_zoom_and_move_but_not_while_a_number_is_typed(open_app):
    page = open_app()
    open_first_example(page)
    page.locator(".stage").first.focus()
    press(page, "=", 2)
    press(page, "Shift+ArrowRight")
    press(page, "Shift+ArrowUp", 2)
    assert view(page) == pytest.approx({"x": 153.6, "y": 76.8, "width": 256, "height": 256})
    press(page, "-", 5)
    assert view(page) == pytest.approx({"x": 0, "y": 0, "width": 512, "height": 512})
    page.locator("#side").fill("")
    page.locator("#side").focus()
    page.keyboard.type("10")
    press(page, "-")
    assert level(page) == 100
    press(page, "+")
    assert level(page) == 100
    page.locator("#zoom-in").click()
    assert level(page) == 141
    page.locator("#zoom-reset").click()
    assert level(page) == 100
    page.locator("#zoom-in").click()
    page.get_by_role("button", name="Example 2").click()
    status(page, "^512 x 512")
    assert level(page) == 100  # another picture is seen whole
    assert view(page)["width"] == 512


def touch(session, kind, *points):
    places = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})


def test_two_fingers_zoom_and_one_draws_on_a_telephone(open_app):
    page = open_app(width=390, height=844, has_touch=True)
    open_first_example(page)
    page.locator(".stage").first.scroll_into_view_if_needed()
    session = page.context.new_cdp_session(page)
    touch(session, "touchStart", at(page, 0.45, 0.45))
    touch(session, "touchMove", at(page, 0.4, 0.4))  # the first finger comes a little earlier
    touch(session, "touchStart", at(page, 0.4, 0.4), at(page, 0.6, 0.6))
    for reach in (0.2, 0.3, 0.4):
        touch(session, "touchMove", at(page, 0.5 - reach, 0.5 - reach), at(page, 0.5 + reach, 0.5 + reach))
    touch(session, "touchEnd", at(page, 0.1, 0.1))
    touch(session, "touchMove", at(page, 0.3, 0.1))
    touch(session, "touchEnd")
    assert level(page) == 400
    assert view(page) == pytest.approx({"x": 192, "y": 192, "width": 128, "height": 128}, abs=0.5)
    assert page.locator("rect, .stage g").count() == 0
    with page.expect_request("**/api/masks") as asked:
        touch(session, "touchStart", at(page, 0.25, 0.5))
        touch(session, "touchMove", at(page, 0.5, 0.7))
        touch(session, "touchMove", at(page, 0.75, 0.875))
        touch(session, "touchEnd")
    assert asked.value.post_data_json["boxes"] == [[224, 256, 288, 304]]
    status(page, "^done")
    page.touchscreen.tap(*at(page, 0.5, 0.6))
    status(page, "^done")
    point = page.locator(".stage g.on").first.get_attribute("transform")
    assert point.startswith("translate(256 268)")


def smooth(width, height):
    """Return a large picture's file of few bytes."""
    file = io.BytesIO()
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()).save(file, "JPEG")
    return file.getvalue()


def test_a_large_picture_is_fetched_at_its_own_size_when_it_is_zoomed_into_once(open_app, address):
    page = open_app()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    choose(page, smooth(2400, 1600), "large.jpg")
    status(page, "^2400 x 1600 pixels")
    sizes = "() => [...document.querySelectorAll('.stage img')].map((i) => i.naturalWidth)"
    wait_until(page, lambda: page.evaluate(sizes) == [1024, 1024])
    page.mouse.move(*at(page, 0.5, 0.5))
    page.mouse.wheel(0, -1000)
    wait_until(page, lambda: page.evaluate(sizes) == [2400, 2400])
    page.mouse.wheel(0, 100)
    page.get_by_label("mix-dwsc").check()  # the panels are laid out anew
    wait_until(page, lambda: page.evaluate(sizes) == [2400] * 3)
    assert sum(url.endswith("/full") for url in asked) == 1
    assert all(url.startswith((address, f"blob:{address}")) for url in asked)
    with page.expect_request("**/api/masks") as sent:
        drag(page, 0.1, 0.1, 0.9, 0.9)
    part = view(page)
    expected = [
        part["x"] + u * part["width"] if i % 2 == 0 else part["y"] + u * part["height"]
        for i, u in enumerate((0.1, 0.1, 0.9, 0.9))
    ]
    assert sent.value.post_data_json["boxes"][0] == pytest.approx(expected, abs=1)
    status(page, "^done")
