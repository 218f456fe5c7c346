"""The local page by keys and by ear, in a real browser."""

import re

from .app_page import FIRST, at, drag, open_first_example, status, two_objects


def chosen(page):
    return page.locator("#objects button[aria-pressed=true]").inner_text()[0]


def test_arrows_move_between_objects_and_delete_removes_the_chosen_one(open_app):
    page = open_app()
    open_first_example(page)
    two_objects(page)
    assert chosen(page) == "2"
    assert page.locator(".stage:focus").count() == 1  # where the box was dragged
    for key, expected in (
        ("ArrowLeft", "1"),
        ("ArrowUp", "2"),
        ("ArrowRight", "1"),
        ("ArrowDown", "2"),
        ("ArrowDown", "1"),
    ):
        page.keyboard.press(key)
        assert chosen(page) == expected
        status(page, f"^object {expected} of 2; int8: IoU with FP32")
        outlines = (
            page.locator(".stage")
            .first.locator("rect.box")
            .evaluate_all("all => all.map(r => r.classList.contains('chosen'))")
        )
        assert outlines == [expected == "1", expected == "2"]
    page.locator("#objects button").first.focus()
    page.keyboard.press("ArrowDown")
    assert chosen(page) == "2"
    assert page.evaluate("document.activeElement.textContent").startswith("2: box")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Delete")
    status(page, "^done")
    assert page.locator("#objects li").count() == 1
    assert page.evaluate("document.activeElement.textContent").startswith("1: box")  # the focus is not lost
    page.locator("summary").click()
    page.locator("#x0").fill("12")
    page.locator("#x0").focus()
    page.keyboard.press("Delete")
    assert page.locator("#objects li").count() == 1


def test_escape_cancels_a_drag(open_app):
    page = open_app()
    open_first_example(page)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.mouse.move(*at(page, 0.2, 0.2))
    page.mouse.down()
    page.mouse.move(*at(page, 0.6, 0.6), steps=3)
    assert page.locator("rect.rubber").count() > 0
    page.keyboard.press("Escape")
    assert page.locator("rect.rubber").count() == 0
    page.mouse.move(*at(page, 0.7, 0.7))
    page.mouse.up()
    assert page.locator("rect, .stage g").count() == 0
    assert asked == []
    drag(page, *FIRST)
    status(page, "^done")


def test_the_keys_are_listed_on_a_question_mark(open_app):
    page = open_app()
    dialog = page.locator("#keys")
    assert dialog.is_hidden()
    page.keyboard.press("?")
    assert dialog.is_visible()
    for word in ("zoom in", "move the image", "next object", "delete the chosen object", "redo", "being dragged"):
        assert word in dialog.inner_text()
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    page.get_by_role("button", name="Keys").click()
    page.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()


def test_tab_reaches_every_control_and_the_focus_is_seen(open_app):
    page = open_app()
    open_first_example(page)
    two_objects(page)
    page.locator("#undo").click()
    status(page, "^done")
    page.locator("summary").click()
    page.evaluate("document.activeElement.blur()")
    wanted = page.evaluate("""() => {
        const all = [...document.querySelectorAll("button, input, select, summary, .stage")];
        return all.filter((e) => e.checkVisibility() && !e.disabled && (e.type !== "radio" || e.checked)).length;
    }""")
    page.evaluate("() => { window.reached = new Set(); window.unseen = []; }")
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        page.evaluate("""() => {
            const e = document.activeElement;
            if (e === document.body) return;
            reached.add(e);
            const seen = e.id === "file" ? e.nextElementSibling : e;
            const { outlineStyle, outlineWidth } = getComputedStyle(seen);
            if (outlineStyle !== "solid" || outlineWidth !== "2px") unseen.push(e.outerHTML.slice(0, 99));
        }""")
    assert page.evaluate("unseen") == []
    assert page.evaluate("reached.size") == wanted >= 40


def test_results_are_told_to_screen_readers(open_app):
    page = open_app()
    open_first_example(page)
    region = page.get_by_role("status")
    assert region.get_attribute("aria-live") == "polite"
    drag(page, *FIRST)
    status(page, "^done")
    assert re.fullmatch(r"done; int8: IoU with FP32 [\d.]+ %", region.inner_text())
