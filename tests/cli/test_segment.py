import json

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco_masks import decode_mask


@pytest.fixture
def picture(tmp_path):
    pixels = np.full((60, 90, 3), 40, np.uint8)
    pixels[20:45, 30:70] = (220, 180, 60)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def test_a_box_and_its_picture(run, picture, tmp_path):
    out, masks = tmp_path / "o.png", tmp_path / "m.json"
    ran = run("segment", picture, "--box", "30,20,70,45", "--out", out, "--masks", masks)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("mask 1: ")
    assert "predicted IoU" in ran.out
    with Image.open(out) as opened:
        drawn = np.asarray(opened)
    assert drawn.shape == (60, 90, 3)
    (mask,) = json.loads(masks.read_text())
    assert mask["box_xyxy"] == [30, 20, 70, 45]
    assert int(decode_mask(mask["segmentation"], (60, 90), "mask").sum()) == mask["area"]
    assert mask["area"] > 0
    assert tuple(drawn[20, 50]) == (255, 196, 0)  # the prompt's upper side


def test_several_boxes_are_several_masks_and_points_are_one(run, picture, tmp_path):
    out = ("--out", tmp_path / "o.png", "--json")
    boxes = run("segment", picture, "--box", "30,20,70,45", "--box", "0,0,20,20", *out).json
    assert len(boxes["masks"]["fp32"]) == 2
    points = run("segment", picture, "--point", "50,30", "--point", "5,5,0", *out).json
    (mask,) = points["masks"]["fp32"]
    assert (mask["points_xy"], mask["labels"]) == ([[50, 30], [5, 5]], [1, 0])
    (both,) = run("segment", picture, "--point", "50,30", "--box", "30,20,70,45", *out).json["masks"]["fp32"]
    assert both["box_xyxy"] == [30, 20, 70, 45]


def test_a_scheme_is_drawn_beside_the_float_model(run, picture, tmp_path):
    line = ("segment", picture, "--box", "30,20,70,45", "--out", tmp_path / "o.png", "--calibration", "scenes:1:1")
    ran = run(*line, "--scheme", "int8")
    assert (ran.code, ran.err) == (0, "")
    assert "IoU of the two" in ran.out
    with Image.open(tmp_path / "o.png") as drawn:
        assert drawn.size == (2 * (90 + 8) + 8, 60 + 26 + 8)
    both = run(*line, "--scheme", "w8a16", "--json").json
    assert list(both["masks"]) == ["fp32", "w8a16"]
    assert 0 <= both["iou_with_fp32"][0] <= 1


def test_the_float_scheme_needs_no_second_picture(run, picture, tmp_path):
    line = ("segment", picture, "--box", "30,20,70,45", "--out", tmp_path / "o.png")
    assert list(run(*line, "--scheme", "fp32", "--json").json["masks"]) == ["fp32"]


def test_everything(run, picture, tmp_path):
    line = ("segment", picture, "--everything", "--points-per-side", 4, "--min-iou", 0, "--min-stability", 0)
    ran = run(*line, "--out", tmp_path / "o.png", "--json")
    masks = ran.json["masks"]["fp32"]
    assert masks
    assert {"segmentation", "stability_score", "point_coords"} <= masks[0].keys()
    assert "masks" in run(*line, "--out", tmp_path / "o.png").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["needs --box, --point or --everything", "try --everything"]),
        (("--everything", "--box", "1,1,5,5"), ["--everything excludes the others"]),
        (("--box", "1,2,3"), ["x0,y0,x1,y1", "got '1,2,3'"]),
        (("--box", "1,2,3,nan"), ["got '1,2,3,nan'"]),
        (("--box", "9,9,5,12"), ["left < right", "got 9,9,5,12"]),
        (("--box", "200,0,210,9"), ["must overlap the picture, 90 x 60 pixels", "got 200,0,210,9"]),
        (("--point", "90,5"), ["must lie in the picture, 90 x 60 pixels", "got 90,5"]),
        (("--point", "5,-1"), ["must lie in the picture", "got 5,-1"]),
        (("--point", "5,5,2"), ["label must be 1", "got 2"]),
        (("--point", "5,5,0"), ["add a point with label 1"]),
        (("--point", "5,5", "--box", "1,1,9,9", "--box", "2,2,9,9"), ["points may go with one box, got 2 boxes"]),
        (("--everything", "--points-per-side", 0), ["points_per_side"]),
        (("--box", "1,1,9,9", "--model", "nanu"), ["did you mean 'nano'?"]),
        (("--box", "1,1,9,9", "--out", "/no/such/folder/o.png"), ["/no/such/folder"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, picture, left, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    ran = run("segment", picture, *arguments)
    ran.complains(1 if "/no/such/folder/o.png" in arguments else 2, *words)
    assert left(tmp_path) == ["photo.png"]


def test_a_missing_picture(run, tmp_path):
    run("segment", tmp_path / "no.jpg", "--everything").complains(1, "no.jpg")
