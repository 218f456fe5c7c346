"""The graph with which `runtime.processor` tests how an engine's integer kernels add."""

from __future__ import annotations

import numpy as np

from quantsam.engines.onnx_graph import FLOAT, Graph
from quantsam.runtime.processor import PROBE_SHAPE


def probe_graph() -> bytes:
    """Return one quantized 1x1 convolution whose weights are all 127; an input of ones has the code 255.

    The graph is stored as `runtime/probe.onnx`, so that the runtime needs no library for writing graphs.
    """
    _, channels, height, width = PROBE_SHAPE
    graph = Graph()
    zero = graph.constant("zero", np.asarray(0, np.uint8))
    scale = graph.constant("in:scale", np.asarray(1 / 255, np.float32))
    graph.add("QuantizeLinear", ["in", scale, zero], "in:codes")
    graph.add("DequantizeLinear", ["in:codes", scale, zero], "in:rounded")
    graph.constant("weight:codes", np.full((channels, channels, 1, 1), 127, np.int8))
    graph.constant("weight:scale", np.full(channels, 1 / 127, np.float32))
    graph.constant("weight:zero", np.zeros(channels, np.int8))
    graph.add("DequantizeLinear", ["weight:codes", "weight:scale", "weight:zero"], "weight", axis=0)
    graph.add("Conv", ["in:rounded", "weight"], "convolution", kernel_shape=[1, 1])
    out_scale = graph.constant("out:scale", np.asarray(channels / 255, np.float32))
    graph.add("QuantizeLinear", ["convolution", out_scale, zero], "out:codes")
    graph.add("DequantizeLinear", ["out:codes", out_scale, zero], "out")
    shape = (1, channels, height, width)
    content: bytes = graph.model("probe", {"in": (FLOAT, shape)}, {"out": (FLOAT, shape)}, {}).SerializeToString()
    return content
