"""Broken data of every kind: one clear line, and nothing half-written."""

import shutil

import numpy as np
import pytest
from PIL import Image

from .conftest import annotation_file, edit


@pytest.fixture
def photographs(tmp_path):
    """A folder of two good pictures, for calibration."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:600])


DAMAGE = {
    "truncated": (truncate, "damaged"),
    "zero bytes": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("a text, not an image"), "not an image"),
    "a dangling link": (lambda path: (path.unlink(), path.symlink_to("nowhere.jpg")), None),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_broken_calibration_picture(run, photographs, tmp_path, kind):
    break_it, word = DAMAGE[kind]
    break_it(photographs / "1.jpg")
    ran = run("calibrate", "--calibration", photographs, "--out", tmp_path / "plan")
    if word is None:  # a link to nothing is no picture, the other one is used
        assert ran.code == 0
        assert "calibrated on 1 images" in ran.out
        return
    ran.complains(1, str(photographs / "1.jpg"), word)
    assert [path.name for path in tmp_path.iterdir()] == ["photographs"]


def test_an_empty_calibration_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = run("calibrate", "--calibration", tmp_path / "empty", "--out", tmp_path / "plan")
    ran.complains(1, "empty has no images", ".jpg")
    assert not (tmp_path / "plan").exists()


def test_a_missing_calibration_folder_and_too_high_a_limit(run, photographs, tmp_path):
    line = ("calibrate", "--out", tmp_path / "plan", "--calibration")
    run(*line, tmp_path / "absent").complains(1, "absent")
    run(*line, photographs, "--calibration-images", "3").complains(2, "at most 2", "got 3")
    run(*line, photographs / "0.jpg").complains(1, "0.jpg", "is a file")


def test_calibration_pictures_of_one_colour(run, photographs, tmp_path):
    for path in photographs.iterdir():
        Image.new("RGB", (64, 64), (90, 90, 90)).save(path)
    ran = run("calibrate", "--calibration", photographs, "--out", tmp_path / "plan")
    ran.complains(1, "of a single colour: use real images")
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["not valid JSON"]),
        ("{", ["not valid JSON"]),
        ("[1, 2]", ["not a COCO annotation file", "got list"]),
        ('{"hello": 1}', ["not a COCO annotation file", "`images`"]),
        ('{"images": [], "annotations": []}', ["lists no images"]),
        ('[{"image_id": 1, "score": 0.5}]', ["results file"]),
    ],
)
def test_annotations_that_are_not_coco(run, own_coco, own_store, content, words):
    annotation_file(own_coco).write_text(content)
    run("evaluate", "--data", own_coco).complains(1, "instances_val2017.json", *words)
    assert not own_store.exists()


def test_annotations_that_name_missing_images(run, own_coco, own_store):
    (own_coco / "val2017" / "000000000002.png").unlink()
    run("evaluate", "--data", own_coco).complains(1, "1 of the 2 images", "'000000000002.png'", "complete the download")
    assert not own_store.exists()


def test_an_annotation_of_an_unknown_image(run, own_coco):
    edit(own_coco, lambda document: document["annotations"][0].update(image_id=99))
    run("evaluate", "--data", own_coco, "--strict").complains(1, "99", "does not list", "--strict")


def test_a_path_that_leaves_the_folder(run, own_coco):
    edit(own_coco, lambda document: document["images"][0].update(file_name="../../etc/passwd.png"))
    run("evaluate", "--data", own_coco).complains(1, "`file_name`", "stay in the image folder")


def test_nothing_but_crowds(run, own_coco, own_store):
    edit(own_coco, lambda document: [a.update(iscrowd=1) for a in document["annotations"]])
    run("evaluate", "--data", own_coco, "--no-crowds").complains(1, "must have an object to score", "without crowds")
    assert not own_store.exists()


@pytest.mark.parametrize("kind", ["truncated", "zero bytes", "text"])
def test_a_broken_picture_among_those_to_score(run, own_coco, own_store, kind):
    break_it, word = DAMAGE[kind]
    break_it(own_coco / "val2017" / "000000000002.png")
    run("evaluate", "--data", own_coco).complains(1, "000000000002.png", word)
    assert not own_store.exists()


def test_a_picture_of_another_size(run, own_coco):
    Image.new("RGB", (32, 64)).save(own_coco / "val2017" / "000000000001.png")
    run("evaluate", "--data", own_coco).complains(1, "32 x 64", "64 x 64")


def test_a_folder_without_annotations_cannot_be_scored_on(run, photographs):
    run("evaluate", "--data", photographs).complains(1, "no folder `annotations`", "scenes:300")


@pytest.mark.parametrize("name", ["plan.json", "params.safetensors"])
@pytest.mark.parametrize("damage", ["absent", "empty", "half", "noise"])
def test_a_damaged_plan(run, plan, tmp_path, name, damage):
    file = shutil.copytree(plan, tmp_path / "plan") / name
    content = file.read_bytes()
    file.unlink()
    if damage != "absent":
        file.write_bytes({"empty": b"", "half": content[: len(content) // 2], "noise": b"\xff" * 99}[damage])
    run("evaluate", "--data", "scenes:1", "--plan", tmp_path / "plan").complains(1, "plan", "calibrate")


def test_a_scheme_for_layers_that_the_model_has_not(run, tmp_path):
    (tmp_path / "own.toml").write_text(
        '[[rules]]\nselect = { stage = "stage3", block = 40 }\nweight = "int8"\nactivation = "int8"\n'
    )
    ran = run("calibrate", "--scheme", tmp_path / "own.toml", "--calibration", "scenes:1", "--out", tmp_path / "plan")
    ran.complains(2, "rule 1", "must match a layer of nano", "quantsam layers nano")
    assert not (tmp_path / "plan").exists()
