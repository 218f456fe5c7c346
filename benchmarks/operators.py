"""Where ONNX Runtime's time goes in L0's encoder: milliseconds by operator, ours beside `quantize_static`.

    python benchmarks/operators.py [--model l0] [--rounds 8]

One thread, fixed random weights, ONNX Runtime's own profile; the graphs run in turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import save
from engines import quantize_static_file, random_model

import quantsam as qs
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.results.machine import environment

RUNS = (("fp32", ""), ("int8", ""), ("int8", "+additions"))
"""Scheme, and what is changed of the placement."""


def operators(profile: Path) -> dict[str, dict[str, float]]:
    """Return for each operator how many nodes a profile has, and the sum of their median milliseconds."""
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            taken[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"nodes": 0, "ms": 0.0})
    for (kind, _), values in taken.items():
        found[kind]["nodes"] += 1
        found[kind]["ms"] += median(values)
    return dict(found)


def main() -> None:
    """Profile each graph."""
    import onnxruntime as ort

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l0")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    qs.keep_freed_memory()
    model = random_model(args.model)
    side = model.variant.input_size
    images = [torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {}
        for scheme, change in RUNS:
            plan = qs.calibrate(model, qs.make_plan(model, scheme, f"onnxruntime{change}"), images)
            files[scheme + change] = folder / f"onnxruntime_{scheme}{change}.onnx"
            files[scheme + change].write_bytes(encoder_to_onnx(model, plan).SerializeToString())
        files["quantize_static"] = quantize_static_file(folder, images)
        sessions = {}
        for name, file in files.items():
            options = ort.SessionOptions()
            options.enable_profiling, options.intra_op_num_threads, options.log_severity_level = True, 1, 3
            options.profile_file_prefix = str(folder / f"profile_{name}")
            sessions[name] = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for _ in range(args.rounds):
            for session in sessions.values():
                session.run(None, {"image": images[0].numpy()})
        profiles: dict[str, Any] = {name: operators(Path(s.end_profiling())) for name, s in sessions.items()}
    for name, found in profiles.items():
        print(f"{name}: {sum(entry['ms'] for entry in found.values()):.0f} ms, {found}")
    document = {"model": args.model, "rounds": args.rounds, "graphs": profiles}
    save(f"operators_{args.model}", document | {"engines": environment("onnxruntime")})


if __name__ == "__main__":
    main()
