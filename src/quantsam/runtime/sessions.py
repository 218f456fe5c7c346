"""One way to run an ONNX graph, whichever engine does it. Nothing here imports PyTorch."""

from __future__ import annotations

import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quantsam.errors import EngineError, InputError, nearest
from quantsam.versions import check_version

Array = NDArray[Any]
Precision = Literal["f32", "bf16"]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a graph is run.

    Attributes:
        threads: Threads of one inference; the engine's choice if None.
        precision: What is not quantized runs in float32, or where the engine can in bfloat16.
        optimize: Let the engine rewrite the graph; without, it runs node by node as written (ONNX Runtime alone).
        profile: Let the engine note what each node takes, for `Session.profile`; slows it down.
        wide_sums: Let ONNX Runtime add products in 32 bits on x86 processors without VNNI too; slower, also where it
            changes nothing.
        shapes: Fixed shapes of inputs whose dimensions vary in the file, by name; faster on OpenVINO.
    """

    threads: int | None = None
    precision: Precision = "f32"
    optimize: bool = True
    profile: bool = False
    wide_sums: bool = False
    shapes: Mapping[str, tuple[int, ...]] | None = None


class Session(Protocol):
    """A graph that an engine has taken in.

    Attributes:
        engine: The engine's name.
        handle: The engine's own object, for what only it can tell.
    """

    engine: str
    handle: Any

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        ...


def require(package: str) -> Any:
    """Import an engine's package.

    Raises:
        EngineError: It is not installed; the message says which extra brings it.
        VersionError: It is too old; the message says what it must be.
    """
    if find_spec(package) is None:
        raise EngineError(
            f"engine {package!r} needs the package {package}, which is not installed: pip install 'quantsam[{package}]'"
        )
    check_version(package)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime's; it complains where it cannot write, too
    return importlib.import_module(package)


def open_session(engine: str, model: bytes | Path, options: SessionOptions = SessionOptions()) -> Session:
    """Give a graph to an engine.

    Args:
        engine: `onnxruntime` or `openvino`.
        model: The ONNX file, or what is in it.
        options: How to run it.

    Raises:
        InputError: There is no such engine, or it has no such precision.
        EngineError: The engine is not installed, or cannot run the graph.
    """
    if engine not in _ENGINES:
        raise InputError(f"engine must be one of {', '.join(_ENGINES)}, got {engine!r}: {nearest(engine, _ENGINES)}")
    package = require(engine)
    try:
        return _ENGINES[engine](package, model, options)
    except (InputError, EngineError):
        raise
    except Exception as error:  # each engine has errors of its own
        what = repr(str(model)) if isinstance(model, Path) else "the graph"
        raise EngineError(f"{engine} cannot run {what} ({_reason(error)}): export it for {engine}") from error


class OnnxRuntimeSession:
    """A graph in ONNX Runtime, on the processor."""

    engine = "onnxruntime"

    def __init__(self, ort: Any, model: bytes | Path, options: SessionOptions) -> None:
        if options.precision != "f32":
            raise InputError(f"precision of onnxruntime must be 'f32', got {options.precision!r}: openvino has 'bf16'")
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # what is wrong comes as an exception
        self._scratch = tempfile.TemporaryDirectory() if options.profile else None
        if self._scratch is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(self._scratch.name) / "profile")
        if options.threads:
            settings.intra_op_num_threads = options.threads
        if options.wide_sums:
            settings.add_session_config_entry("session.x64quantprecision", "1")
        levels = ort.GraphOptimizationLevel
        settings.graph_optimization_level = levels.ORT_ENABLE_ALL if options.optimize else levels.ORT_DISABLE_ALL
        source = model if isinstance(model, bytes) else str(model)
        self.handle = ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self.handle.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        try:
            found = self.handle.run(self._outputs, dict(inputs))
        except Exception as error:  # a kernel that finds only now that it cannot, such as a scale a channel
            raise EngineError(
                f"onnxruntime cannot run the graph ({_reason(error)}): export it for onnxruntime"
            ) from error
        return dict(zip(self._outputs, found, strict=True))

    def profile(self, inputs: Mapping[str, Array], warm_up: int, rounds: int) -> list[list[tuple[str, float]]]:
        """Return for each of some inferences every node's name and milliseconds, in the order of running; once."""
        for _ in range(warm_up + rounds):
            self.run(inputs)
        events = json.loads(Path(self.handle.end_profiling()).read_text("utf-8"))
        if self._scratch is not None:
            self._scratch.cleanup()
        found: list[list[tuple[str, float]]] = [[]]
        for event in events:
            if event["name"] == "SequentialExecutor::Execute":  # closes an inference
                found.append([])
            elif event["name"].endswith("_kernel_time"):
                found[-1].append((event["name"].removesuffix("_kernel_time"), event["dur"] / 1000))
        return found[warm_up : warm_up + rounds]


class OpenVinoSession:
    """A graph in OpenVINO, on the processor."""

    engine = "openvino"

    def __init__(self, openvino: Any, model: bytes | Path, options: SessionOptions) -> None:
        if not options.optimize:
            raise InputError("openvino always rewrites the graph, got optimize=False: onnxruntime can run it as it is")
        core = openvino.Core()
        graph = core.read_model(model if isinstance(model, bytes) else str(model))
        if options.shapes:
            graph.reshape({name: list(shape) for name, shape in options.shapes.items()})
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": options.precision}
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        if options.profile:
            settings["PERF_COUNT"] = True
        self.handle = core.compile_model(graph, "CPU", settings)
        self._request = self.handle.create_infer_request()
        self._outputs = [sorted(output.get_names()) for output in self.handle.outputs]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        results = self._request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        found = [results[index].copy() for index in range(len(self._outputs))]
        return {name: array for names, array in zip(self._outputs, found, strict=True) for name in names}

    def profile(self, inputs: Mapping[str, Array], warm_up: int, rounds: int) -> list[list[tuple[str, float]]]:
        """Return for each of some inferences every node's name and milliseconds, in the order in which they ran."""
        found = []
        for number in range(warm_up + rounds):
            self.run(inputs)
            if number >= warm_up:
                infos = self._request.profiling_info
                found.append([(info.node_name, 1000 * info.real_time.total_seconds()) for info in infos])
        return found


_ENGINES: dict[str, Callable[[Any, bytes | Path, SessionOptions], Session]] = {
    "onnxruntime": OnnxRuntimeSession,
    "openvino": OpenVinoSession,
}


def engine_version(engine: str) -> str:
    """Return the version of an engine's package.

    Raises:
        EngineError: It is not installed.
    """
    return str(require(engine).__version__)


def _reason(error: Exception) -> str:
    """Return why an engine refuses, in its own words but without its source's paths, types and conditions."""
    text = " ".join(str(error).split())
    for mark in ("Status Message: ", " was false. ", "NOT_IMPLEMENTED : "):  # what it means stands behind the condition
        text = text.rpartition(mark)[2]
    text = re.sub(r"Exception from \S+\s*|Check '[^']*' failed at \S+\s*|FrontEnd API failed with \w+:\s*", "", text)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/\S+\.(?:cc|cpp|h|hpp):\d+:?\s*", "", text)
    text = re.sub(r"^[\w:<>~]*\([^)]*\)(?: \[with [^]]*\])?\s*", "", text)  # a function's signature
    return text[:200].strip(" .:") or type(error).__name__
