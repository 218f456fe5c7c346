"""What each repair gives and costs: nano and what is made from it, everything quantized, on both engines.

    python benchmarks/repair.py [--scenes 60] [--models nano nano-outlier nano-hard] [--add]

All repairs are scored on held-out scenes by boxes; repair_scores.py has more images and prompts for the best ones.
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
from typing import Any
from unittest import mock

import torch
from common import interleaved_ms, kept_rows, save

import quantsam as qs
from quantsam.engines import onnx_encoder
from quantsam.engines.encoder import EngineEncoder
from quantsam.plans.placements import Placement, get_placement
from quantsam.plans.plan import Plan
from quantsam.repair.repair import repair_plan
from quantsam.results.compare import compare

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


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--models", nargs="*", default=["nano", "nano-outlier", "nano-hard"])
    parser.add_argument("--schemes", nargs="+", choices=REPAIRS, default=list(REPAIRS))
    parser.add_argument("--add", action="store_true", help="keep what was measured of other models and schemes")
    args = parser.parse_args()
    qs.keep_freed_memory()
    os.environ["QUANTSAM_CACHE"] = "off"  # what is timed is made, not loaded
    dataset = qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)
    engines = ("onnxruntime", "openvino")
    found: dict[str, Any] = {"scenes": args.scenes, "rows": []}
    if args.add:
        again = set(itertools.product(args.models, args.schemes))
        found["rows"] = kept_rows("repair", {"scenes": args.scenes}, lambda row: (row["model"], row["scheme"]) in again)
    for name, scheme, engine in itertools.product(args.models, args.schemes, engines):
        found["rows"] += measure(name, scheme, engine, dataset)
        save("repair", found)


if __name__ == "__main__":
    main()
