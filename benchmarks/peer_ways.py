"""The ways to quantize that peers.py compares: ours, NNCF's, ONNX Runtime's, AIMET's and torchao's.

NNCF, AIMET and torchao run in environments of their own: a program of peer_programs/ reads a file of FP32 and writes
one of INT8, which the engine then runs in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from engines import openvino_file
from numpy.typing import NDArray
from repair import CALIBRATION

import quantsam as qs
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.models.sam import EfficientViTSam
from quantsam.repair.repair import repair_plan
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions

THREADS = 2
SLOW = ("max_drop", "mixed", "seq_mse")
"""Settings of ways that take 3 to 40 minutes: those that choose layers by accuracy, and sequential MSE."""
PROGRAMS = Path(__file__).parent / "peer_programs"
REPAIRS = ("reflect,streams", "reflect,streams,migrate,ranges")
METHODS = ("MinMax", "Entropy", "Percentile")
MAX_DROP = 0.01
"""What accuracy control may lose of its metric (see by_nncf.py); NNCF's default."""
NNCF_SETTINGS: dict[str, dict[str, Any]] = {
    "NNCF": {},
    "NNCF, mixed preset": {"preset": "mixed"},
    "NNCF, SmoothQuant for convolutions": {"smooth_quant": 0.5},
    "NNCF, full bias correction": {"fast_bias_correction": False},
    "NNCF, mixed, full bias correction": {"preset": "mixed", "fast_bias_correction": False},
    "NNCF, accuracy control": {"max_drop": MAX_DROP},
    "NNCF, mixed, accuracy control": {"preset": "mixed", "max_drop": MAX_DROP},
}
AIMET_SETTINGS: dict[str, dict[str, Any]] = {
    "AIMET": {},
    "AIMET, tf_enhanced": {"scheme": "tf_enhanced"},
    "AIMET, cross-layer equalization": {"equalize": True},
    "AIMET, sequential MSE": {"seq_mse": True},
    "AIMET, tf_enhanced, lite mixed precision": {"scheme": "tf_enhanced", "mixed": True},
}

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Way:
    """An encoder, quantized one way.

    Attributes:
        label: How.
        run: Maps a picture, (1, 3, S, S), to its embedding.
        seconds: What it took to make, a process and its imports included.
        size: Bytes of its file; None if that says nothing.
        note: What a reader of the figures should know.
    """

    label: str
    run: Run
    seconds: float
    size: int | None = None
    note: str = ""


def _first(outputs: Mapping[Any, NDArray[np.float32]]) -> NDArray[np.float32]:
    return next(iter(outputs.values()))


def by_us(model: EfficientViTSam, engine: str, folder: Path) -> Iterator[Way]:
    """Yield FP32, and INT8 by quantsam without and with repairs."""
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
        run: Run = lambda x, session=session: _first(session.run({"image": x}))  # type: ignore[misc]  # noqa: E731
        yield Way("fp32" if name == "fp32" else f"quantsam{', ' + name if name else ''}", run, seconds, len(graph))


