"""What an engine really executed: read from the graph that it made, not from the one it was given."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from quantsam.plans.plan import Plan
from quantsam.runtime.sessions import OpenVinoSession, Session, require

CONVOLUTION = "convolution"
MERGED = "(merged)"  # the engine made it part of something else, such as a matrix product behind a transposition
_INTEGERS = ("u8", "i8")


@dataclass(frozen=True, slots=True)
class Executed:
    """One convolution as the engine runs it.

    Attributes:
        layer: What its values' names begin with: `stage3:4:2/`, `stage4:1:0/depthwise0.`.
        operator: The engine's own word: `QLinearConv`, `brgconv_avx512_I8`, ...
        precision: Of its input: `u8`, `i8`, `f32`, ...; `?` where the engine does not tell.
        fused: Names of the graph's nodes that run inside of it.
    """

    layer: str
    operator: str
    precision: str
    fused: tuple[str, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Whether it multiplies integers."""
        return self.precision in _INTEGERS


def executed(graph: bytes, session: Session) -> tuple[Executed, ...]:
    """Return every convolution of a graph as a session runs it, in the order of the graph.

    Args:
        graph: The ONNX model that the session was made from, of `encoder_to_onnx`.
        session: In ONNX Runtime or OpenVINO.
    """
    names = [n.name for n in onnx.load_from_string(graph).graph.node if n.op_type == "Conv"]
    found = _of_openvino(session.handle) if isinstance(session, OpenVinoSession) else _of_onnxruntime(graph, session)
    told = []
    for name in names:
        entry = next((e for e in found if any(_is_named(key, name) for key in (e.layer, *e.fused))), None)
        entry = entry or Executed(name, MERGED, "?")
        told.append(Executed(name.removesuffix(CONVOLUTION), entry.operator, entry.precision, entry.fused))
    return tuple(told)


def quantized_but_float(plan: Plan, ran: Iterable[Executed]) -> tuple[str, ...]:
    """Return the convolutions that the plan quantizes, weight and input, and the engine ran in float."""
    quantized = {weight.label for weight, _ in plan.pairs()}
    return tuple(e.layer for e in ran if e.layer in quantized and not e.is_integer)


def _is_named(found: str, name: str) -> bool:
    """Whether an engine's name for a node was made from ours: it may append, never change."""
    return found.startswith(name) and found[len(name) : len(name) + 1] in ("", "/", "_")


def _of_openvino(compiled: Any) -> list[Executed]:
    def told(info: Any, key: str) -> str:
        return str(info[key].astype(str)) if key in info else ""

    entries = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        if told(info, "layerType") in ("Convolution", "GroupConvolution"):
            fused = tuple(told(info, "originalLayersNames").split(","))
            precision = told(info, "runtimePrecision")
            entries.append(Executed(op.get_friendly_name(), told(info, "primitiveType"), precision, fused))
    return entries


def _of_onnxruntime(graph: bytes, session: Session) -> list[Executed]:
    """Let ONNX Runtime write the graph it runs; it does so only while a session is made."""
    ort = require("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = session.handle.get_session_options()
        settings = ort.SessionOptions()
        settings.graph_optimization_level = options.graph_optimization_level
        settings.log_severity_level = 4
        settings.optimized_model_filepath = str(path)
        ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        nodes = onnx.load(path, load_external_data=False).graph.node
    entries = []
    for node in nodes:
        if "Conv" in node.op_type:
            precision = "u8" if node.op_type in ("QLinearConv", "ConvInteger") else "f32"
            entries.append(Executed(node.name, node.op_type, precision, ()))
    return entries
