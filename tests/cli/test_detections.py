import json

import pytest

import quantsam as qs
from quantsam.data.coco import CocoDataset


@pytest.fixture
def detections(coco, tmp_path):
    """The true boxes as a detector's file."""
    dataset = CocoDataset(coco)
    found = [
        {
            "image_id": image_id,
            "category_id": a.category_id,
            "bbox": [a.box_xyxy[0], a.box_xyxy[1], a.box_xyxy[2] - a.box_xyxy[0], a.box_xyxy[3] - a.box_xyxy[1]],
            "score": 0.9,
        }
        for image_id in dataset.image_ids
        for a in dataset.annotations(image_id)
    ]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(found))
    return path


def test_average_precision_of_a_detector_s_boxes(run, coco, detections):
    (record,) = run("evaluate", "--data", coco, "--detections", detections, "--json").json
    assert record["prompt"] == "detections"
    assert record["settings"]["detections"] == "detections.json"
    figures = record["figures"]
    assert figures["count"] == len(json.loads(detections.read_text()))
    assert 0 <= figures["ap"] <= figures["ap50"] <= 100
    table = run("evaluate", "--data", coco, "--detections", detections)
    assert "average precision of masks" in table.out
    assert "AP75" in table.out
    listed = run("results").out
    assert "detections" in listed
    assert "AP" in listed
    assert f"{figures['ap']:.2f}" in listed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_id": 99}, ["detections[0]", "image 99", "--skip-unknown-images"]),
        ({"category_id": 99}, ["category 99"]),
        ({"score": float("nan")}, ["finite `score`"]),
        ({"bbox": [1, 1, 0, 5]}, ["width and height > 0"]),
        ({"bbox": [500, 1, 5, 5]}, ["wholly outside image"]),
    ],
)
def test_bad_detections_are_one_line(run, coco, detections, own_store, changes, words):
    found = json.loads(detections.read_text())
    found[0] |= changes
    detections.write_text(json.dumps(found))
    run("evaluate", "--data", coco, "--detections", detections).complains(1, str(detections), *words)
    assert not own_store.exists()


def test_detections_of_unknown_images_can_be_left_out(run, coco, detections):
    found = json.loads(detections.read_text())
    found[0]["image_id"] = 99
    detections.write_text(json.dumps(found))
    line = ("evaluate", "--data", coco, "--detections", detections, "--skip-unknown-images", "--json")
    assert run(*line).json[0]["figures"]["count"] == len(found) - 1
    detections.write_text(json.dumps(found[:1]))
    run(*line).complains(1, "no detection for any image")


def test_detections_need_annotations_and_exclude_prompts(run, coco, detections):
    run("evaluate", "--data", "scenes:1", "--detections", detections).complains(1, "need COCO's or LVIS's annotations")
    ran = run("evaluate", "--data", coco, "--detections", detections, "--prompts", "box")
    ran.complains(2, "--detections and --prompts exclude each other")


@pytest.mark.parametrize("prompts", ["box", "clicks:3"])
def test_lvis(run, shared_data, prompts):
    lvis = shared_data / "lvis"
    file = lvis / "annotations/lvis_v0.5_val_with_images.json"
    line = ("evaluate", "--data", lvis, "--annotations", file, "--images", 1, "--json")
    (record,) = run(*line, "--prompts", prompts).json
    assert record["dataset"].startswith("lvis:")
    (image_id,) = qs.open_dataset(lvis, annotations=file, limit=1).image_ids
    entries = [a for a in json.loads(file.read_text())["annotations"] if a["image_id"] == image_id]
    assert record["figures"]["count"] == len(entries) > 0


def test_lvis_with_a_detector_s_boxes(run, shared_data):
    lvis = shared_data / "lvis"
    file, found = lvis / "annotations/lvis_v0.5_val_with_images.json", lvis / "source_json_file/lvis_detections.json"
    line = ("evaluate", "--data", lvis, "--annotations", file, "--images", 1, "--detections", found)
    run(*line).complains(1, "--skip-unknown-images")
    (record,) = run(*line, "--skip-unknown-images", "--json").json
    assert {"ap_rare", "ap_common", "ap_frequent", "ar300"} <= record["figures"].keys()