class _Images:
    """Calibration data as `quantize_static` reads it."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._rest = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._rest, None)
        return None if image is None else {"image": image[None]}


def by_onnxruntime(folder: Path, images: NDArray[np.float32]) -> Iterator[Way]:
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
        yield _onnx_way(f"quantize_static, {method}", target, time.perf_counter() - started)


def _without_slow(ways: dict[str, dict[str, Any]], quick: bool) -> dict[str, dict[str, Any]]:
    """Return settings by label, in quick measurements without the slow ones."""
    return {label: settings for label, settings in ways.items() if not (quick and any(key in SLOW for key in settings))}


def by_aimet(folder: Path, python: str, versions: dict[str, str], *, quick: bool = False) -> Iterator[Way]:
    """Yield INT8 by AIMET, run by ONNX Runtime."""
    for number, (label, settings) in enumerate(_without_slow(AIMET_SETTINGS, quick).items()):
        target = folder / f"aimet{number}.onnx"
        made = _make(label, [python, PROGRAMS / "by_aimet.py", folder / "fp32.onnx", target], settings, versions)
        if made:
            yield _onnx_way(label, target, *made)


def by_nncf(folder: Path, side: int, python: str, versions: dict[str, str], *, quick: bool = False) -> Iterator[Way]:
    """Yield INT8 by NNCF, run by OpenVINO."""
    for number, (label, settings) in enumerate(_without_slow(NNCF_SETTINGS, quick).items()):
        target = folder / f"nncf{number}.xml"
        made = _make(label, [python, PROGRAMS / "by_nncf.py", folder / "fp32.onnx", target], settings, versions)
        if made:
            seconds, note = made
            call = openvino_file(target, side)
            run: Run = lambda x, call=call: _first(call(x))  # type: ignore[misc]  # noqa: E731
            yield Way(label, run, seconds, target.with_suffix(".bin").stat().st_size, note)


def by_torchao(model: EfficientViTSam, folder: Path, python: str, versions: dict[str, str]) -> Iterator[Way]:
    """Yield FP32 and INT8 by torchao, both compiled by Inductor and run by PyTorch."""
    source, side = folder / "encoder.pt2", model.variant.input_size
    # only a strict export names the functions that X86InductorQuantizer looks for
    exported = torch.export.export(model.float_encoder, (torch.zeros(1, 3, side, side),), strict=True)
    torch.export.save(exported, source)
    for label, quantize in (("fp32", False), ("torchao", True)):
        target = folder / f"{label}.pt2"
        settings = {"quantize": quantize, "threads": THREADS}
        made = _make(label, [python, PROGRAMS / "by_torchao.py", source, target], settings, versions)
        if not made:
            return  # without FP32 there is nothing to compare with
        seconds, note = made
        package = torch._inductor.aoti_load_package(str(target))
        run: Run = lambda x, package=package: package(torch.from_numpy(x)).numpy()  # type: ignore[misc]  # noqa: E731
        yield Way(label, run, seconds, None, note)


def _make(
    label: str, command: list[str | Path], settings: dict[str, Any], versions: dict[str, str]
) -> tuple[float, str] | None:
    """Let a program write its target; return the seconds and its note, None if it failed."""
    folder = Path(command[-1]).parent
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}  # what is timed is compiled, not loaded
    started = time.perf_counter()
    full = [*map(str, command), str(folder / "images.npz"), json.dumps(settings)]
    done = subprocess.run(full, capture_output=True, text=True, env=os.environ | caches)
    if done.returncode:
        why = (done.stderr.strip() or "failed").splitlines()[-1]
        print(f"{label} ({Path(command[1]).name}): {why}", file=sys.stderr, flush=True)
        return None
    answer = json.loads(done.stdout.splitlines()[-1])
    versions |= answer["versions"]
    return time.perf_counter() - started, answer["note"]


def _onnx_way(label: str, target: Path, seconds: float, note: str = "") -> Way:
    """Return a file as ONNX Runtime runs it, with a note if it computes convolutions in float."""
    session = open_session("onnxruntime", target, SessionOptions(THREADS))
    run: Run = lambda x: _first(session.run({"image": x}))  # noqa: E731
    notes = [part for part in (note, _floats(target)) if part]
    return Way(label, run, seconds, target.stat().st_size, "; ".join(notes))


def _floats(target: Path) -> str:
    """Return how many convolutions ONNX Runtime computes in float, once it has optimized a file; empty if none."""
    import onnxruntime as ort

    options, optimized = ort.SessionOptions(), target.with_suffix(".optimized.onnx")
    options.optimized_model_filepath, options.log_severity_level = str(optimized), 3
    ort.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    integer, floating = kinds.count("QLinearConv"), kinds.count("Conv") + kinds.count("FusedConv")
    return f"{floating} of {integer + floating} convolutions in float" if floating else ""
