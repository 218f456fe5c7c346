"""What each repair gives and costs: nano and what is made from it, everything quantized, on both engines.

    python benchmarks/repair.py [--scenes 300] [--models nano nano-outlier nano-hidden]

nano-hidden is nano with a few hidden channels of each inverted bottleneck scaled up (`with_hidden_outlier_channels`).

Accuracy is the engine's own, paired with FP32's on the same objects; time is the encoder's on the engine, all variants
in turn. ONNX Runtime's row "scales in the rounding" quantizes by a scale a channel and dequantizes by one a tensor,
instead of multiplying.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from common import interleaved_ms, save

import quantsam as qs
from quantsam.engines import onnx_encoder
from quantsam.engines.encoder import EngineEncoder
from quantsam.models.outliers import with_hidden_outlier_channels
from quantsam.plans.placements import Placement, get_placement
from quantsam.plans.plan import Plan
from quantsam.repair.repair import repair_plan
from quantsam.results.compare import compare

CALIBRATION = "scenes:32:1"
HELD_OUT_SEED = 3
ALL = "streams,shift,migrate,ranges,bias"
REPAIRS = {
    "int8": ("", "streams", "migrate", "ranges", "streams,migrate", "streams,migrate,ranges", ALL),
    "w4a8": ("", "streams,migrate,ranges", ALL),
}
ROUNDS, PAUSE_S = 40, 0.05


@contextmanager
def scales_in_rounding() -> Iterator[None]:
    """Let ONNX Runtime's graphs have a repair's scales in the quantization itself."""

    def changed(name: str) -> Placement:
        return dataclasses.replace(get_placement(name), scales_in_rounding=True)

    with mock.patch.object(onnx_encoder, "get_placement", changed):
        yield


def load(name: str) -> qs.EfficientViTSam:
    """Return a model by name."""
    return with_hidden_outlier_channels(qs.load_model("nano")) if name == "nano-hidden" else qs.load_model(name)


def plans_of(model: qs.EfficientViTSam, scheme: str, engine: str) -> dict[str, tuple[Plan, float]]:
    """Return the plan with each of the repairs, and the seconds that it took, calibration included."""
    images = qs.open_images(CALIBRATION)
    found = {}
    for names in REPAIRS[scheme]:
        bare = qs.make_plan(model, scheme, engine)
        started = time.perf_counter()
        plan = repair_plan(model, bare, images, names) if names else qs.calibrate(model, bare, images)
        found[names or "none"] = (plan, time.perf_counter() - started)
    return found


def measure(name: str, scheme: str, engine: str, dataset: qs.Dataset) -> list[dict[str, Any]]:
    """Return a row for each repair of a model on an engine."""
    model = load(name)
    whole = qs.evaluate(model, dataset, prompts="box")
    plans = plans_of(model, scheme, engine)
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
            plan = plans["streams,migrate"][0]
            deployed["scales in the rounding"] = qs.make_engine_encoder(model, plan, engine)
        rows.append({**rows[-1], "repairs": "scales in the rounding", "seconds": None, "drop": None, "drop_se": None})
    side = model.variant.input_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    taken = interleaved_ms({key: lambda e=e: e(image) for key, e in deployed.items()}, ROUNDS, PAUSE_S)  # type: ignore[misc]
    return [{**row, "ms": taken[str(row["repairs"])]} for row in rows]


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier", "nano-hidden"])
    args = parser.parse_args()
    qs.keep_freed_memory()
    os.environ["QUANTSAM_CACHE"] = "off"  # what is timed is made, not loaded
    dataset = qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)
    engines = ("onnxruntime", "openvino")
    runs = [(n, s, e) for n in args.models for s in REPAIRS for e in engines if (n, s) != ("nano-hidden", "w4a8")]
    rows = [row for run in runs for row in measure(*run, dataset)]
    save("repair", {"scenes": args.scenes, "rows": rows})


if __name__ == "__main__":
    main()
