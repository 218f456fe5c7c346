"""A bundle as a page, in a real browser: the masks of the desktop, from files alone."""

import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import threading
from base64 import b64decode, b64encode

import numpy as np
import pytest
import torch
from PIL import Image

import quantsam as qs
from quantsam.data.coco_masks import decode_mask
from quantsam.metrics.iou import mask_iou
from quantsam.prediction.grid import usual_settings

WAIT_MS = 120_000
PAINTED = """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
    .filter((value, index) => index % 4 === 3 && value).length"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, web_runtime):
    """nano in int8, as a page."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = qs.load_model("nano")
    plan = qs.calibrate(model, qs.make_plan(model, "int8", "onnxruntime"), qs.open_images("scenes:2:1"))
    path = tmp_path_factory.mktemp("web") / "page"
    qs.export_bundle(model, plan, path, engine="web")
    torch.set_num_threads(before)
    return path


@contextlib.contextmanager
def served(folder):
    """Serve a folder as `python -m http.server` does; yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def address(folder):
    with served(folder) as found:
        yield found


@pytest.fixture
def open_web(open_page, address):
    """Open the page and wait until it can be used."""

    def call(at=address, query="?threads=1", **options):
        page = open_page(at + query, **options)
        page.locator("body[data-ready]").wait_for(timeout=WAIT_MS)
        return page

    return call


@pytest.fixture(scope="module")
def desktop(folder):
    """The same graphs in ONNX Runtime."""
    return qs.load_bundle(folder, engine="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def image():
    """A scene that is neither square nor of the encoder's size."""
    scene = qs.open_dataset("scenes:1:5")
    return np.asarray(Image.fromarray(scene.image(scene.image_ids[0])[:180]).resize((400, 281)))


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def choose(page, content, name="picture.png"):
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def status(page, text):
    """Wait until the status line matches, and return it."""
    line = page.locator("#status").filter(has_text=re.compile(text))
    line.wait_for(timeout=WAIT_MS)
    return line.inner_text()


def at(page, x, y):
    page.locator("#stage").scroll_into_view_if_needed()
    area = page.locator("#stage").bounding_box()
    return area["x"] + x * area["width"], area["y"] + y * area["height"]


def drag(page, left, top, right, bottom):
    page.mouse.move(*at(page, left, top))
    page.mouse.down()
    page.mouse.move(*at(page, right, bottom), steps=3)
    page.mouse.up()


def numbers(page, form, **values):
    page.locator("details").evaluate("d => { d.open = true; }")
    for name, value in values.items():
        page.locator(f"#{form} [name={name}]").fill(str(value))
    page.locator(f"#{form} button").click()


def saved(page):
    """Return the COCO JSON that the page saves, and its masks."""
    with page.expect_download() as download:
        page.locator("#save-json").click()
    assert download.value.suggested_filename == "picture-masks.json"
    found = json.loads(download.value.path().read_text())
    (image,) = found["images"]
    hw = (image["height"], image["width"])
    return found, [decode_mask(each["segmentation"], hw, "the saved mask") for each in found["annotations"]]


def test_boxes_and_points_give_the_masks_of_the_desktop(open_web, desktop, image):
    page = open_web()
    choose(page, png(image))
    status(page, "^400 x 281 pixels")
    desktop.set_image(image)
    box, points = [60, 90, 250, 270], [[150, 120], [20, 20]]
    numbers(page, "box-form", **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)))
    status(page, "^done")
    found, (mask,) = saved(page)
    masks, iou = desktop.best_masks(boxes=[box])
    assert mask_iou(mask, masks[0]) > 0.9995
    (annotation,) = found["annotations"]
    assert annotation["predicted_iou"] == pytest.approx(float(iou[0]), abs=1e-4)
    assert (annotation["area"], annotation["bbox"][2:]) == (mask.sum(), [np.ptp(i) + 1 for i in mask.nonzero()[::-1]])
    numbers(page, "point-form", x=150, y=120)
    status(page, "^done")
    page.get_by_label("off it").check()
    numbers(page, "point-form", x=20, y=20)
    status(page, "^done")
    masks, iou = desktop.best_masks(points=[points], labels=[[1, 0]], boxes=[box])
    found, (mask,) = saved(page)
    assert mask_iou(mask, masks[0]) > 0.9995
    assert found["annotations"][0]["predicted_iou"] == pytest.approx(float(iou[0]), abs=1e-4)
    assert page.locator("#masks").evaluate(PAINTED) == mask.sum()


