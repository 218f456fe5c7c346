"""OpenVINO, on the processor."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantsam.errors import InputError
from quantsam.runtime.engine import BYTES, NARROW, WORDS, Engine
from quantsam.runtime.sessions import Array, Executed, Session, SessionOptions, require

ENGINE = Engine(
    name="openvino",
    package="openvino",
    title="OpenVINO",
    placement="openvino",
    weight_formats=(*BYTES, *NARROW),
    activation_formats=(*BYTES, *WORDS),
    opener="quantsam.runtime.openvino:OpenVinoSession",
    reader="quantsam.runtime.openvino:executed_convolutions",
    precisions=("f32", "bf16"),
    saturates=True,
)


class OpenVinoSession:
    """A graph in OpenVINO, on the processor."""

    engine = "openvino"

    def __init__(self, model: bytes | Path, options: SessionOptions) -> None:
        ENGINE.check_precision(options.precision)
        if not options.optimize:
            raise InputError("openvino always rewrites the graph, got optimize=False: onnxruntime can run it as it is")
        core = _core(require("openvino"))
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
        """Return each inference's node names and milliseconds, in running order."""
        found = []
        for number in range(warm_up + rounds):
            self.run(inputs)
            if number >= warm_up:
                infos = self._request.profiling_info
                found.append([(info.node_name, 1000 * info.real_time.total_seconds()) for info in infos])
        return found


@functools.cache
def _core(openvino: Any) -> Any:
    """Return the one OpenVINO core of this process, which lives as long as the process.

    A core gives a signal stack to the thread that first compiles with it, and unmaps the stack when the core is
    destroyed. If cores are destroyed in the order of their creation, the thread is left with an unmapped stack. The
    next signal that Python handles, such as Ctrl-C, then ends the process.
    """
    return openvino.Core()


def executed_convolutions(graph: bytes, session: Session) -> list[Executed]:
    """Read the graph that OpenVINO compiled."""

    def told(info: Any, key: str) -> str:
        return str(info[key].astype(str)) if key in info else ""

    entries = []
    for op in session.handle.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        if told(info, "layerType") in ("Convolution", "GroupConvolution"):
            fused = tuple(told(info, "originalLayersNames").split(","))
            precision = told(info, "runtimePrecision")
            entries.append(Executed(op.get_friendly_name(), told(info, "primitiveType"), precision, fused))
    return entries
