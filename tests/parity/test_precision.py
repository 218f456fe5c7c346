import importlib.util
import json
from pathlib import Path

import pytest
from faster_coco_eval.core import mask as coco_api

from quantsam.data.detections import load_detections
from quantsam.metrics.average_precision import coco_precision
from quantsam.metrics.lvis_precision import lvis_precision

HERE = Path(__file__).parent
CASES = ("boxes", "masks", "crowded boxes", "crowded masks")
LVIS_NAMES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APl": "ap_large",
    "APr": "ap_rare",
    "APc": "ap_common",
    "APf": "ap_frequent",
    "AR@300": "ar300",
    "ARs@300": "ar300_small",
    "ARm@300": "ar300_medium",
    "ARl@300": "ar300_large",
}


def load(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_coco_api_gives_the_same_numbers(kind, shared_data):
    folder = shared_data / "evaluators"
    expected = load(folder / "expected_stats.json")[kind]
    results = load(folder / f"instances_val2014_fake{kind}100_results.json")
    found = coco_precision(load(folder / "instances_val2014_100.json"), results, kind)
    assert list(found) == [
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    ]
    assert list(found.values()) == pytest.approx([100 * value for value in expected], abs=1e-6)


@pytest.fixture(scope="module")
def lvis_cases(shared_data):
    """The annotations, and the kind and results of each case."""
    spec = importlib.util.spec_from_file_location("make_lvis_reference", HERE / "make_lvis_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    truth, detections = module.load(shared_data)
    return truth, module.make_cases(truth, detections, coco_api.encode)


@pytest.mark.parametrize("case", CASES)
def test_the_lvis_package_gives_the_same_numbers(case, lvis_cases):
    truth, cases = lvis_cases
    kind, results = cases[case]
    expected = load(HERE / "lvis_reference.json")["results"][case]
    found = lvis_precision(truth, results, kind)
    assert list(found) == list(LVIS_NAMES.values())
    for theirs, ours in LVIS_NAMES.items():
        value = None if expected[theirs] == -1 else pytest.approx(100 * expected[theirs], abs=1e-6)
        assert found[ours] == value, theirs


@pytest.mark.parametrize(
    ("annotations", "detections"),
    [
        ("coco/annotations/instances_val2017.json", "coco/source_json_file/coco_detections.json"),
        ("lvis/annotations/lvis_v0.5_val_100.json", "lvis/source_json_file/lvis_detections.json"),
    ],
)
def test_real_files_of_detections_are_read_as_they_are(annotations, detections, shared_data):
    document, entries = load(shared_data / annotations), load(shared_data / detections)
    image_hw = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    categories = {category["id"] for category in document["categories"]}
    found = load_detections(shared_data / detections, image_hw=image_hw, category_ids=categories)
    assert len(found) == len(entries)
    for image_id in image_hw:
        assert [
            (each.image_id, each.category_id, each.box_xyxy, each.score) for each in found.detections(image_id)
        ] == [
            (entry["image_id"], entry["category_id"], (x, y, x + width, y + height), entry["score"])
            for entry in entries
            if entry["image_id"] == image_id
            for x, y, width, height in [entry["bbox"]]
        ]
