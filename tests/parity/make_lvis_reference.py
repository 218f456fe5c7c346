"""Make lvis_reference.json: what the `lvis` package says of results on the shared LVIS sample.

The package is no dependency: it wants NumPy below 1.24, OpenCV and Matplotlib. To make the file again:

    python3 -m venv /tmp/lvis-venv
    /tmp/lvis-venv/bin/pip install 'lvis==0.5.3' 'numpy<1.24' pycocotools
    /tmp/lvis-venv/bin/python tests/parity/make_lvis_reference.py ../shared/data

The test makes the same results with the functions here, so the file holds numbers only.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Results = list[dict[str, Any]]
Encode = Callable[[Any], dict[str, Any]]
REFERENCE = Path(__file__).with_name("lvis_reference.json")


def load(data):
    """Return LVIS's annotations and the detections made for them."""
    truth = json.loads((data / "lvis/annotations/lvis_v0.5_val_100.json").read_text())
    detections = json.loads((data / "lvis/source_json_file/lvis_detections.json").read_text())
    return truth, detections


def make_cases(truth, detections, encode):
    """Return the kind and the results of each case.

    Args:
        truth: LVIS's annotations.
        detections: The detections made for them.
        encode: COCO's `mask.encode`, of whichever package.
    """
    crowded = crowded_boxes(truth)
    return {
        "boxes": ("bbox", detections),
        "masks": ("segm", filled(truth, detections, encode)),
        "crowded boxes": ("bbox", crowded),
        "crowded masks": ("segm", filled(truth, crowded, encode)),
    }


def crowded_boxes(truth):
    """Return 350 boxes for each of 12 images: what the detections leave untested.

    Objects of rare categories, more than 300 results an image, many equal scores, boxes of no area, and categories
    that are present, known to be absent, not exhaustively annotated, and not looked for at all.
    """
    draw = random.Random(0)
    objects = {}
    for annotation in truth["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    images = {image["id"]: image for image in truth["images"]}
    rare = {category["id"] for category in truth["categories"] if category["frequency"] == "r"}
    with_rare = {annotation["image_id"] for annotation in truth["annotations"] if annotation["category_id"] in rare}
    results = []
    for image_id in sorted(objects, key=lambda key: (key not in with_rare, -len(objects[key]), key))[:12]:
        image = images[image_id]
        others = [*image["neg_category_ids"], *image["not_exhaustive_category_ids"], 1, 2, 3]
        for _ in range(350):
            found = draw.choice(objects[image_id])
            box = [edge + draw.gauss(0, 0.05) * found["bbox"][2 + i % 2] for i, edge in enumerate(found["bbox"])]
            width, height = (0.0, 0.0) if draw.random() < 0.05 else (max(0.0, box[2]), max(0.0, box[3]))
            results.append(
                {
                    "image_id": image_id,
                    "category_id": found["category_id"] if draw.random() < 0.7 else draw.choice(others),
                    "bbox": [round(edge, 2) for edge in (box[0], box[1], width, height)],
                    "score": round(draw.random(), 2),
                }
            )
    draw.shuffle(results)
    return results


def filled(truth, boxes, encode):
    """Return each box as a mask that fills it, its edges moved by a few pixels."""
    draw = random.Random(1)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    results = []
    for entry in boxes:
        x, y, width, height = entry["bbox"]
        edges = (round(edge) + draw.randint(-2, 2) for edge in (x, y, x + width, y + height))
        left, top, right, bottom = (max(0, edge) for edge in edges)
        mask = np.zeros(sizes[entry["image_id"]], np.uint8, order="F")
        if width and height:
            mask[top:bottom, left:right] = 1
        rle = encode(mask)
        others = {key: entry[key] for key in ("image_id", "category_id", "score")}
        results.append({**others, "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()}})
    return results


def main(data):
    """Score every case with the `lvis` package."""
    from importlib.metadata import version

    from lvis import LVIS, LVISEval, LVISResults
    from pycocotools import mask as coco_api

    truth, detections = load(data)
    numbers = {}
    for name, (kind, results) in make_cases(truth, detections, coco_api.encode).items():
        lvis = LVIS(str(data / "lvis/annotations/lvis_v0.5_val_100.json"))
        evaluation = LVISEval(lvis, LVISResults(lvis, results), kind)
        evaluation.run()
        numbers[name] = {key: float(value) for key, value in evaluation.get_results().items()}
    versions = {name: version(name) for name in ("lvis", "pycocotools", "numpy")}
    REFERENCE.write_text(json.dumps({"made_with": versions, "results": numbers}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
