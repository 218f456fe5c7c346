"""The local page's server: what it answers."""

import dataclasses
import io
import json
import re
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from quantsam.app import pictures, quantized
from quantsam.app.catalogue import Catalogue
from quantsam.app.limits import Limits
from quantsam.app.panels import run_lengths
from quantsam.app.pictures import EXAMPLES, make_picture, read_picture
from quantsam.app.requests import parse_request
from quantsam.app.server import PAGE
from quantsam.evaluation.quantized import quantized_model
from quantsam.evaluation.record_fields import sizes
from quantsam.prediction.automatic import segment_everything
from quantsam.prediction.grid import GridSettings, usual_settings
from quantsam.prediction.segmenter import ModelSegmenter
from quantsam.repair.calibrated import calibrated_plans
from quantsam.runtime import picture
from quantsam.runtime.picture import PicturePrompts, agreements, segment_picture
from quantsam.schemes.load import load_scheme


def iou_of_runs(*masks):
    a, b = (np.repeat(np.arange(len(mask["runs"])) % 2 == 1, mask["runs"]) for mask in masks)
    return (a & b).sum() / (a | b).sum()


def areas(panel):
    return [sum(mask["runs"][1::2]) for mask in panel["masks"]]


def test_masks_iou_and_size_are_those_of_the_library(served, catalogue, tiny, noise):
    pixels, box = noise(), (4.0, 4.0, 40.0, 40.0)
    fp32, int8, done = served.ask(served.upload(pixels))
    (plan,) = calibrated_plans(tiny, [load_scheme("int8")], catalogue.calibration["tiny"])
    quantized = quantized_model(tiny, plan)
    expected = [segment_picture(ModelSegmenter(model), pixels, PicturePrompts((box,))) for model in (tiny, quantized)]
    assert done == {"event": "done"}
    assert [fp32["name"], int8["name"]] == ["fp32", "int8"]
    for panel, masks in zip((fp32, int8), expected, strict=True):
        assert panel["masks"][0]["runs"] == run_lengths(masks[0].mask)
        assert panel["masks"][0]["area"] == masks[0].mask.sum()
        assert panel["encoder_ms"] > 0
        assert panel["decoder_ms"] > 0
    assert fp32["ious"] is None
    assert int8["ious"] == agreements(*expected, paired=True)
    assert 0 < int8["ious"][0] < 1
    assert [p["size_bytes"] for p in (fp32, int8)] == [sizes(m)["size_bytes"] for m in (tiny, quantized)]


def test_points_refine_a_box_and_several_boxes_give_a_mask_each(served, noise):
    token = served.upload(noise())
    boxes = [[4, 4, 40, 40], [10, 10, 60, 44]]
    two, int8, _ = served.ask(token, boxes=boxes)
    separate = [served.ask(token, boxes=[box])[1]["ious"][0] for box in boxes]
    assert int8["ious"] == separate
    assert separate == [iou_of_runs(*(panel["masks"][i] for panel in (two, int8))) for i in range(2)]
    alone = [served.ask(token, boxes=[box], schemes=[])[0]["masks"][0] for box in boxes]
    assert [mask["runs"] for mask in two["masks"]] == [mask["runs"] for mask in alone]
    refined, *_ = served.ask(token, boxes=boxes[:1], points=[[20, 20], [60, 44]], labels=[1, 0], schemes=[])
    assert refined["masks"][0]["runs"] != alone[0]["runs"]


