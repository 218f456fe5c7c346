"""INT8 of our models by other tools and by ours: same model, calibration images, engine and pictures.

    pip install nncf openvino    (in an environment of its own, named by --nncf-python)
    pip install aimet-onnx       (in another, named by --aimet-python)
    pip install torchao torch    (in a third, with this Python's torch, named by --torchao-python; needs g++)
    python benchmarks/peers.py [--scenes 100] [--models nano nano-outlier nano-hard] [--nncf-python PYTHON]
        [--aimet-python PYTHON] [--torchao-python PYTHON] [--add] [--quick]

NNCF quantizes our FP32 graph for OpenVINO: as it does by default; with its mixed preset; with SmoothQuant for
convolutions; with full bias correction; with accuracy control, which leaves operations in float. ONNX Runtime's
`quantize_static` does so for ONNX Runtime by three calibration methods. So does AIMET, whose file ONNX Runtime runs: as
by default; with ranges by its tf_enhanced; with cross-layer equalization; with sequential MSE; with its lite mixed
precision. torchao quantizes the PyTorch model for Inductor. Without a tool's Python its rows are left out.

Accuracy control and lite mixed precision choose by how much of FP32's embedding is kept on 8 further scenes, not by
mIoU, which their processes cannot measure (peer_programs/ says how). AIMET's AdaRound is left out: for nano on one
thread 100 steps took 209 s and 500 took 272, so the 10 000 that it recommends would take about half an hour.

Accuracy is the engine's own, paired with FP32's on the same objects; time is the encoder's, all in turn.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleaved_ms, kept_rows, load, save
from numpy.typing import NDArray
from peer_ways import THREADS, Run, Way, by_aimet, by_nncf, by_onnxruntime, by_torchao, by_us
from repair import CALIBRATION, HELD_OUT_SEED
from torch import Tensor, nn

import quantsam as qs
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.transforms import preprocess
from quantsam.results.compare import compare
from quantsam.results.machine import environment, instruction_sets

VALIDATION = "scenes:8:2"
"""What accuracy control and mixed precision choose by: neither calibrated on nor scored."""


class FileEncoder(nn.Module):
    """An encoder that a function computes, (1, 3, S, S) float32 to the embedding."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding."""
        return torch.from_numpy(np.array(self._run(x.cpu().numpy())))


def _pictures(source: str, side: int) -> NDArray[np.float32]:
    return np.concatenate([preprocess(image, side).numpy() for image in qs.open_images(source)])


def ways_of(
    model: EfficientViTSam, engine: str, folder: Path, args: argparse.Namespace, versions: dict[str, str]
) -> list[Way]:
    """Return the ways to quantize a model for an engine, FP32 first."""
    side = model.variant.input_size
    images = _pictures(CALIBRATION, side)
    np.savez(folder / "images.npz", images=images, validation=_pictures(VALIDATION, side))
    if engine == "inductor":
        return [*by_torchao(model, folder, args.torchao_python, versions)] if args.torchao_python else []
    ways = [*by_us(model, engine, folder)]
    if engine == "onnxruntime":
        ways += by_onnxruntime(folder, images)
        ways += by_aimet(folder, args.aimet_python, versions, quick=args.quick) if args.aimet_python else []
    elif args.nncf_python:
        ways += by_nncf(folder, side, args.nncf_python, versions, quick=args.quick)
    return ways


def measure(name: str, engine: str, args: argparse.Namespace, versions: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each way to quantize a model for an engine."""
    model, dataset = qs.load_model(name), qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)
    rows, whole = [], None
    with tempfile.TemporaryDirectory() as scratch:
        ways = ways_of(model, engine, Path(scratch), args, versions)
        for way in ways:
            record = qs.evaluate(model.with_encoder(FileEncoder(way.run)), dataset, prompts="box")
            whole = whole or record
            difference = compare(whole, record)
            row = {"model": name, "engine": engine, "by": way.label, "miou": record.figures["miou"]}
            row |= {"seconds": way.seconds, "drop": -difference.mean_difference, "drop_se": difference.standard_error}
            rows.append(row | {"bytes": way.size, "count": record.figures["count"], "note": way.note})
            about = f"{difference.mean_difference:+.2f}, {way.seconds:.1f} s{', ' + way.note if way.note else ''}"
            print(f"{name} on {engine} by {way.label}: {about}", flush=True)
        x = _pictures(CALIBRATION, model.variant.input_size)[:1]
        taken = interleaved_ms({way.label: lambda run=way.run: run(x) for way in ways}, args.rounds, 0.05)  # type: ignore[misc]
    return [{**row, "ms": taken[str(row["by"])]} for row in rows]


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier", "nano-hard"])
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino", "inductor"])
    parser.add_argument("--add", action="store_true", help="keep what was measured of other models and engines")
    parser.add_argument("--quick", action="store_true", help="leave out the ways that take longest, see peer_ways.SLOW")
    parser.add_argument("--nncf-python", help="a Python that has nncf")
    parser.add_argument("--aimet-python", help="a Python that has aimet-onnx")
    parser.add_argument("--torchao-python", help="a Python that has torchao and this torch")
    args = parser.parse_args()
    qs.keep_freed_memory()
    torch.set_num_threads(THREADS)
    os.environ["QUANTSAM_CACHE"] = "off"  # what is timed is made, not loaded
    settings = {"scenes": args.scenes, "rounds": args.rounds, "threads": THREADS}
    versions: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    if args.add:
        again = set(itertools.product(args.models, args.engines))
        rows = kept_rows("peers", settings, lambda row: (row["model"], row["engine"]) in again)
        versions = load("peers")["engines"]
    for name in args.models:
        for engine in args.engines:
            rows += measure(name, engine, args, versions)
            found: dict[str, Any] = {**settings, "rows": rows}
            found["engines"] = versions | environment("onnxruntime", "openvino", "onnx")
            save("peers", found | {"isa": list(instruction_sets())})


if __name__ == "__main__":
    main()
