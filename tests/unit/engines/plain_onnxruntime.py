"""An engine of its own, for the tests: ONNX Runtime that runs the graph node by node, as it is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from quantsam.runtime.engine import BYTES, Engine
from quantsam.runtime.onnxruntime import OnnxRuntimeSession
from quantsam.runtime.sessions import SessionOptions

ENGINE = Engine(
    name="plain",
    package="onnxruntime",
    title="ONNX Runtime, not optimized",
    placement="onnxruntime",
    weight_formats=BYTES,
    activation_formats=BYTES,
    opener=f"{__name__}:PlainSession",
    channel_activations=False,
)


class PlainSession(OnnxRuntimeSession):
    """A graph in ONNX Runtime without optimizations."""

    engine = "plain"

    def __init__(self, model: bytes | Path, options: SessionOptions) -> None:
        super().__init__(model, dataclasses.replace(options, optimize=False, wide_sums=False))
