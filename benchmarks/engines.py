"""Time L0's encoder in engines, FP32 and INT8, against other quantizers of the same model; in one run.

    pip install nncf onnx onnxruntime openvino   (nncf in an environment of its own, named by --nncf-python)
    python benchmarks/engines.py [--model l0] [--rounds 15] [--nncf-python PYTHON]

Fixed random weights: latency and size only. NNCF's graph is made by its own post-training quantization of our FP32
ONNX file, ONNX Runtime's by its `quantize_static`; all are timed in turn in this process.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleaved_ms, save
from numpy.typing import NDArray
from torch import Tensor

import quantsam as qs
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.models.sam import EfficientViTSam
from quantsam.results.machine import environment, instruction_sets
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions, require

THREADS = 2
RUNS = (
    ("onnxruntime", "fp32", ""),
    ("onnxruntime", "int8", ""),
    ("onnxruntime", "int8", "+additions"),
    ("openvino", "fp32", ""),
    ("openvino", "int8", ""),
)
"""Engine, scheme, and what is changed of the placement."""

NNCF = """
import sys, nncf, numpy as np, openvino as ov
model = ov.Core().read_model(sys.argv[1])
model.reshape([1, 3, int(sys.argv[3]), int(sys.argv[3])])
rng = np.random.default_rng(0)
data = [rng.standard_normal((1, 3, int(sys.argv[3]), int(sys.argv[3]))).astype(np.float32) for _ in range(4)]
ov.save_model(nncf.quantize(model, nncf.Dataset(data), subset_size=4), sys.argv[2], compress_to_fp16=False)
print(nncf.__version__)
"""


class _Noise:
    """Calibration data as `quantize_static` reads it."""

    def __init__(self, images: list[NDArray[np.float32]]) -> None:
        self._rest = list(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return {"image": self._rest.pop(0)} if self._rest else None


def random_model(name: str) -> EfficientViTSam:
    """Return a model with fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return qs.create_model(name).requires_grad_(False)


def openvino_file(path: Path, side: int) -> Callable[[NDArray[np.float32]], object]:
    """Return what runs a graph of OpenVINO's own format."""
    ov = require("openvino")
    model = ov.Core().read_model(str(path))
    model.reshape([1, 3, side, side])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: request.infer({0: x})


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l0")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--nncf-python", help="a Python that has nncf")
    args = parser.parse_args()
    qs.keep_freed_memory()
    torch.set_num_threads(THREADS)
    model = random_model(args.model)
    side = model.variant.input_size
    images = [torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(s)) for s in range(4)]
    x = images[0].numpy()
    calls: dict[str, Callable[[NDArray[np.float32]], object]] = {}
    sizes: dict[str, int] = {}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for engine, scheme, change in RUNS:
            started, name = time.perf_counter(), f"{engine} {scheme}{change}"
            plan = qs.calibrate(model, qs.make_plan(model, scheme, f"{engine}{change}"), images)
            graph = encoder_to_onnx(model, plan).SerializeToString()
            session = open_session(engine, graph, SessionOptions(THREADS, shapes={"image": (1, 3, side, side)}))
            calls[name] = lambda x, session=session: session.run({"image": x})  # type: ignore[misc]
            sizes[name] = len(graph)
            (folder / f"{name.replace(' ', '_')}.onnx").write_bytes(graph)
            print(f"{name}: ready in {time.perf_counter() - started:.0f} s", flush=True)
        fast = SessionOptions(THREADS, "bf16", shapes={"image": (1, 3, side, side)})
        for scheme in ("fp32", "int8"):
            session = open_session("openvino", folder / f"openvino_{scheme}.onnx", fast)
            calls[f"openvino {scheme} bf16"] = lambda x, session=session: session.run({"image": x})  # type: ignore[misc]
        static = open_session("onnxruntime", quantize_static_file(folder, images), SessionOptions(THREADS))
        calls["onnxruntime quantize_static"] = lambda x: static.run({"image": x})
        if args.nncf_python:
            command = [
                args.nncf_python,
                "-c",
                NNCF,
                str(folder / "openvino_fp32.onnx"),
                str(folder / "nncf.xml"),
                str(side),
            ]
            versions["nncf"] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
            calls["openvino NNCF"] = openvino_file(folder / "nncf.xml", side)
            sizes["openvino NNCF"] = (folder / "nncf.bin").stat().st_size
        with torch.inference_mode():
            calls["pytorch fp32"] = lambda x: model.image_encoder(torch.from_numpy(x))
            tasks: dict[str, Callable[[], object]] = {n: lambda call=call: call(x) for n, call in calls.items()}  # type: ignore[misc]
            medians = interleaved_ms(tasks, args.rounds)
    for name, value in medians.items():
        print(f"{name}: {value:.1f} ms")
    found: dict[str, Any] = {"model": args.model, "rounds": args.rounds, "threads": THREADS, "median_ms": medians}
    found |= {
        "size_bytes": sizes,
        "engines": environment("onnxruntime", "openvino", "onnx") | versions,
        "isa": list(instruction_sets()),
    }
    save(f"engines_{args.model}", found)


def quantize_static_file(folder: Path, images: list[Tensor]) -> Path:
    """Let ONNX Runtime's own tool quantize `onnxruntime_fp32.onnx`, and return its file."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, target = folder / "prepared.onnx", folder / "static.onnx"
    quant_pre_process(str(folder / "onnxruntime_fp32.onnx"), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        _Noise([image.numpy() for image in images]),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return target


if __name__ == "__main__":
    main()
