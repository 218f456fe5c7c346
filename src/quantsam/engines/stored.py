"""Weights stored in fewer bits and widened where they are used: a smaller file, the same arithmetic in float32."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Stored = Literal["f32", "f16", "int8"]
_FEWEST = 256  # values; smaller tensors are left as they are
_LARGEST_HALF = 65504.0


def with_stored_weights(model: onnx.ModelProto, stored: Stored) -> onnx.ModelProto:
    """Return a model whose weights are stored in another format, and turned into float32 by a node in front.

    Args:
        model: In float32, such as `decoder_to_onnx` gives.
        stored: `f16`: all weights that float16 can hold, rounded to it. `int8`: matrices, with a scale an output
            channel, codes -127..127; other weights as `f16`.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if stored == "f32":
        return result
    graph = result.graph
    matrices = {node.input[1] for node in graph.node if node.op_type == "MatMul"}
    kept: list[onnx.TensorProto] = []
    widening: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _FEWEST:
            kept.append(tensor)
        elif stored == "int8" and tensor.name in matrices:
            added, node = _as_int8(tensor.name, values)
            kept += added
            widening.append(node)
        elif float(np.abs(values).max()) <= _LARGEST_HALF:
            name = f"{tensor.name}:half"
            kept.append(numpy_helper.from_array(values.astype(np.float16), name))
            widening.append(helper.make_node("Cast", [name], [tensor.name], name=tensor.name, to=TensorProto.FLOAT))
        else:
            kept.append(tensor)
    nodes = [*widening, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return result


def _as_int8(name: str, values: np.ndarray) -> tuple[list[onnx.TensorProto], onnx.NodeProto]:
    """Return codes and scales of (..., in, out) weights, and the node that makes them float32 again."""
    scale = np.abs(values).max(axis=tuple(range(values.ndim - 1))) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    codes = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    parts = {f"{name}:codes": codes, f"{name}:scale": scale}
    node = helper.make_node("DequantizeLinear", list(parts), [name], name=name, axis=values.ndim - 1)
    return [numpy_helper.from_array(value, part) for part, value in parts.items()], node
