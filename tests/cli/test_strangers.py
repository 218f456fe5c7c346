"""Files of other tools, from the command line: figures, or one clear line before the work."""

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantsam.results.store import ResultStore

from .conftest import annotation_file, edit


def figures(ran):
    (record,) = ran.json
    return record["figures"]


# crowds


@pytest.fixture
def with_a_crowd(own_coco):
    edit(own_coco, lambda document: document["annotations"][0].update(iscrowd=1))
    return own_coco


def test_crowds_are_scored_as_by_the_authors_or_left_out(run, coco, with_a_crowd, own_store):
    (official,) = run("evaluate", "--data", coco, "--json").json
    (scored,) = run("evaluate", "--data", with_a_crowd, "--json").json
    (left_out,) = run("evaluate", "--data", with_a_crowd, "--no-crowds", "--json").json
    assert scored["figures"] == official["figures"]
    assert left_out["figures"]["count"] == scored["figures"]["count"] - 1
    assert left_out["figures"]["miou"] != scored["figures"]["miou"]
    assert (scored["settings"]["crowds"], left_out["settings"]["crowds"]) == (True, False)
    assert (scored["dataset"], left_out["dataset"]) == ("toy:val2017", "toy:val2017 without crowds")
    records, total = ResultStore(own_store).newest(10)
    assert len(records) == total == 3  # none takes another's place
    ran = run("results", "--compare", scored["id"], left_out["id"])
    ran.complains(2, "must be of the same data")


def test_the_rule_for_crowds_holds_in_every_command(run, with_a_crowd):
    for command in (("sensitivity", "nano", "--by", "stage", "--first", "2", "--calibration", "scenes:1:1"),):
        (scored, left_out) = (
            run(*command, "--data", with_a_crowd, *more, "--json").json for more in ((), ("--no-crowds",))
        )
        assert scored["figures"]["count"] == left_out["figures"]["count"] + 1
    done = [run("sweep", "--set", f"data={with_a_crowd}", "--set", "crowds=yes,no")]
    assert done[0].code == 0, done[0].err
    found = run("results", "--kind", "evaluate", "--json").json
    assert {record["settings"]["crowds"] for record in found} == {True, False}
    run("sweep", "--set", "crowds=maybe").complains(2, "crowds must be yes or no, got 'maybe'")


def test_average_precision_has_a_rule_of_its_own(run, with_a_crowd, tmp_path):
    (tmp_path / "d.json").write_text("[]")
    line = ("evaluate", "--data", with_a_crowd, "--detections", tmp_path / "d.json", "--no-crowds")
    run(*line).complains(2, "--no-crowds", "--detections")


# annotations


def test_what_is_never_scored_is_told_of_and_the_figures_stand(run, coco, own_coco):
    expected = figures(run("evaluate", "--data", coco, "--json"))
    more = {
        "id": 999,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [],
        "area": 0,
        "bbox": [0, 0, 0, 0],
        "iscrowd": 0,
    }
    edit(own_coco, lambda document: document["annotations"].extend([more, more | {"id": 1000, "image_id": 77}]))
    ran = run("evaluate", "--data", own_coco, "--json")
    assert figures(ran) == expected
    assert ran.err.startswith("quantsam: note: ")
    assert ran.err.count("\n") == 1
    for word in (
        "malformed annotations with an area below 1: 1",
        "annotations of images that the file does not list: 1",
        "--strict",
    ):
        assert word in ran.err
    run("evaluate", "--data", own_coco, "--strict").complains(1, "annotation 999 of image 1", "empty segmentation")


