"""Run the counterpart of every evaluation that the EfficientViT-SAM authors publish, with nano in FP32 and INT8.

    python benchmarks/official.py --coco COCO_FOLDER --lvis LVIS_FOLDER [--lvis-annotations FILE]

Each folder must hold `source_json_file/coco_detections.json` or `lvis_detections.json`, a detector's boxes.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import Any

from accuracy import CALIBRATION
from common import save

import quantsam as qs
from quantsam.cli.evaluation_table import report
from quantsam.evaluation.experiment import score_plans
from quantsam.repair.calibrated import calibrated_plans

PROMPTS = ("box", "click", "clicks:3", "clicks:5", "detections")
SCHEMES = ("fp32", "int8")


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--lvis", type=Path, required=True)
    parser.add_argument("--lvis-annotations", type=Path)
    args = parser.parse_args()
    model = qs.load_model("nano")
    schemes = [qs.load_scheme(name) for name in SCHEMES]
    plans = calibrated_plans(model, schemes, qs.open_images(CALIBRATION))
    sets = {
        "coco": qs.open_dataset(args.coco),
        "lvis": qs.open_dataset(args.lvis, annotations=args.lvis_annotations),
    }
    rows: list[dict[str, Any]] = []
    for name, dataset in sets.items():
        file = getattr(args, name) / "source_json_file" / f"{name}_detections.json"
        detections = qs.open_detections(file, dataset, skip_unknown_images=True)
        for prompts in PROMPTS:
            boxes = detections if prompts == "detections" else None
            wanted = "box" if boxes else prompts
            records = list(score_plans(model, plans, dataset, prompts=wanted, detections=boxes))
            report(records, as_json=False)
            rows.append({"data": name, "prompts": prompts, "records": [r.to_json_dict() for r in records]})
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    save("official", {"rows": rows, "peak_mib": peak_mib})


if __name__ == "__main__":
    main()
