"""Average precision of as many masks as all of COCO val has, ours against pycocotools: time and peak memory.

    pip install -e '.[bench]' && python benchmarks/evaluator.py --fixtures FOLDER [--copies 50]

FOLDER holds the COCO API's own `instances_val2014_100.json` and `instances_val2014_fakesegm100_results.json`:
100 images, copied 50 times to make 5,000. Each of the two runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import save

from quantsam.metrics.average_precision import coco_precision


def replicated(folder: Path, copies: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and results, each image `copies` times under ids of its own."""
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    known = {image["id"] for image in truth["images"]}
    step = max(known) + 1
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for copy in range(copies):
        images += [image | {"id": image["id"] + copy * step} for image in truth["images"]]
        for annotation in truth["annotations"]:
            changes = {"id": len(annotations) + 1, "image_id": annotation["image_id"] + copy * step}
            annotations.append(annotation | changes)
        found += [r | {"image_id": r["image_id"] + copy * step} for r in results if r["image_id"] in known]
    return truth | {"images": images, "annotations": annotations}, found


def run(which: str, folder: Path, copies: int) -> dict[str, Any]:
    """Score once in this process."""
    truth, results = replicated(folder, copies)
    started = time.perf_counter()
    if which == "ours":
        ap = coco_precision(truth, results, "segm")["ap"]
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO()
            reference.dataset = truth
            reference.createIndex()
            evaluation = COCOeval(reference, reference.loadRes(results), "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ap = 100 * float(evaluation.stats[0])
    seconds = time.perf_counter() - started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak_mib, "ap": ap, "results": len(results), "images": len(truth["images"])}


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--which", choices=("ours", "pycocotools"), help="run one in this process")
    args = parser.parse_args()
    if args.which:
        print(json.dumps(run(args.which, args.fixtures, args.copies)))
        return
    both = {}
    for which in ("ours", "pycocotools"):
        command = [sys.executable, __file__, "--fixtures", str(args.fixtures), "--copies", str(args.copies)]
        done = subprocess.run([*command, "--which", which], check=True, capture_output=True, text=True)
        both[which] = json.loads(done.stdout)
        print(which, both[which])
    save("evaluator", {**both, "ratio": both["pycocotools"]["seconds"] / both["ours"]["seconds"]})


if __name__ == "__main__":
    main()
