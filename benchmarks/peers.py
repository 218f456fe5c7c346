"""INT8 of our models by other tools and by ours: same model, calibration images, engine and pictures.

    pip install nncf openvino   (in an environment of its own, named by --nncf-python)
    python benchmarks/peers.py [--scenes 100] [--models nano nano-outlier nano-hidden] [--nncf-python PYTHON]

NNCF quantizes our FP32 graph for OpenVINO: as it does by default; with its mixed preset; with SmoothQuant for
convolutions; with full bias correction. ONNX Runtime's `quantize_static` does so for ONNX Runtime by three calibration
methods. Accuracy is the engine's own, paired with FP32's on the same objects; time is the encoder's, all in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleaved_ms, save
from engines import openvino_file
from numpy.typing import NDArray
from repair import CALIBRATION, HELD_OUT_SEED, load
from torch import Tensor, nn

import quantsam as qs
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.transforms import preprocess
from quantsam.repair.repair import repair_plan
from quantsam.results.compare import compare
from quantsam.results.machine import environment, instruction_sets
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions

THREADS = 2
REPAIRS = ("streams", "streams,migrate,ranges")
NNCF_SETTINGS: dict[str, dict[str, Any]] = {
    "NNCF": {},
    "NNCF, mixed preset": {"preset": "mixed"},
    "NNCF, SmoothQuant for convolutions": {"smooth_quant": 0.5},
    "NNCF, full bias correction": {"fast_bias_correction": False},
    "NNCF, mixed, full bias correction": {"preset": "mixed", "fast_bias_correction": False},
}
NNCF = """
import json, sys, nncf, numpy as np, openvino as ov
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
source, target, data, asked = *sys.argv[1:4], json.loads(sys.argv[4])
images = np.load(data)["images"]
model = ov.Core().read_model(source)
model.reshape(list(images[:1].shape))
alpha = asked.pop("smooth_quant", None)
if "preset" in asked:
    asked["preset"] = nncf.QuantizationPreset(asked["preset"])
if alpha is not None:
    smooth = AdvancedSmoothQuantParameters(convolution=alpha)
    asked["advanced_parameters"] = AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
dataset = nncf.Dataset([image[None] for image in images])
quantized = nncf.quantize(model, dataset, subset_size=len(images), **asked)
ov.save_model(quantized, target, compress_to_fp16=False)
print(nncf.__version__)
"""
METHODS = ("MinMax", "Entropy", "Percentile")

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class FileEncoder(nn.Module):
    """An encoder that a function computes, (1, 3, S, S) float32 to the embedding."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding."""
        return torch.from_numpy(np.array(self._run(x.cpu().numpy())))


def _first(outputs: Mapping[Any, NDArray[np.float32]]) -> NDArray[np.float32]:
    return next(iter(outputs.values()))


