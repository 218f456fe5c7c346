"""What INT8 loses before and after repairs: scenes and photographs, boxes and one click, simulated and deployed.

    python benchmarks/repair_scores.py [--models nano nano-outlier nano-hard] [--scenes 300] [--coco COCO_FOLDER]
    python benchmarks/repair_scores.py --models nano-hard --scenes 0 --coco COCO_FOLDER --calibration FOLDER --deployed

Everything is quantized. A row has one plan on one engine, one set of images and one kind of prompt: what engine and
simulation lose against FP32, and how far they are apart, all paired on the same objects. Unrepaired plans are deployed
alone: agreement.py has their simulation. With a folder for calibration, its first 32 images take the place of 32
scenes. Only accuracy is measured, no time, and each model and calibration has its own result, so they can be measured
side by side.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from common import save
from repair import BEST, CALIBRATION, HELD_OUT_SEED

import quantsam as qs
from quantsam.models.encoder import Encoder
from quantsam.results.compare import compare
from quantsam.results.record import Record

ENGINES = ("onnxruntime", "openvino")
WAYS = ("none", BEST)
IMAGES = 32


def calibrated_plan(model: qs.EfficientViTSam, engine: str, repairs: str, calibration: str) -> qs.Plan:
    """Return the calibrated plan with the repairs."""
    bare, images = qs.make_plan(model, "int8", engine), [*islice(qs.open_images(calibration), IMAGES)]
    return qs.calibrate(model, bare, images) if repairs == "none" else qs.repair_plan(model, bare, images, repairs)


def lost(better: Record, worse: Record) -> tuple[float, float | None]:
    """Return the points of mIoU that the second loses against the first, and their standard error."""
    difference = compare(better, worse)
    return -difference.mean_difference, difference.standard_error


def measure(name: str, sets: dict[tuple[str, str], qs.Dataset], args: argparse.Namespace) -> None:
    """Measure one model and save its result after each plan."""
    model, calibrated_on = qs.load_model(name), "scenes" if args.calibration == CALIBRATION else "photographs"
    target = f"repair_scores/{name}" if calibrated_on == "scenes" else f"repair_scores/{name}-photographs"
    whole = {key: qs.evaluate(model, dataset, prompts=key[1]) for key, dataset in sets.items()}
    rows: list[dict[str, Any]] = []
    for repairs in args.ways:
        for engine in ENGINES:
            plan = calibrated_plan(model, engine, repairs, args.calibration)
            encoders: dict[str, Encoder] = {"deployed": qs.make_engine_encoder(model, plan, engine)}
            if not args.deployed and repairs != "none":
                encoders["simulated"] = qs.simulate(model, plan)
            for key, dataset in sets.items():
                records = {
                    how: qs.evaluate(model.with_encoder(encoder), dataset, prompts=key[1])
                    for how, encoder in encoders.items()
                }
                row: dict[str, Any] = {"engine": engine, "repairs": repairs, "images": key[0], "prompts": key[1]}
                row |= {"fp32": whole[key].figures["miou"], "count": whole[key].figures["count"]}
                for how, record in records.items():
                    row[how], row[f"{how}_se"] = lost(whole[key], record)
                if "simulated" in records:
                    row["gap"], row["gap_se"] = lost(records["deployed"], records["simulated"])
                rows.append(row)
                print(f"{name}: {row}", flush=True)
            save(target, {"model": name, "calibration": calibrated_on, "rows": rows})


def main() -> None:
    """Measure each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier", "nano-hard"])
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/: photographs too")
    parser.add_argument("--prompts", nargs="+", default=["box", "click"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="repairs, 'none' for plain INT8")
    parser.add_argument("--calibration", default=CALIBRATION, help="a folder of photographs instead of scenes")
    parser.add_argument("--deployed", action="store_true", help="leave the simulation out")
    args = parser.parse_args()
    qs.keep_freed_memory()
    images: dict[str, qs.Dataset] = {}
    if args.scenes:
        images["scenes"] = qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)
    if args.coco:
        images["photographs"] = qs.open_dataset(args.coco)
    sets = {(kind, prompts): data for kind, data in images.items() for prompts in args.prompts}
    for name in args.models:
        measure(name, sets, args)


if __name__ == "__main__":
    main()
