"""Files of masks from the local page, in a real browser."""

import io
import json
import re

import numpy as np
from PIL import Image

from quantsam.data.coco import CocoDataset

from .app_page import (
    BUTTONS,
    FIRST,
    WAIT_MS,
    area,
    choose,
    drag,
    open_first_example,
    pressed,
    scene,
    status,
    two_objects,
    wait_until,
)


def saved(page, button):
    with page.expect_download(timeout=WAIT_MS) as download:
        page.locator(button).click()
    status(page, f"^saved {re.escape(download.value.suggested_filename)}$")
    return download.value.suggested_filename, download.value.path().read_bytes()


def painted_mask(page, name):
    canvas = page.locator(f".stage canvas[data-masks='{name}']")
    alpha = canvas.evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 == 3)"
    )
    return np.reshape(alpha, (256, 256)) > 0


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