def test_everything_is_found_at_the_resolution_of_the_view(served, tiny, noise, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW_SIDE", 32)
    pixels = noise()
    token = served.upload(pixels)
    grid = {"points_per_side": 4, "min_iou": 0, "min_stability": 0}
    fp32, int8, _ = served.ask(token, everything=True, grid=grid)
    settings = GridSettings(points_per_side=4, iou_threshold=0, stability_threshold=0)
    full = segment_everything(tiny, pixels, settings)
    assert fp32["masks"]
    assert sum(fp32["masks"][0]["runs"]) == 24 * 32
    assert len(int8["ious"]) == len(fp32["masks"])
    assert fp32["masks"][0]["predicted_iou"] == pytest.approx(full[0].predicted_iou, rel=1e-3)


@pytest.mark.parametrize(("most", "kept"), [(2, 2), (5, 5), (9, 5)])
def test_of_too_many_masks_the_best_are_kept_and_it_is_said(serve, noise, five_found, most, kept):
    served = serve(masks=most)
    text = served.post(served.upload(noise()), everything=True).text
    events = [json.loads(line) for line in text.splitlines()]
    fp32, int8 = (event for event in events if event["event"] == "panel")
    for panel in (fp32, int8):
        assert [mask["predicted_iou"] for mask in panel["masks"]] == [0.9 - 0.1 * i for i in range(kept)]
        assert panel["left_out"] == 5 - kept
    assert int8["ious"] == [1.0] * kept
    said = [event["text"] for event in events if event["event"] == "status" and "are kept" in event["text"]]
    assert said == [f"{name} found 5 masks; the best 2 are kept" for name in ("fp32", "int8") if most < 5]


def test_the_grid_is_the_models_usual_one_where_a_request_does_not_say(served, catalogue):
    asked = {"picture": "p", "model": "tiny", "engine": "pytorch", "everything": True}
    options = served.client.get("/api/options").json()["models"][0]["everything"]
    usual = GridSettings(points_per_side=16)
    assert options == {
        "points_per_side": 16,
        "min_iou": usual.iou_threshold,
        "min_stability": usual.stability_threshold,
    }
    found = parse_request(json.dumps(asked).encode(), catalogue, Limits())
    assert found.grid == usual
    found = parse_request(json.dumps(asked | {"grid": {"min_iou": 0.5}}).encode(), catalogue, Limits())
    assert found.grid == dataclasses.replace(usual, iou_threshold=0.5)
    nano = Catalogue({"nano": None}, {}, ("pytorch",), {})
    found = parse_request(json.dumps(asked | {"model": "nano"}).encode(), nano, Limits())
    assert found.grid == usual_settings("nano", points_per_side=16)


def test_masks_are_not_compressed_for_the_page(served, noise, monkeypatch):
    compressed = []
    monkeypatch.setattr(picture, "encode_mask", lambda mask: compressed.append(mask))
    panels = served.ask(served.upload(noise()), boxes=[[4, 4, 40, 40], [10, 10, 60, 44]])[:2]
    assert [len(panel["masks"]) for panel in panels] == [2, 2]
    assert compressed == []


def test_found_masks_are_compared_with_the_nearest(served, noise, monkeypatch):
    paired = []
    monkeypatch.setattr("quantsam.app.panels.agreements", lambda *_, **options: paired.append(options["paired"]) or [])
    served.ask(served.upload(noise()), everything=True, grid={"points_per_side": 1})
    assert paired == [False]


def test_an_engine_runs_fp32_and_the_scheme(served, noise, monkeypatch):
    pytest.importorskip("onnxruntime")
    made = []

    def spy(model, plan, engine):
        made.append((plan.scheme, plan.placement, engine))
        return quantized_model(model, plan, engine)

    monkeypatch.setattr(quantized, "quantized_model", spy)
    token = served.upload(noise())
    simulated, real = (served.ask(token, engine=engine) for engine in ("pytorch", "onnxruntime"))
    assert areas(real[0]) == pytest.approx(areas(simulated[0]), rel=0.01)
    assert real[1]["size_bytes"] < real[0]["size_bytes"] / 2
    places = (("thesis", "pytorch"), ("onnxruntime", "onnxruntime"))
    assert made == [(scheme, *place) for place in places for scheme in ("fp32", "int8")]


def test_a_scheme_that_the_engine_has_not_fails_alone(serve, catalogue, noise):
    pytest.importorskip("onnxruntime")
    chosen = {name: load_scheme(name) for name in ("fp8_e4m3@stage4", "int8")}
    served = serve(Catalogue(catalogue.models, chosen, ("onnxruntime",), catalogue.calibration))
    _, wrong, right, done = served.ask(served.upload(noise()), engine="onnxruntime", schemes=list(chosen))
    assert "fp8_e4m3" in wrong["error"]
    assert right["ious"]
    assert done == {"event": "done"}


def test_a_large_picture_is_shown_small_and_prompted_in_its_own_pixels(served, noise, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW_SIDE", 32)
    answer = served.client.post("/api/pictures", content=_png(noise()))
    found = answer.json()
    assert [found[key] for key in ("width", "height", "view_width", "view_height")] == [64, 48, 32, 24]
    fp32, *_ = served.ask(found["picture"], boxes=[[30, 20, 64, 48]], schemes=[])
    assert sum(fp32["masks"][0]["runs"]) == 24 * 32


def test_a_view_takes_the_pixel_in_its_centre():
    whole = make_picture(np.zeros((2, 4, 3), np.uint8))
    small = type(whole)(whole.pixels, b"", (1, 2))
    mask = np.array([[0, 0, 0, 0], [0, 1, 0, 0]], bool)
    assert small.to_view(mask).tolist() == [[True, False]]
    assert whole.to_view(mask) is mask


def test_exif_orientation_is_heeded(noise):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(file, "JPEG", exif=exif)
    assert read_picture(file.getvalue(), 10_000).image_hw == (64, 48)


def test_statuses_say_what_takes_time(served, noise):
    text = served.post(served.upload(noise())).text
    statuses = [event["text"] for event in map(json.loads, text.splitlines()) if event["event"] == "status"]
    assert [s for s in statuses if s.startswith("calibrating")][-1].endswith("2 of 2")
    assert "segmenting with int8" in statuses


def test_the_page_its_options_and_examples(served):
    for path, (name, media_type) in PAGE.items():
        answer = served.client.get(path)
        assert answer.content == (resources.files("quantsam.app") / "page" / name).read_bytes()
        assert answer.headers["content-type"].startswith(media_type)
    options = served.client.get("/api/options").json()
    assert [model["name"] for model in options["models"]] == ["tiny", "other"]
    number = options["examples"][0]
    assert served.client.get(f"/api/examples/{number}").content[:2] == b"\xff\xd8"
    taken = served.client.post(f"/api/examples/{number}").json()
    assert served.client.get(f"/api/pictures/{taken['picture']}").content[:2] == b"\xff\xd8"
    assert served.client.post(f"/api/examples/{max(EXAMPLES) + 1}").status_code == 404


def test_no_page_file_is_forgotten():
    there = {entry.name for entry in (resources.files("quantsam.app") / "page").iterdir()}
    assert there == {name for name, _ in PAGE.values()}


def test_the_page_asks_for_nothing_from_elsewhere():
    for entry in (resources.files("quantsam.app") / "page").iterdir():
        text = entry.read_text("utf-8")
        assert set(re.findall(r"https?://[\w.]*", text)) <= {"http://www.w3.org"}, entry.name
        assert not re.search(r"@import|url\(|\sstyle=|\son\w+=|eval\(", text), entry.name


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
