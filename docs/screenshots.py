"""Take the images of docs/img/ anew: masks before and after repair, the demonstration's report, the local page.

python docs/screenshots.py [--report quantsam-demo/report.html] [--only collapse]

Needs OpenVINO, and but for the masks Chromium and Playwright. Without a report the demonstration is run first.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import quantsam as qs
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.metrics.iou import mask_iou
from quantsam.report.overlay import overlay, side_by_side

IMAGES = Path(__file__).parent / "img"
COMMAND = [sys.executable, "-c", "from quantsam.cli.main import run; run()"]
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDE, NARROW = 1280, 390
SCENE, HELD_OUT_SEED = 7, 3  # the image of the masks: neither calibrated on nor searched on


def keep(name: str, png: bytes) -> None:
    """Write an image with at most 256 colours: a quarter of its size, and nobody sees it."""
    path = IMAGES / f"{name}.png"
    Image.open(BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def collapse_picture() -> None:
    """Draw one image's masks of nano-hard: in float, in INT8 and in repaired INT8, both on OpenVINO."""
    model = qs.load_model("nano-hard")
    images = qs.open_images("scenes:32:1")
    plan = qs.calibrate(model, qs.make_plan(model, "int8", "openvino"), images)
    repaired = qs.repair_plan(model, plan, images)
    scenes = qs.SceneDataset(SCENE + 1, seed=HELD_OUT_SEED)
    image, annotations = scenes.image(scenes.image_ids[SCENE]), scenes.annotations(scenes.image_ids[SCENE])
    boxes = torch.tensor([annotation.box_xyxy for annotation in annotations])
    panels, titles = [], []
    bare = qs.make_plan(model, "fp32", "openvino")
    for title, shown in (("FP32", bare), ("INT8", plan), ("INT8, repaired", repaired)):
        predictor = qs.Predictor(model.with_encoder(qs.make_engine_encoder(model, shown, "openvino")))
        predictor.set_image(image)
        answers, predicted_iou, _ = predictor.predict_batch(boxes=boxes)
        masks = answers[torch.arange(len(boxes)), predicted_iou.argmax(1)].numpy()
        iou = np.mean([mask_iou(mask, scenes.mask(a)) for mask, a in zip(masks, annotations, strict=True)])
        panel = overlay(image, list(masks), [annotation.box_xyxy for annotation in annotations])
        panels.append(panel.resize((2 * panel.width, 2 * panel.height), Image.Resampling.LANCZOS))
        mib = encoder_to_onnx(model, shown).ByteSize() / 2**20
        titles.append(f"{title}: IoU {100 * iou:.0f} %, {mib:.1f} MiB")
    picture = BytesIO()
    side_by_side(panels, titles).save(picture, "PNG")
    keep("collapse", picture.getvalue())


def report_pictures(browser: Browser, report: Path) -> None:
    """Take the report from the top, its layers and its distributions, and as a telephone shows it."""
    page = browser.new_page(viewport={"width": WIDE, "height": 1000})
    page.goto(report.resolve().as_uri())
    page.evaluate("quantsamReport.drawAll()")
    page.wait_for_timeout(500)
    keep("report", page.screenshot())
    for name, part in (("masks", "masks"), ("layers", "layers"), ("distributions", "values")):
        place = page.locator(f"#nano-hard--{part}")
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        assert box is not None
        clip = {"x": 0, "y": box["y"] + page.evaluate("scrollY"), "width": WIDE, "height": min(box["height"], 720)}
        keep(f"report-{name}", page.screenshot(full_page=True, clip=clip))  # type: ignore[arg-type]
    narrow = browser.new_page(viewport={"width": NARROW, "height": 844}, color_scheme="dark")
    narrow.goto(report.resolve().as_uri())
    narrow.evaluate("quantsamReport.drawAll()")
    narrow.wait_for_timeout(500)
    keep("report-narrow", narrow.screenshot())


@contextmanager
def served() -> Iterator[str]:
    """Serve the local page and give its address."""
    process = subprocess.Popen(
        [*COMMAND, "app", "--model", "nano-outlier", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield next(word for word in process.stdout.readline().split() if word.startswith("http"))
    finally:
        process.terminate()
        process.wait()


def app_picture(page: Page, address: str) -> None:
    """Drag a box on an example and mark the differences."""
    page.goto(address)
    page.locator("#examples button").nth(1).click()
    picture = page.locator(".stage").first
    picture.wait_for()
    box = picture.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.30 * box["width"], box["y"] + 0.43 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.85 * box["width"], box["y"] + 0.93 * box["height"], steps=5)
    page.mouse.up()
    page.locator("#status-text", has_text="done").wait_for(timeout=120_000)
    page.get_by_label("mark differences").check()
    page.wait_for_timeout(500)
    keep("app", page.screenshot())


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("quantsam-demo/report.html"))
    parser.add_argument("--only", choices=["collapse"])
    args = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    collapse_picture()
    if args.only:
        return
    if not args.report.exists():
        subprocess.run([*COMMAND, "demo", "--out", str(args.report.parent)], check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_OPTIONS)
        report_pictures(browser, args.report)
        with served() as address:
            app_picture(browser.new_page(viewport={"width": WIDE, "height": 900}), address)
        browser.close()


if __name__ == "__main__":
    main()
