"""An engine of its own, for the tests: ONNX Runtime that runs the graph node by node, as it is written."""

import dataclasses

from quantsam.runtime.engine import BYTES, Engine
from quantsam.runtime.onnxruntime import OnnxRuntimeSession

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

    def __init__(self, model, options):
        super().__init__(model, dataclasses.replace(options, optimize=False, wide_sums=False))
