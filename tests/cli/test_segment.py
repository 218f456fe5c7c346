import json

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco_masks import decode_mask
from quantsam.runtime.processor import adds_in_32_bits


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
    assert "IoU with int8's mask" in ran.out
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
        (("--box", "9,9,5,12"), ["left < right", "got 9,9,5,12", "width and height, give 9,9,14,21"]),
        (("--box", "9,9,-5,12"), ["left < right", "got 9,9,-5,12: give x0,y0,x1,y1\n"]),
        (("--box", "200,0,210,9"), ["must overlap the image, 90 x 60 pixels", "got 200,0,210,9"]),
        (("--point", "90,5"), ["must lie in the image, 90 x 60 pixels", "got 90,5"]),
        (("--point", "5,-1"), ["must lie in the image", "got 5,-1"]),
        (("--point", "5,5,2"), ["label must be 1", "got 2"]),
        (("--point", "5,5,0"), ["add a point with label 1"]),
        (("--point", "5,5", "--box", "1,1,9,9", "--box", "2,2,9,9"), ["points may go with one box, got 2 boxes"]),
        (("--everything", "--points-per-side", 0), ["--points-per-side"]),
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


@pytest.mark.parametrize(("suffix", "form"), [(".png", "PNG"), (".jpg", "JPEG"), (".WEBP", "WEBP"), (".tif", "TIFF")])
def test_the_picture_has_the_format_that_its_name_says(run, picture, tmp_path, suffix, form):
    out = tmp_path / f"o{suffix}"
    assert run("segment", picture, "--box", "30,20,70,45", "--out", out).code == 0
    with Image.open(out) as drawn:
        assert drawn.format == form


@pytest.mark.parametrize("way", ["its own name", "a link", "a hard link", "a way round"])
@pytest.mark.parametrize("option", ["--out", "--masks"])
def test_what_is_read_is_never_replaced(run, picture, tmp_path, monkeypatch, way, option):
    """The picture by whatever name, whatever would be written."""
    monkeypatch.chdir(tmp_path)
    before, same = picture.read_bytes(), tmp_path / ("same.png" if option == "--out" else "same.json")
    {
        "its own name": lambda: picture.rename(same),
        "a link": lambda: same.symlink_to(picture),
        "a hard link": lambda: same.hardlink_to(picture),
        "a way round": lambda: picture.rename(same),
    }[way]()
    given = picture if picture.exists() else same
    out = tmp_path / ".." / tmp_path.name / same.name if way == "a way round" else same
    ran = run("segment", given, "--box", "1,1,9,9", option, out)
    ran.complains(2, option, "would replace", "which this command reads")
    assert given.read_bytes() == before
    assert not (tmp_path / "photo-masks.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "o.gif"), ["--out must end in .png, .jpg", "got 'o.gif'"]),
        (("--out", "o"), ["--out must end in"]),
        (("--masks", "m.png"), ["--masks must end in .json", "got 'm.png'"]),
        (("--min-iou", "0.4"), ["--min-iou is of --everything"]),
        (("--engine", "openvino"), ["--engine is of --bundle"]),
    ],
)
def test_options_that_make_no_sense(run, picture, monkeypatch, tmp_path, left, arguments, words):
    monkeypatch.chdir(tmp_path)
    run("segment", picture, "--box", "1,1,9,9", *arguments).complains(2, *words)
    assert left(tmp_path) == ["photo.png"]


def test_a_place_that_cannot_be_written_is_found_before_the_work(run, picture, monkeypatch):
    monkeypatch.setattr("quantsam.cli.segment._loaded", lambda *_: pytest.fail("worked"))
    run("segment", picture, "--box", "1,1,9,9", "--out", "/proc/o.png").complains(1, "/proc is not writable")


def test_a_picture_too_large_for_its_format(run, picture, monkeypatch, tmp_path):
    def too_large(self, *_args, **_more):
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr(Image.Image, "save", too_large)
    ran = run("segment", picture, "--box", "1,1,9,9", "--out", tmp_path / "o.webp")
    ran.complains(1, "WEBP does not take an image of 90 x 60 pixels", "a name that ends in .png")


def test_a_box_beyond_the_picture_is_cut_and_told_of(run, picture, tmp_path):
    out = ("--out", tmp_path / "o.png", "--json")
    ran = run("segment", picture, "--box", "30,20,700,450", *out)
    assert "the box 30,20,700,450 reaches beyond the image, 90 x 60 pixels, and is cut to 30,20,90,60" in ran.err
    (cut,) = ran.json["masks"]["fp32"]
    (same,) = run("segment", picture, "--box", "30,20,90,60", *out).json["masks"]["fp32"]
    assert cut == same
    assert run("segment", picture, "--box", "-0.5,0,90.4,60", *out).err == ""  # a detector's rounding


@pytest.mark.parametrize(
    ("prompt", "pixels"), [(("--box", "0.1,0.2,0.5,1"), "9,12,45,60"), (("--point", "0.5,0.25"), "45,15")]
)
def test_shares_of_the_sides_are_no_pixels(run, picture, prompt, pixels):
    run("segment", picture, *prompt).complains(2, "must be in pixels of the image, 90 x 60", f"give {pixels}")


