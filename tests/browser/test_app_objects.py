"""Objects, the three masks of each, and files of masks, on the local page in a real browser."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco import CocoDataset

from .app_page import WAIT_MS, at, choose, drag, iou, open_first_example, painted, scene, status, wait_until

BUTTONS = "[data-caption='{}'] .candidates button"
FIRST, SECOND = (0.13, 0.54, 0.57, 1.0), (0.6, 0.05, 0.95, 0.4)


def masks_of(page, prompt):
    """Do what asks for masks, and return the panels that the server sends."""
    answers = []

    def note(route):
        answer = route.fetch()
        answers.append(answer.text())
        route.fulfill(response=answer)

    page.route("**/api/masks", note)
    prompt()
    wait_until(page, lambda: answers)
    status(page, "^done")
    page.unroute("**/api/masks")
    events = [json.loads(line) for line in answers[0].splitlines()]
    return {event["name"]: event for event in events if event["event"] == "panel"}


def in_order(mask):
    return sorted([mask, *mask["others"]], key=lambda one: one["number"])


def area(page, name):
    return sum(painted(page, name).values())


def pressed(page, name):
    """Return which of a panel's masks is shown."""
    states = page.locator(BUTTONS.format(name)).evaluate_all("all => all.map((b) => b.getAttribute('aria-pressed'))")
    assert states.count("true") == 1
    return states.index("true")


def two_objects(page):
    drag(page, *FIRST)
    status(page, "^done")
    page.get_by_label("a new box keeps").check()
    return masks_of(page, lambda: drag(page, *SECOND))


def saved(page, button):
    with page.expect_download(timeout=WAIT_MS) as download:
        page.locator(button).click()
    status(page, f"^saved {re.escape(download.value.suggested_filename)}$")
    return download.value.suggested_filename, download.value.path().read_bytes()


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
    for word in ("zoom in", "move the picture", "next object", "delete the chosen object", "redo", "being dragged"):
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


def test_masks_and_cut_outs_are_saved(open_app):
    page = open_app()
    choose(page, scene(16), "my photo (1).png")
    page.locator(".stage").nth(1).wait_for()
    assert page.locator("#save").is_hidden()
    drag(page, 0.1, 0.2, 0.8, 0.9)
    status(page, "^done")
    name, content = saved(page, "#save-mask")
    assert name == "my_photo_(1)-fp32-mask.png"
    mask = np.asarray(Image.open(io.BytesIO(content)))
    assert mask.shape == (256, 256)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).sum() == area(page, "fp32")
    page.locator("#save-scheme").select_option("int8")
    page.locator(BUTTONS.format("int8")).nth((pressed(page, "int8") + 1) % 3).click()
    assert page.locator("#save-scheme").input_value() == "int8"
    name, content = saved(page, "#save-cutout")
    assert name == "my_photo_(1)-int8-cutout.png"
    cut = np.asarray(Image.open(io.BytesIO(content)))
    assert cut.shape[2] == 4
    assert (cut[..., 3] == 255).sum() == area(page, "int8")
    original = np.asarray(Image.open(io.BytesIO(scene(16))))
    alpha = painted_mask(page, "int8")
    assert np.array_equal(cut[cut[..., 3] > 0][:, :3], original[alpha])


def painted_mask(page, name):
    canvas = page.locator(f".stage canvas[data-masks='{name}']")
    alpha = canvas.evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 == 3)"
    )
    return np.reshape(alpha, (256, 256)) > 0


def test_all_objects_are_saved_as_coco_annotations_that_our_own_reader_takes(open_app, tmp_path):
    page = open_app()
    choose(page, scene(16), "photo.png")
    page.locator(".stage").nth(1).wait_for()
    panels = two_objects(page)
    page.locator("#save-scheme").select_option("int8")
    name, content = saved(page, "#save-coco")
    assert name == "photo-int8-coco.json"
    (tmp_path / name).write_bytes(content)
    (tmp_path / "photo.png").write_bytes(scene(16))
    dataset = CocoDataset(tmp_path, annotations=tmp_path / name, image_root=tmp_path, strict=True)
    dataset.check(strict=True)
    document = json.loads(content)
    assert document["images"] == [{"id": 1, "file_name": "photo.png", "width": 256, "height": 256}]
    masks = panels["int8"]["masks"]
    assert [entry["score"] for entry in document["annotations"]] == [mask["predicted_iou"] for mask in masks]
    found = [dataset.mask(annotation) for annotation in dataset.annotations(1)]
    assert [mask.sum() for mask in found] == [mask["area"] for mask in masks]
    assert np.array_equal(found[0] | found[1], painted_mask(page, "int8"))
    name, content = saved(page, "#save-mask")
    assert name == "photo-int8-object-2-mask.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))) > 0, found[1])
    page.locator("#save-object").select_option("all objects")
    name, content = saved(page, "#save-mask")
    assert name == "photo-int8-mask.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))) > 0, found[0] | found[1])


def test_everything_is_saved_with_the_settings_by_which_it_was_found(open_app):
    page = open_app()
    open_first_example(page)
    page.get_by_label("points a side").fill("6")
    page.get_by_label("least predicted IoU").fill("0.3")
    page.get_by_role("button", name="Segment everything").click()
    status(page, "^done")
    count = int(re.search(r"masks\s*(\d+)", page.locator("[data-caption='fp32']").inner_text())[1])
    assert page.locator(".candidates").count() == 0
    page.get_by_label("points a side").fill("1")
    name, content = saved(page, "#save-coco")
    assert name == "example-1-fp32-coco.json"
    assert len(json.loads(content)["annotations"]) == count >= 2


def test_a_file_that_cannot_be_made_is_said(open_app):
    page = open_app(expect_errors=["503"])
    open_first_example(page)
    drag(page, *FIRST)
    status(page, "^done")
    body = json.dumps({"error": "the server is busy: try again in a moment"})
    page.route("**/api/save", lambda route: route.fulfill(status=503, body=body, content_type="application/json"))
    page.locator("#save-mask").click()
    status(page, "^the server is busy")
    assert page.locator("#status.error").is_visible()
    wait_until(page, lambda: page.locator("#save-mask").is_enabled())


def test_nothing_leaves_the_machine(open_app, address):
    page = open_app()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    choose(page, scene(16))
    page.locator(".stage").nth(1).wait_for()
    two_objects(page)
    for button in ("#save-mask", "#save-cutout", "#save-coco"):
        saved(page, button)
    assert len(asked) >= 6
    assert all(url.startswith((address, f"blob:{address}")) for url in asked)


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
