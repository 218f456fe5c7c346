"""Peak memory and time of `quantsam evaluate` on as many images and objects as all of COCO and LVIS val have.

    python benchmarks/full_size.py [--data coco lvis] [--prompts box] [--parts 1]

32 generated scenes of 640 px stand for all images, under many names: memory is set by how many images and objects there
are. nano, boxes; the LVIS run takes about half an hour. With `--parts 20` a twentieth of both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import save

from quantsam.data.scenes import SceneDataset, write_coco_folder

SIZES = {"coco": (5_000, 36_781), "lvis": (19_809, 244_707)}
SCENES = 32


def replicated(document: dict[str, Any], images: int, objects: int) -> dict[str, Any]:
    """Return an annotation file of so many images and objects, made of a small one's."""
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    new_images: list[dict[str, Any]] = []
    new_annotations: list[dict[str, Any]] = []
    for number, image in zip(range(images), itertools.cycle(document["images"]), strict=False):
        new_images.append(image | {"id": number + 1})
        wanted = (number + 1) * objects // images - len(new_annotations)
        for annotation in itertools.islice(itertools.cycle(of_image[image["id"]]), wanted):
            new_annotations.append(annotation | {"id": len(new_annotations) + 1, "image_id": number + 1})
    return document | {"images": new_images, "annotations": new_annotations}


def as_lvis(document: dict[str, Any]) -> dict[str, Any]:
    """Return an annotation file of COCO in the form of LVIS v1."""
    for image in document["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for annotation in document["annotations"]:
        del annotation["iscrowd"]
    for category in document["categories"]:
        category |= {"frequency": "f", "synset": f"{category['name']}.n.01", "synonyms": [category["name"]]}
    return document


def measure(data: str, prompts: str, parts: int, scratch: Path) -> dict[str, Any]:
    """Evaluate in a process of its own."""
    images, objects = (count // parts for count in SIZES[data])
    folder = write_coco_folder(SceneDataset(SCENES, size=640), scratch / "data")
    file = folder / "annotations" / "instances_val2017.json"
    document = replicated(json.loads(file.read_text()), images, objects)
    file.write_text(json.dumps(as_lvis(document) if data == "lvis" else document))
    store = scratch / "results.db"
    command = [str(Path(sys.executable).with_name("quantsam")), "evaluate", "--data", str(folder)]
    command += ["--annotations", str(file), "--prompts", prompts, "--store", str(store)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    result = {
        "images": images,
        "objects": objects,
        "seconds": time.perf_counter() - started,
        "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "annotations_mib": file.stat().st_size / 2**20,
        "store_mib": store.stat().st_size / 2**20,
    }
    print(data, {key: round(value, 1) for key, value in result.items()}, flush=True)
    return result


def main() -> None:
    """Measure the smaller one first: the peak of child processes only grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=SIZES, default=["coco", "lvis"])
    parser.add_argument("--prompts", default="box")
    parser.add_argument("--parts", type=int, default=1)
    args = parser.parse_args()
    for data in sorted(args.data, key=lambda name: SIZES[name]):
        with tempfile.TemporaryDirectory() as scratch:
            run = measure(data, args.prompts, args.parts, Path(scratch))
        save(f"full_size_{data}", {"model": "nano", "prompts": args.prompts, "parts": args.parts, **run})


if __name__ == "__main__":
    main()