def test_everything_says_what_was_left_out_and_by_what(run, picture, tmp_path):
    line = ("segment", picture, "--everything", "--points-per-side", 2, "--out", tmp_path / "o.png")
    strict = run(*line, "--min-iou", 1).out
    assert "fp32: 0 masks; of 12 masks 12 have a predicted IoU of at most 1 (" in strict
    assert "nearly; the highest: 0." in strict
    assert strict.splitlines()[0].endswith("; lower --min-iou")
    all_kept = run(*line, "--min-iou", 0, "--min-stability", 0).out
    assert "a predicted IoU of at most" not in all_kept
    shaky = run(*line, "--min-iou", 0, "--min-stability", 1).out
    assert "a stability below 1 (" in shaky
    assert "lower --min-stability" in shaky


def test_nano_has_thresholds_of_its_own(run, picture, tmp_path, monkeypatch):
    import quantsam.runtime.picture as module

    seen = []
    monkeypatch.setattr(module, "segment_picture", lambda *_args, grid, **_more: seen.append(grid) or [])
    line = ("segment", picture, "--everything", "--out", tmp_path / "o.png")
    assert run(*line).code == 0
    assert run(*line, "--min-stability", 0.9, "--points-per-side", 8).code == 0
    assert [(g.iou_threshold, g.stability_threshold, g.points_per_side) for g in seen] == [
        (0.5, 0.5, 32),
        (0.5, 0.9, 8),
    ]


def odd_pictures():
    """Pictures that people have: name, how it is made."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    rgb = Image.fromarray(noise)
    grey16 = Image.fromarray(noise[..., 0].astype(np.uint16) << 8)
    return {
        "grey.png": rgb.convert("L"),
        "grey-alpha.png": rgb.convert("LA"),
        "palette.png": rgb.convert("P"),
        "alpha.png": rgb.convert("RGBA"),
        "one-bit.png": rgb.convert("1"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "sixteen.png": grey16,
        "lab.tif": rgb.convert("LAB"),
        "animated.gif": rgb,
        "one-pixel.png": rgb.resize((1, 1)),
        "line.png": rgb.resize((300, 1)),
        "column.png": rgb.resize((2, 300)),
        "no-suffix": rgb,
        "büro [1] $x 'y'.png": rgb,
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    image = odd_pictures()[name]
    more = {"save_all": True, "append_images": [image]} if name.endswith("gif") else {}
    image.save(name, format=None if "." in name else "PNG", **more)
    for prompt in (("--point", "0,0"), ("--everything", "--points-per-side", 2, "--min-iou", 0, "--min-stability", 0)):
        ran = run("segment", name, *prompt)
        assert (ran.code, ran.err) == (0, ""), name
    with Image.open(f"{name.rpartition('.')[0] or name}-masks.png") as drawn:
        assert drawn.size == image.size


def test_a_bundle_for_tensorrt_names_the_engines_that_run_it(run, picture, tmp_path):
    bundle = tmp_path / "trt"
    exported = run("export", "--engine", "tensorrt", "--calibration", "scenes:1:1", "--out", bundle)
    assert exported.code == 0
    assert "no TensorRT has run it yet" in exported.out
    assert "checked" not in exported.out
    line = ("segment", picture, "--box", "30,20,70,45", "--out", tmp_path / "o.png", "--bundle", bundle)
    for command in (line, ("verify", bundle)):
        for engine in ((), ("--engine", "tensorrt")):
            ran = run(*command, *engine)
            ran.complains(
                2, "TensorRT does not run bundles on the processor", "--engine onnxruntime or --engine openvino"
            )
    assert run(*line, "--engine", "onnxruntime").code == 0
    ran = run(*line, "--engine", "openvino")
    if adds_in_32_bits("openvino"):
        assert ran.code == 0
    else:  # weights for TensorRT are full 8-bit ones, and ONNX Runtime alone has a way out
        ran.complains(1, "of exact integers", "--processors any, or for onnxruntime")
    own = (bundle / "manifest.json").read_bytes()
    run(*line, "--masks", bundle / "manifest.json", "--engine", "openvino").complains(2, "--masks would replace")
    assert (bundle / "manifest.json").read_bytes() == own


def test_a_bundle_on_another_engine_says_where_it_is_from(run, picture, tmp_path):
    bundle = tmp_path / "a b"
    exported = run("export", "--engine", "openvino", "--calibration", "scenes:1:1", "--out", bundle)
    assert f"--bundle '{bundle}'" in exported.out  # can be pasted
    line = ("segment", picture, "--box", "30,20,70,45", "--out", tmp_path / "o.png", "--bundle", bundle)
    ran = run(*line, "--engine", "onnxruntime")
    ran.complains(1, "was exported for openvino, and onnxruntime cannot run", "open it with openvino")
    assert [scrap for scrap in ("ctType", "ActType", "::", "false") if scrap in ran.err] == []
