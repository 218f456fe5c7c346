"""L0 on processors with and without VNNI: exactness in an emulator, and time with the kernels of both.

    apt-get install qemu-user
    python benchmarks/processors_l0.py [--model l0] [--rounds 15]

Fixed random weights. Exactness: signal-to-noise ratio of the embedding against exact integers, one image, on Intel's
Haswell in QEMU. Time: this processor's kernels, and OpenVINO's limited to AVX2 in a child process; ONNX Runtime cannot
be limited, and an emulator's time says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleaved_ms, save
from engines import random_model
from torch import Tensor

import quantsam as qs
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.models.sam import EfficientViTSam
from quantsam.runtime.engines import open_session
from quantsam.runtime.processor import adds_in_32_bits, processor_text
from quantsam.runtime.sessions import SessionOptions

THREADS = 2
PAUSE_S = 0.3
PLACEMENTS = ("onnxruntime", "onnxruntime+vnni", "openvino", "openvino+vnni")
RUN = """
import sys, numpy as np
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions
engine, graph, image, out, wide = sys.argv[1:]
x = np.load(image)
options = SessionOptions(1, wide_sums=wide == "True", shapes={"image": x.shape})
session = open_session(engine, open(graph, "rb").read(), options)
np.save(out, session.run({"image": x})["embedding"])
"""


def ratio_db(expected: Tensor, found: Tensor) -> float:
    """Return the signal-to-noise ratio of an embedding in dB."""
    return float(10 * torch.log10(expected.square().mean() / (found - expected).square().mean()))


def on_haswell(folder: Path, placement: str, wide: bool) -> Tensor:
    """Run a graph that was written to a folder, on its image."""
    out = folder / f"{placement}-{wide}.npy"
    command = ["qemu-x86_64", "-cpu", "Haswell-v1", sys.executable, "-c", RUN, placement.split("+")[0]]
    command += [str(folder / f"{placement}.onnx"), str(folder / "image.npy"), str(out), str(wide)]
    environment = {**os.environ, "PYTHONPATH": str(Path(qs.__file__).parents[1])}
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    return torch.from_numpy(np.load(out))


def times(folder: Path, rounds: int, engines: tuple[str, ...]) -> dict[str, Any]:
    """Time the graphs of a folder in turn, with this process' kernels."""
    image = np.load(folder / "image.npy")
    tasks: dict[str, Callable[[], object]] = {}
    for placement in PLACEMENTS:
        engine = placement.split("+")[0]
        if engine not in engines:
            continue
        for wide in (False, True) if placement == "onnxruntime+vnni" else (False,):
            options = SessionOptions(THREADS, wide_sums=wide, shapes={"image": image.shape})
            session = open_session(engine, (folder / f"{placement}.onnx").read_bytes(), options)
            name = f"{placement}{', session option' if wide else ''}"
            tasks[name] = lambda session=session: session.run({"image": image})  # type: ignore[misc]
    return {"median_ms": interleaved_ms(tasks, rounds, PAUSE_S), "processor": {e: processor_text(e) for e in engines}}


def write_graphs(model: EfficientViTSam, folder: Path) -> dict[str, Tensor]:
    """Write the graph of each placement and an image; return what exact integers give."""
    side = model.variant.input_size
    images = [torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    np.save(folder / "image.npy", images[0].numpy())
    exact = {}
    for placement in PLACEMENTS:
        plan = qs.calibrate(model, qs.make_plan(model, "int8", placement), images)
        (folder / f"{placement}.onnx").write_bytes(encoder_to_onnx(model, plan).SerializeToString())
        with torch.inference_mode():
            exact[placement] = qs.simulate(model, plan, exact=True)(images[0])
    return exact


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l0")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="time the graphs that are there, print and end (for the child)")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if args.folder is not None:
        print(json.dumps(times(args.folder, args.rounds, ("openvino",))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        exact = write_graphs(random_model(args.model), folder)
        found: dict[str, Any] = {"here": times(folder, args.rounds, ("onnxruntime", "openvino"))}
        child = subprocess.run(
            [sys.executable, __file__, "--folder", str(folder), "--rounds", str(args.rounds)],
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
            stdout=subprocess.PIPE,
            check=True,
        )
        found["avx2"] = json.loads(child.stdout)
        found["snr_db"] = {}
        for placement in PLACEMENTS:
            for wide in (False, True) if placement == "onnxruntime+vnni" else (False,):
                value = ratio_db(exact[placement], on_haswell(folder, placement, wide))
                found["snr_db"][f"{placement}{', session option' if wide else ''}"] = min(value, 200.0)
        if not adds_in_32_bits("onnxruntime"):
            found["note"] = "this processor has no VNNI"
    print(json.dumps(found, indent=1))
    save(f"processors_{args.model}", {"model": args.model, "rounds": args.rounds, "threads": THREADS, **found})


if __name__ == "__main__":
    main()
