"""Walk from the thesis' placement to the engine's, one change at a time: what each step says, and how far it is off.

    python benchmarks/causes.py [--scenes 200] [--coco COCO_FOLDER] [--photographs 60]

Scheme int8, box prompts. At every step the simulation's mIoU, and its distance from what OpenVINO gives with the
engine's own placement, object by object; the last step is the placement that is deployed. Then what OpenVINO gives on a
processor without VNNI where the weights were made for VNNI: a child process limits its kernels to AVX2.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import save

import quantsam as qs
from quantsam.data.dataset import Dataset
from quantsam.evaluation.experiment import score_plans
from quantsam.repair.calibrated import calibrated_plans

ENGINE = "openvino"
STEPS = (
    ("the thesis' placement", ""),
    ("BatchNorm folded", "+fold"),
    ("convolutions' inputs and weights alone", "+inputs"),
    ("attention in float", "+float-attention"),
    ("ranges of minimum and maximum, not a moving average", "+minmax"),
    ("symmetric grids divide by 127, not 127.5", "+narrow"),
    ("activations affine in 8 bits, not symmetric", "+affine"),
    ("a scale a channel before depthwise convolutions", "+per-channel-depthwise"),
    ("weights whose products cannot saturate", "+saturation-free"),
)
CALIBRATION = "scenes:32:1"
HELD_OUT_SEED = 3


def without_vnni(name: str, data: tuple[str, ...]) -> dict[str, Any]:
    """Return what a plan for VNNI gives on a processor with AVX2 alone, and how far its simulation is off."""
    arguments = ("agree", "--model", name, "--engine", ENGINE, "--processors", "vnni", "--noise-images", "0", *data)
    command = "import sys; from quantsam.cli.main import main; sys.exit(main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", command, *arguments, "--calibration", CALIBRATION, "--no-store", "--json"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        stdout=subprocess.PIPE,
        check=True,
    )
    (record,) = json.loads(ran.stdout)["records"]
    figures = record["figures"]
    print(f"{name}: without VNNI {figures['miou']:.2f}, off by {-figures['gap']:+.3f}", flush=True)
    return {"miou": figures["miou"], "off": -figures["gap"], "off_standard_error": figures["gap_standard_error"]}


def walk(name: str, dataset: Dataset, data: tuple[str, ...]) -> dict[str, Any]:
    """Return the records' figures of all steps, the engine's and FP32's.

    Args:
        name: Of the model.
        dataset: What to score on.
        data: The same as options of the command line.
    """
    model = qs.load_model(name)
    scheme, images = qs.load_scheme("int8"), qs.open_images(CALIBRATION)

    def plan(placement: str) -> qs.Plan:
        return calibrated_plans(model, [scheme], images, placement)[0]

    (whole,) = score_plans(model, [qs.make_plan(model, "fp32")], dataset)
    (deployed,) = score_plans(model, [plan(ENGINE)], dataset, engine=ENGINE)
    steps, placement = [], "thesis"
    for title, change in STEPS:
        placement += change
        (record,) = score_plans(model, [plan(placement)], dataset)
        gap = qs.compare(deployed, record)
        steps.append(
            {
                "step": title,
                "placement": placement,
                "miou": record.figures["miou"],
                "off": gap.mean_difference,
                "off_standard_error": gap.standard_error,
            }
        )
        miou = record.figures["miou"]
        print(f"{name} on {dataset.name}: {title}: {miou:.2f}, off by {gap.mean_difference:+.3f}", flush=True)
    count = deployed.figures["count"]
    return {
        "fp32": whole.figures["miou"],
        "engine": deployed.figures["miou"],
        "count": count,
        "steps": steps,
        "without_vnni": without_vnni(name, data),
    }


def main() -> None:
    """Walk with both models on all data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/ and annotations/")
    parser.add_argument("--photographs", type=int, help="how many of its photographs [all]")
    args = parser.parse_args()
    qs.keep_freed_memory()
    sets: dict[str, tuple[Dataset, tuple[str, ...]]] = {}
    if args.scenes:
        arguments = ("--data", f"scenes:{args.scenes}:{HELD_OUT_SEED}")
        sets["scenes"] = (qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED), arguments)
    if args.coco:
        few = () if args.photographs is None else ("--images", str(args.photographs))
        sets["photographs"] = (qs.CocoDataset(args.coco, limit=args.photographs), ("--data", str(args.coco), *few))
    for kind, (dataset, data) in sets.items():
        save(f"causes_{kind}", {name: walk(name, dataset, data) for name in ("nano", "nano-outlier")})


if __name__ == "__main__":
    main()
