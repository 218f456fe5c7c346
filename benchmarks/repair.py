"""What each repair gives and costs: nano and what is made from it, everything quantized, on both engines.

    python benchmarks/repair.py [--scenes 300] [--coco COCO_FOLDER] [--models nano nano-outlier nano-hard] [--add]

All repairs are scored on held-out scenes by boxes; unrepaired and best also by one click, and on photographs of COCO.
Accuracy is the engine's own, paired with FP32's on the same objects; time is the encoder's on the engine, all variants
in turn. ONNX Runtime's row "scales in the rounding" quantizes by a scale a channel and dequantizes by one a tensor,
instead of multiplying.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import interleaved_ms, load, save

import quantsam as qs
from quantsam.engines import onnx_encoder
from quantsam.engines.encoder import EngineEncoder
from quantsam.plans.placements import Placement, get_placement
from quantsam.plans.plan import Plan
from quantsam.repair.repair import repair_plan
from quantsam.results.compare import compare
from quantsam.results.machine import environment

CALIBRATION = "scenes:32:1"
HELD_OUT_SEED = 3
BEST = "reflect,streams,migrate,ranges"
ALL = "reflect,streams,shift,migrate,ranges,bias"
ROUNDED = f"{BEST},rounding"
REPAIRS = {
    "int8": ("", "streams", "migrate", "ranges", "streams,migrate,ranges", "reflect,streams", BEST, ALL),
    "w4a8": ("", "rounding", ROUNDED),
}
ROUNDS, PAUSE_S = 40, 0.05


@contextmanager
def scales_in_rounding() -> Iterator[None]:
    """Let ONNX Runtime's graphs have a repair's scales in the quantization itself."""

    def changed(name: str) -> Placement:
        return dataclasses.replace(get_placement(name), scales_in_rounding=True)

    with mock.patch.object(onnx_encoder, "get_placement", changed):
        yield


def plans_of(
    model: qs.EfficientViTSam, scheme: str, engine: str, repairs: Sequence[str]
) -> dict[str, tuple[Plan, float]]:
    """Return the plan with each of the repairs, and the seconds that it took, calibration included."""
    images = qs.open_images(CALIBRATION)
    found = {}
    for names in repairs:
        bare = qs.make_plan(model, scheme, engine)
        started = time.perf_counter()
        plan = repair_plan(model, bare, images, names) if names else qs.calibrate(model, bare, images)
        found[names or "none"] = (plan, time.perf_counter() - started)
    return found


def measure(name: str, scheme: str, engine: str, dataset: qs.Dataset) -> list[dict[str, Any]]:
    """Return a row for each repair of a model on an engine."""
    model = qs.load_model(name)
    whole = qs.evaluate(model, dataset, prompts="box")
    plans = plans_of(model, scheme, engine, REPAIRS[scheme])
    deployed: dict[str, EngineEncoder] = {
        key: qs.make_engine_encoder(model, plan, engine) for key, (plan, _) in plans.items()
    }
    rows = []
    for key, (_, seconds) in plans.items():
        record = qs.evaluate(model.with_encoder(deployed[key]), dataset, prompts="box")
        difference = compare(whole, record)
        row = {"model": name, "scheme": scheme, "engine": engine, "repairs": key, "seconds": seconds}
        row |= {"fp32": whole.figures["miou"], "drop": -difference.mean_difference}
        row |= {"drop_se": difference.standard_error, "count": record.figures["count"]}
        rows.append(row | {"bytes": len(deployed[key].graph)})
        print(f"{name} {scheme} on {engine}, {key}: {difference.mean_difference:+.2f} in {seconds:.1f} s", flush=True)
    if engine == "onnxruntime" and scheme == "int8":
        with scales_in_rounding():
            plan = plans[BEST][0]
            deployed["scales in the rounding"] = qs.make_engine_encoder(model, plan, engine)
        best = next(row for row in rows if row["repairs"] == BEST)
        rows.append({**best, "repairs": "scales in the rounding", "seconds": None, "drop": None, "drop_se": None})
    side = model.variant.input_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    taken = interleaved_ms({key: lambda e=e: e(image) for key, e in deployed.items()}, ROUNDS, PAUSE_S)  # type: ignore[misc]
    return [{**row, "ms": taken[str(row["repairs"])]} for row in rows]


def elsewhere(name: str, engine: str, data: str, dataset: qs.Dataset, prompts: str) -> list[dict[str, Any]]:
    """Return rows of INT8 before and after the best repairs, with other prompts or on other images."""
    model = qs.load_model(name)
    plans = {key or "none": made for key, made in plans_of(model, "int8", engine, ("", BEST)).items()}
    whole = qs.evaluate(model, dataset, prompts=prompts)
    rows = []
    for key, (plan, _) in plans.items():
        deployed = model.with_encoder(qs.make_engine_encoder(model, plan, engine))
        for how, encoded in (("simulated", model.with_encoder(qs.simulate(model, plan))), ("deployed", deployed)):
            record = qs.evaluate(encoded, dataset, prompts=prompts)
            difference = compare(whole, record)
            row: dict[str, Any] = {"model": name, "engine": engine, "data": data, "prompts": prompts}
            row |= {"repairs": key, "how": how}
            row |= {"fp32": whole.figures["miou"], "drop": -difference.mean_difference}
            row |= {"drop_se": difference.standard_error, "count": record.figures["count"]}
            rows.append(row)
            print(f"{name} {data} {prompts} on {engine}, {key}, {how}: {difference.mean_difference:+.2f}", flush=True)
    return rows


def kept(args: argparse.Namespace) -> dict[str, Any]:
    """Return of the result that is there what is not measured anew."""
    before, here = load("repair"), environment()
    was = (before["scenes"], *(before["environment"].get(name) for name in ("cpu", "instruction_sets")))
    now = (args.scenes, *(here.get(name) for name in ("cpu", "instruction_sets")))
    if was != now:
        raise SystemExit(f"error: --add needs scenes and processor of the result that is there, {was}, got {now}")
    again = set(itertools.product(args.models, args.schemes))
    return {
        "rows": [row for row in before["rows"] if (row["model"], row["scheme"]) not in again],
        "elsewhere": [row for row in before["elsewhere"] if row["model"] not in args.elsewhere],
    }


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--models", nargs="*", default=["nano", "nano-outlier", "nano-hard"])
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/: photographs too")
    parser.add_argument("--elsewhere", nargs="*", default=["nano", "nano-hard"], help="models scored there too")
    parser.add_argument("--schemes", nargs="+", choices=REPAIRS, default=list(REPAIRS))
    parser.add_argument("--add", action="store_true", help="keep what was measured of other models and schemes")
    args = parser.parse_args()
    qs.keep_freed_memory()
    os.environ["QUANTSAM_CACHE"] = "off"  # what is timed is made, not loaded
    dataset = qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)
    engines = ("onnxruntime", "openvino")
    found: dict[str, Any] = {"scenes": args.scenes, "rows": [], "elsewhere": []}
    if args.add:
        found |= kept(args)
    others: list[tuple[str, qs.Dataset, str]] = [("scenes", dataset, "click")]
    if args.coco:
        photographs = qs.open_dataset(args.coco)
        others += [("photographs", photographs, prompts) for prompts in ("box", "click")]
    for name, scheme, engine in itertools.product(args.models, args.schemes, engines):
        found["rows"] += measure(name, scheme, engine, dataset)
        save("repair", found)
    for name, engine, other in itertools.product(args.elsewhere, engines, others):
        found["elsewhere"] += elsewhere(name, engine, *other)
        save("repair", found)


if __name__ == "__main__":
    main()