def test_everything_gives_the_masks_of_the_desktop(open_web, desktop, image):
    page = open_web()
    choose(page, png(image))
    status(page, "^400 x 281 pixels")
    page.get_by_label("points a side").fill("6")
    page.get_by_role("button", name="Everything").click()
    expected = desktop.segment_everything(image, usual_settings("nano", points_per_side=6))
    assert len(expected) > 3
    assert f"{len(expected)} masks" in status(page, "^done")
    found, masks = saved(page)
    ious = [annotation["predicted_iou"] for annotation in found["annotations"]]
    np.testing.assert_allclose(ious, [mask.predicted_iou for mask in expected], atol=1e-4)
    assert min(mask_iou(a, b.mask()) for a, b in zip(masks, expected, strict=True)) > 0.999
    with page.expect_download() as download:
        page.locator("#save-png").click()
    with Image.open(download.value.path()) as picture:
        assert picture.size == (400, 281)
        painted = np.asarray(picture)[..., 3] > 0
    np.testing.assert_array_equal(painted, np.any(masks, 0))


@pytest.mark.parametrize(("height", "width"), [(181, 256), (300, 400), (40, 30), (3, 500)])
def test_pictures_are_resized_to_the_byte_as_on_the_desktop(open_page, address, height, width):
    page = open_page(f"{address}example.jpg", expect_errors=["404"])  # it has no icon
    image = np.random.default_rng(height).integers(0, 256, (height, width, 4), np.uint8)
    longest = max(height, width)
    target = [max(1, int(side * 128 / longest + 0.5)) for side in (height, width)]
    script = """async ([pixels, from, to]) => {
        const { resize } = await import("./geometry.js");
        return btoa(String.fromCharCode(...resize(Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0)), from, to)));
    }"""
    answer = page.evaluate(script, [b64encode(image.tobytes()).decode(), [height, width], target])
    found = np.frombuffer(b64decode(answer), np.uint8)
    expected = Image.fromarray(image[..., :3]).resize(target[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.reshape(found, (*target, 4))[..., :3], np.asarray(expected))


def test_pointer_undo_and_clear(open_web, image):
    page = open_web(width=1280)
    choose(page, png(image))
    status(page, "^400 x 281 pixels")
    drag(page, 0.15, 0.3, 0.65, 0.95)
    first = status(page, "^done")
    assert page.locator("#prompts rect.box").count() == 1
    pixels = page.locator("#masks").evaluate(PAINTED)
    assert f" {pixels} pixels" in first
    page.mouse.click(*at(page, 0.4, 0.5))
    page.locator("#prompts g.on").wait_for()
    page.mouse.click(*at(page, 0.05, 0.05), button="right")
    page.keyboard.down("Shift")
    page.mouse.click(*at(page, 0.95, 0.05))
    page.keyboard.up("Shift")
    assert page.locator("#prompts g.off").count() == 2
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert page.locator("#prompts g").count() == 0
    status(page, f"^done; {pixels} pixels")
    page.get_by_role("button", name="Clear").click()
    status(page, "^drag a box")
    assert page.locator("#masks").evaluate(PAINTED) == 0
    page.mouse.click(*at(page, 0.5, 0.5), button="right")
    status(page, "at least one point must lie on the object")
    figures = page.locator("#figures").inner_text()
    assert re.search(r"encoder\s+\d+ ms", figures)


def test_touch_on_a_narrow_screen(open_web):
    page = open_web(width=390, height=844, has_touch=True, is_mobile=True)
    page.locator("#example").tap()
    status(page, "pixels; drag a box")
    page.touchscreen.tap(*at(page, 0.35, 0.73))
    status(page, "^done")
    page.get_by_label("off it").check()
    page.touchscreen.tap(*at(page, 0.9, 0.1))
    page.locator("#prompts g.off").wait_for()
    status(page, "^done")
    page.locator("details").evaluate("d => { d.open = true; }")
    widths = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert page.evaluate(widths) == [390, 390]


def test_it_works_without_a_network_and_asks_nobody_else(open_page, folder, tmp_path):
    place = tmp_path / "some" / "where"  # its addresses are relative
    shutil.copytree(folder, place)
    asked = []
    with served(tmp_path) as root:
        page = open_page(f"{root}some/where/", expect_errors=["ERR_", "example.org"])
        page.context.on("request", lambda request: asked.append(request.url))
        page.locator("body[data-ready]").wait_for(timeout=WAIT_MS)
        page.get_by_text("works without a network").wait_for(timeout=WAIT_MS)
    page.reload()
    page.locator("body[data-ready]").wait_for(timeout=WAIT_MS)
    page.locator("#example").click()
    status(page, "pixels; drag a box")
    drag(page, 0.2, 0.5, 0.55, 0.98)
    status(page, "^done")
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((f"{root}some/where/", "blob:", "data:"))] == []
    blocked = """async () => {
        const blocked = new Promise((resolve) => addEventListener("securitypolicyviolation", resolve, { once: true }));
        fetch("https://example.org/").catch(() => null);
        return (await blocked).effectiveDirective;
    }"""
    assert page.evaluate(blocked) in ("connect-src", "default-src")


