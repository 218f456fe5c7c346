"""ONNX Runtime, on the processor."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantsam.errors import EngineError
from quantsam.runtime.engine import BYTES, NARROW, WORDS, Engine
from quantsam.runtime.sessions import Array, Executed, Session, SessionOptions, reason_of, require

_WIDE_SUMS = "session.x64quantprecision"

ENGINE = Engine(
    name="onnxruntime",
    package="onnxruntime",
    title="ONNX Runtime",
    placement="onnxruntime",
    weight_formats=(*BYTES, *NARROW),
    activation_formats=(*BYTES, *WORDS),
    opener="quantsam.runtime.onnxruntime:OnnxRuntimeSession",
    reader="quantsam.runtime.onnxruntime:executed_convolutions",
    channel_activations=False,
    saturates=True,
    widens=True,
)


class OnnxRuntimeSession:
    """A graph in ONNX Runtime, on the processor."""

    engine = "onnxruntime"

    def __init__(self, model: bytes | Path, options: SessionOptions) -> None:
        ENGINE.check_precision(options.precision)
        self.wide_sums = options.wide_sums
        ort = require("onnxruntime")
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # errors are raised as exceptions
        self._scratch = tempfile.TemporaryDirectory() if options.profile else None
        if self._scratch is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(self._scratch.name) / "profile")
        if options.threads:
            settings.intra_op_num_threads = options.threads
        if options.wide_sums:
            settings.add_session_config_entry(_WIDE_SUMS, "1")
        levels = ort.GraphOptimizationLevel
        settings.graph_optimization_level = levels.ORT_ENABLE_ALL if options.optimize else levels.ORT_DISABLE_ALL
        source = model if isinstance(model, bytes) else str(model)
        self.handle = ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self.handle.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        try:
            found = self.handle.run(self._outputs, dict(inputs))
        except Exception as error:  # a kernel that fails only now, for example at per-channel scales
            raise EngineError(
                f"onnxruntime cannot run the graph ({reason_of(error)}): export it for onnxruntime"
            ) from error
        return dict(zip(self._outputs, found, strict=True))

    def profile(self, inputs: Mapping[str, Array], warm_up: int, rounds: int) -> list[list[tuple[str, float]]]:
        """Return each inference's node names and milliseconds, in running order; callable once."""
        for _ in range(warm_up + rounds):
            self.run(inputs)
        return node_times(self.events())[warm_up : warm_up + rounds]

    def events(self) -> list[Any]:
        """Return the events recorded since a session with `profile` was made; ends the recording."""
        found: list[Any] = json.loads(Path(self.handle.end_profiling()).read_text("utf-8"))
        if self._scratch is not None:
            self._scratch.cleanup()
        return found


def executed_convolutions(graph: bytes, session: Session) -> list[Executed]:
    """Let ONNX Runtime write the graph that it runs; it does so only when it makes a session."""
    assert isinstance(session, OnnxRuntimeSession)
    try:
        import onnx
    except ModuleNotFoundError:  # onnx is not needed to run a bundle
        return _told_by_profile(graph, session)
    ort = require("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = session.handle.get_session_options()
        settings = ort.SessionOptions()
        settings.graph_optimization_level = options.graph_optimization_level
        if session.wide_sums:
            settings.add_session_config_entry(_WIDE_SUMS, "1")
        settings.log_severity_level = 4
        settings.optimized_model_filepath = str(path)
        ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        nodes = onnx.load(path, load_external_data=False).graph.node
    return [_executed(node.name, node.op_type) for node in nodes if "Conv" in node.op_type]


def _executed(name: str, operator: str) -> Executed:
    return Executed(name, operator, "u8" if operator in ("QLinearConv", "ConvInteger") else "f32", ())


def _told_by_profile(graph: bytes, session: OnnxRuntimeSession) -> list[Executed]:
    """Run a graph once and return what ONNX Runtime records about its convolutions."""
    options = SessionOptions(threads=1, profile=True, wide_sums=session.wide_sums)
    profiled = OnnxRuntimeSession(graph, options)
    profiled.run(zeros({i.name: i.shape for i in profiled.handle.get_inputs()}))
    return convolutions_of(profiled.events())


def zeros(shapes: Mapping[str, Sequence[int | str | None]]) -> dict[str, Array]:
    """Return float32 inputs of the given shapes; variable sides are 1."""
    return {
        name: np.zeros([side if isinstance(side, int) else 1 for side in shape], np.float32)
        for name, shape in shapes.items()
    }


def node_times(events: Iterable[Any]) -> list[list[tuple[str, float]]]:
    """Return every node's name and milliseconds per inference, from ONNX Runtime's events."""
    found: list[list[tuple[str, float]]] = [[]]
    for event in events:
        if event["name"] == "SequentialExecutor::Execute":  # marks the end of an inference
            found.append([])
        elif event["name"].endswith("_kernel_time"):
            found[-1].append((event["name"].removesuffix("_kernel_time"), event["dur"] / 1000))
    return found


def convolutions_of(events: Iterable[Any]) -> list[Executed]:
    """Return the convolutions that ran, from ONNX Runtime's events of one inference."""
    told = [(event["name"], event.get("args", {}).get("op_name", "")) for event in events]
    return [
        _executed(name.removesuffix("_kernel_time"), operator)
        for name, operator in told
        if name.endswith("_kernel_time") and "Conv" in operator
    ]
