"""What INT8 loses before and after repairs: scenes and photographs, boxes and one click, simulated and deployed.

    python benchmarks/repair_scores.py [--models nano nano-outlier nano-hard] [--scenes 300] [--coco COCO_FOLDER]

Everything is quantized. A row has one plan on one engine, one set of images and one kind of prompt: what engine and
simulation lose against FP32, and how far they are apart, all paired on the same objects. Unrepaired plans are deployed
alone: agreement.py has their simulation. Only accuracy is measured, no time, and each model has its own result, so
models can be measured side by side.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import save
from repair import BEST, CALIBRATION, HELD_OUT_SEED

import quantsam as qs
from quantsam.models.encoder import Encoder
from quantsam.results.compare import compare
from quantsam.results.record import Record

ENGINES = ("onnxruntime", "openvino")
WAYS = ("none", BEST, f"{BEST},bias")


def make_plan(model: qs.EfficientViTSam, engine: str, repairs: str) -> qs.Plan:
    """Return the calibrated plan with the repairs."""
    bare, images = qs.make_plan(model, "int8", engine), qs.open_images(CALIBRATION)
    return qs.calibrate(model, bare, images) if repairs == "none" else qs.repair_plan(model, bare, images, repairs)


def lost(better: Record, worse: Record) -> tuple[float, float | None]:
    """Return the points of mIoU that the second loses against the first, and their standard error."""
    difference = compare(better, worse)
    return -difference.mean_difference, difference.standard_error


def measure(
    name: str, sets: dict[tuple[str, str], qs.Dataset], ways: tuple[str, ...], *, simulated: bool = True
) -> None:
    """Measure one model and save its result after each plan."""
    model = qs.load_model(name)
    whole = {key: qs.evaluate(model, dataset, prompts=key[1]) for key, dataset in sets.items()}
    rows: list[dict[str, Any]] = []
    for repairs in ways:
        for engine in ENGINES:
            plan = make_plan(model, engine, repairs)
            encoders: dict[str, Encoder] = {"deployed": qs.make_engine_encoder(model, plan, engine)}
            if simulated and repairs != "none":
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
            save(f"repair_scores/{name}", {"model": name, "rows": rows})


def main() -> None:
    """Measure each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier", "nano-hard"])
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/: photographs too")
    parser.add_argument("--prompts", nargs="+", default=["box", "click"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="repairs, 'none' for plain INT8")
    parser.add_argument("--deployed", action="store_true", help="leave the simulation out")
    args = parser.parse_args()
    qs.keep_freed_memory()
    images: dict[str, qs.Dataset] = {"scenes": qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)}
    if args.coco:
        images["photographs"] = qs.open_dataset(args.coco)
    sets = {(kind, prompts): data for kind, data in images.items() for prompts in args.prompts}
    for name in args.models:
        measure(name, sets, tuple(args.ways), simulated=not args.deployed)


if __name__ == "__main__":
    main()
