"""Store weights in fewer bits and widen them for use: a smaller file with the same float32 arithmetic."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Stored = Literal["f32", "f16", "int8"]
_FEWEST = 256  # values; smaller tensors stay unchanged
_LARGEST_HALF = 65504.0


def with_stored_weights(model: onnx.ModelProto, stored: Stored) -> onnx.ModelProto:
    """Return a model whose weights are stored in another format, and converted to float32 by a node before each use.

    Args:
        model: A float32 model, for example from `decoder_to_onnx`.
        stored: `f16` rounds all weights that float16 can hold. `int8` stores matrices with a scale per output channel
            and codes -127..127; other weights as with `f16`. `f32` changes nothing.
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
    """Return codes and scales of (..., in, out) weights, and the node that converts them back to float32."""
    scale = np.abs(values).max(axis=tuple(range(values.ndim - 1))) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    codes = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
    parts = {f"{name}:codes": codes, f"{name}:scale": scale}
    node = helper.make_node("DequantizeLinear", list(parts), [name], name=name, axis=values.ndim - 1)
    return [numpy_helper.from_array(value, part) for part, value in parts.items()], node