class _Images:
    """Calibration data as `quantize_static` reads it."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._rest = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._rest, None)
        return None if image is None else {"image": image[None]}


def by_us(model: EfficientViTSam, engine: str, folder: Path) -> Iterator[tuple[str, Run, int, float]]:
    """Yield FP32, and INT8 by quantsam without and with repairs: name, what runs it, bytes and seconds."""
    images = qs.open_images(CALIBRATION)
    for name in ("fp32", "", *REPAIRS):
        started = time.perf_counter()
        plan = qs.make_plan(model, "fp32" if name == "fp32" else "int8", engine)
        if name != "fp32":
            plan = repair_plan(model, plan, images, name) if name else qs.calibrate(model, plan, images)
        seconds = time.perf_counter() - started
        graph = encoder_to_onnx(model, plan).SerializeToString()
        if name == "fp32":
            (folder / "fp32.onnx").write_bytes(graph)
        side = model.variant.input_size
        session = open_session(engine, graph, SessionOptions(THREADS, shapes={"image": (1, 3, side, side)}))
        label = "fp32" if name == "fp32" else f"quantsam{', ' + name if name else ''}"
        yield label, lambda x, session=session: _first(session.run({"image": x})), len(graph), seconds  # type: ignore[misc]


def by_nncf(folder: Path, side: int, python: str, versions: dict[str, str]) -> Iterator[tuple[str, Run, int, float]]:
    """Yield INT8 by NNCF."""
    for number, (label, settings) in enumerate(NNCF_SETTINGS.items()):
        target = folder / f"nncf{number}.xml"
        started = time.perf_counter()
        command = [python, "-c", NNCF, folder / "fp32.onnx", target, folder / "images.npz", json.dumps(settings)]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if done.returncode:
            print(f"{label}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        versions["nncf"] = done.stdout.split()[-1]
        seconds = time.perf_counter() - started
        call = openvino_file(target, side)
        run: Run = lambda x, call=call: _first(call(x))  # type: ignore[misc]  # noqa: E731
        yield label, run, target.with_suffix(".bin").stat().st_size, seconds


def by_onnxruntime(folder: Path, images: NDArray[np.float32]) -> Iterator[tuple[str, Run, int, float]]:
    """Yield INT8 by ONNX Runtime's own tool."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(folder / "fp32.onnx"), str(prepared), skip_symbolic_shape=True)
    for method in METHODS:
        target = folder / f"static_{method}.onnx"
        started = time.perf_counter()
        quantize_static(
            str(prepared),
            str(target),
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )
        seconds = time.perf_counter() - started
        session = open_session("onnxruntime", target, SessionOptions(THREADS))
        run: Run = lambda x, session=session: _first(session.run({"image": x}))  # type: ignore[misc]  # noqa: E731
        yield f"quantize_static, {method}", run, target.stat().st_size, seconds


def measure(name: str, engine: str, args: argparse.Namespace, versions: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each way to quantize a model for an engine."""
    model, dataset = load(name), qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)
    side = model.variant.input_size
    pictures = np.concatenate([preprocess(image, side).numpy() for image in qs.open_images(CALIBRATION)])
    rows, runs, whole = [], {}, None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.savez(folder / "images.npz", images=pictures)
        ways = [*by_us(model, engine, folder)]
        if engine == "onnxruntime":
            ways += by_onnxruntime(folder, pictures)
        elif args.nncf_python:
            ways += by_nncf(folder, side, args.nncf_python, versions)
        for label, run, size, seconds in ways:
            record = qs.evaluate(model.with_encoder(FileEncoder(run)), dataset, prompts="box")
            whole = whole or record
            difference = compare(whole, record)
            row = {"model": name, "engine": engine, "by": label, "miou": record.figures["miou"], "seconds": seconds}
            row |= {"drop": -difference.mean_difference, "drop_se": difference.standard_error, "bytes": size}
            rows.append(row | {"count": record.figures["count"]})
            runs[label] = run
            print(f"{name} on {engine} by {label}: {difference.mean_difference:+.2f}, {seconds:.1f} s", flush=True)
        x = pictures[:1]
        taken = interleaved_ms({label: lambda run=run: run(x) for label, run in runs.items()}, args.rounds, 0.05)  # type: ignore[misc]
    return [{**row, "ms": taken[str(row["by"])]} for row in rows]


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier", "nano-hidden"])
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--nncf-python", help="a Python that has nncf")
    args = parser.parse_args()
    qs.keep_freed_memory()
    torch.set_num_threads(THREADS)
    os.environ["QUANTSAM_CACHE"] = "off"  # what is timed is made, not loaded
    versions: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for name in args.models:
        for engine in args.engines:
            rows += measure(name, engine, args, versions)
            found: dict[str, Any] = {"scenes": args.scenes, "rounds": args.rounds, "threads": THREADS, "rows": rows}
            found["engines"] = environment("onnxruntime", "openvino", "onnx") | versions
            save("peers", found | {"isa": list(instruction_sets())})


if __name__ == "__main__":
    main()