def test_threads_where_there_are_processors(open_web):
    page = open_web(query="")
    assert page.evaluate("self.crossOriginIsolated")
    assert page.locator("body").get_attribute("data-ready") == str(min(4, os.cpu_count()))


def test_what_cannot_be_read_is_said_and_the_picture_stays(open_web, image):
    page = open_web()
    choose(page, png(image))
    status(page, "^400 x 281 pixels")
    choose(page, b"a text, not an image", "notes.txt")
    assert status(page, "notes.txt is not an image that this browser can read: convert it to PNG or JPEG")
    assert page.locator("#status.error").is_visible()
    drag(page, 0.15, 0.3, 0.65, 0.95)
    status(page, "^done")
    assert page.locator("#status.error").count() == 0
    numbers(page, "box-form", x0=10, y0=10, x1=900, y1=50)
    status(page, "a box must lie in the image, 400 x 281 pixels, got 900")
    numbers(page, "box-form", x0=50, y0=50, x1=20, y1=20)
    status(page, "right of its left")


def test_a_browser_without_simd_is_told(open_page, address):
    page = open_page("about:blank")
    page.add_init_script("WebAssembly.validate = () => false;")
    page.goto(address)
    status(page, "this browser lacks WebAssembly with SIMD: take a current Chrome")


def test_a_folder_that_is_not_whole_is_told(open_page, folder, tmp_path):
    place = tmp_path / "page"
    shutil.copytree(folder, place)
    graph = (place / "encoder.onnx").read_bytes()
    (place / "encoder.onnx").write_bytes(graph[:-1])
    with served(place) as address:
        status(open_page(address), f"encoder.onnx has {len(graph) - 1} bytes instead of {len(graph)}: reload the page")
        (place / "encoder.onnx").unlink()
        status(open_page(address, expect_errors=["404"]), "encoder.onnx cannot be loaded .404.: copy the whole folder")


def test_the_keyboard_alone_will_do(open_web):
    page = open_web()

    def tab_to(selector):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#example")
    page.keyboard.press("Enter")
    status(page, "pixels; drag a box")
    tab_to("summary")
    page.keyboard.press("Enter")
    for value in ("20", "130", "145", "250"):
        page.keyboard.press("Tab")
        page.keyboard.type(value)
    page.keyboard.press("Enter")
    status(page, "^done")
    nameless = page.evaluate("""() => [...document.querySelectorAll("input, select, button")]
        .filter(e => !(e.labels?.length || e.textContent.trim())).map(e => e.outerHTML)""")
    assert nameless == []