def test_boxes_of_another_order_are_told_of(run, own_coco):
    def as_corners(document):
        for entry in document["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x, y, x + w, y + h]

    edit(own_coco, as_corners)
    ran = run("evaluate", "--data", own_coco)
    assert ran.code == 0
    assert "they look like left, top, right, bottom" in ran.err
    run("evaluate", "--data", own_coco, "--strict").complains(1, "they look like left, top, right, bottom")


@pytest.mark.parametrize("packed", [True, False])
def test_a_packed_file_and_backslashes(run, coco, own_coco, packed):
    expected = figures(run("evaluate", "--data", coco, "--json"))
    change = lambda image: image.update(file_name=f"C:\\export\\images\\{image['file_name']}")  # noqa: E731
    document = edit(own_coco, lambda document: [change(image) for image in document["images"]])
    path = annotation_file(own_coco)
    if packed:
        path.unlink()
        path.with_suffix(".json.gz").write_bytes(gzip.compress(json.dumps(document).encode()))
    assert figures(run("evaluate", "--data", own_coco, "--json")) == expected


def test_a_folder_of_nothing_known_lists_what_is_there(run, tmp_path):
    (tmp_path / "set" / "labels").mkdir(parents=True)
    ran = run("evaluate", "--data", tmp_path / "set")
    ran.complains(1, "it holds labels/", "YOLO", "--annotations", "--image-root", "scenes:300")


def test_a_damaged_mask_is_found_before_the_work(run, own_coco, own_store):
    edit(own_coco, lambda document: document["annotations"][-1].update(segmentation=[[1, 1, "a", 2, 3, 3]]))
    run("evaluate", "--data", own_coco).complains(1, "coordinates must be finite numbers", "'a'")
    assert not own_store.exists()


# ids


@pytest.mark.parametrize("offset", [2**53, 2**63, 10**30, -(2**70)])
def test_ids_of_any_size(run, coco, own_coco, own_store, tmp_path, offset):
    def shift(document):
        for image in document["images"]:
            image["id"] += offset
        for category in document["categories"]:
            category["id"] += offset
        for entry in document["annotations"]:
            entry |= {key: entry[key] + offset for key in ("id", "image_id", "category_id")}

    plain = json.loads(annotation_file(coco).read_text())
    document = edit(own_coco, shift)
    expected = figures(run("evaluate", "--data", coco, "--no-store", "--json"))
    ran = run("evaluate", "--data", own_coco, "--scheme", "int8", "--calibration", "scenes:1:1", "--json")
    assert figures(ran)["count"] == expected["count"]
    store = ResultStore(own_store)
    (record,) = store.records()
    assert [s.annotation_id for s in store.scores(record.id)] == sorted(e["id"] for e in document["annotations"])
    assert {s.image_id for s in store.scores(record.id)} == {image["id"] for image in document["images"]}
    assert {entry.image_id for entry in store.gallery(record.id)} <= {image["id"] for image in document["images"]}

    precision = []
    for folder, content in ((coco, plain), (own_coco, document)):
        found = [
            {k: e[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for e in content["annotations"]
        ]
        (tmp_path / "d.json").write_text(json.dumps(found))
        precision.append(
            figures(run("evaluate", "--data", folder, "--detections", tmp_path / "d.json", "--no-store", "--json"))
        )
    assert precision[0] == precision[1]
    assert precision[0]["ap"] > 0


# names


@pytest.fixture
def odd(tmp_path, coco):
    """A folder whose name is no UTF-8, with the toy data and an image of such a name."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 [1]")
    shutil.copytree(coco, folder / "data")
    (folder / "pictures").mkdir()
    shutil.copy(folder / "data" / "val2017" / "000000000001.png", folder / "pictures" / os.fsdecode(b"\xff.png"))
    return folder


def test_names_of_any_bytes_are_kept_and_exported(run, odd, own_store):
    scheme = odd / os.fsdecode(b"eight\xfe.toml")
    scheme.write_text("\ufeff[[rules]]\r\nweight = 'int8'\r\nactivation = 'int8'\r\n", "utf-8")
    data = shutil.copytree(odd / "data", odd / os.fsdecode(b"d\xfd"))
    calibration = (odd / "pictures").rename(odd / os.fsdecode(b"p\xfc"))
    (record,) = run("evaluate", "--data", data, "--scheme", scheme, "--calibration", calibration, "--json").json
    assert record["dataset"] == "d\\xfd:val2017"
    assert record["scheme"] == "eight\\xfe"
    assert record["calibration"] == "p\\xfc"
    for suffix in ("csv", "parquet", "md", "json"):
        path = odd / os.fsdecode(b"out\xff." + suffix.encode())
        assert run("results", "--export", path).code == 0
        assert path.stat().st_size > 0


def test_plans_and_weights_in_such_a_folder(run, odd):
    weights = Path(__file__).parents[2] / "src" / "quantsam" / "models" / "weights" / "nano.safetensors"
    shutil.copy(weights, odd / "w.safetensors")
    line = ("--weights", odd / "w.safetensors")
    assert run("calibrate", *line, "--calibration", odd / "pictures", "--out", odd / "plan").code == 0
    assert run("evaluate", *line, "--plan", odd / "plan", "--data", odd / "data", "--json").code == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252"])
def test_a_terminal_that_cannot_show_a_name(start, odd, encoding):
    process = start("evaluate", "--data", odd / "nowhere", PYTHONIOENCODING=encoding)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert "neither a known dataset nor an existing folder" in err
    process = start("data", "scenes", odd / "scenes", "--count", "1", "--size", "64", PYTHONIOENCODING=encoding)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert ("caf? [1]/scenes" if encoding == "ascii" else "caf\\xe9 [1]/scenes") in out  # click has a way with ASCII


# what is said


def test_a_scheme_says_what_it_leaves_to_the_placement(run, tmp_path):
    table = run("schemes", "int8").out.split("per tensor.", 1)[1]  # behind the title
    for word in ("left to the", "affine", "per tensor", "None"):
        assert (word in table) == (word == "left to the")
    rows = run("schemes", "int8", "--json").json["rules"]
    left = "int8, uniform (symmetry, channels, observer: left to the placement)"
    assert [row["format"] for row in rows] == [left, left]
    said = tmp_path / "said.toml"
    said.write_text(
        '[[rules]]\nweight = {format = "int4", symmetric = true, per_channel = true, observer = "omse"}\n'
        'activation = {format = "uint8", symmetric = false}\nsites = {out = "float"}\n'
    )
    formats = {row["target"]: row["format"] for row in run("schemes", said, "--json").json["rules"]}
    assert formats == {
        "weight": "int4, symmetric, per channel, omse, uniform",
        "activation": "uint8, affine, uniform (channels, observer: left to the placement)",
        "out": "float",
    }


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_schemes_and_sweeps_with_a_byte_order_mark(run, tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "s.toml").write_bytes('description = "hällo"\n[[rules]]\nweight = "int8"\n'.encode(encoding))
    assert "hällo" in run("schemes", "~/s.toml").out
    (tmp_path / "sweep.toml").write_bytes(
        '[common]\ndata = "scenes:1"\n[[runs]]\nscheme = "~/s.toml"\n'.encode(encoding)
    )
    ran = run("sweep", tmp_path / "sweep.toml")
    assert ran.code == 0, ran.err


def test_a_picture_of_12_bits_is_told_of_and_segmented(run, tmp_path):
    grey = (np.add.outer(np.arange(64), np.arange(64)) * 32).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    ran = run("segment", tmp_path / "a.png", "--box", "5,5,40,40", "--out", tmp_path / "o.png")
    assert ran.code == 0
    assert "a.png: of the bits of a sample only 12 are used" in ran.err
    Image.fromarray((grey >> 4).astype(np.uint8)).save(tmp_path / "b.png")
    again = run("segment", tmp_path / "b.png", "--box", "5,5,40,40", "--out", tmp_path / "p.png")
    assert again.err == ""
    assert again.out.splitlines()[0] == ran.out.splitlines()[0]
