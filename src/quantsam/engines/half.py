"""Convert a graph's float parts to explicit float16; values that would overflow stay in float32.

LayerNormalization and the core of linear attention sum thousands of values. In float16, whose largest number is 65,504,
such sums become infinite. Explicit casts pin these nodes to float32, and also the nodes that make or read a value that
`find_overflows` found near that number. Everything else follows the type of its inputs: a convolution whose weights or
scales float16 cannot hold (scales below its smallest normal number, 6.1e-5) stays in float32 too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantsam.errors import CalibrationError, EngineError
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
_SMALLEST, _LARGEST = 2.0**-14, 65504.0  # float16's limits; the smallest number with full precision
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
HEADROOM = 4.0
"""How many times larger than on the images a value may get before float16 overflows."""


def with_half_precision(model: onnx.ModelProto, kept: Collection[str] = ()) -> onnx.ModelProto:
    """Return an encoder whose float parts are typed float16; input and output stay float32.

    Scales are rounded to float16 (relative error at most 2^-11): TensorRT requires scales in the type of the tensor.

    Args:
        model: The encoder, from `encoder_to_onnx`.
        kept: Names of values that stay in float32, as do the nodes that make and read them; see `find_overflows`.

    Raises:
        EngineError: A scale that a tensor shares with others is larger than float16 can hold.
    """
    return _Converter(model, kept).convert()


def find_overflows(
    model: onnx.ModelProto, images: Iterable[NDArray[np.float32]], *, headroom: float = HEADROOM
) -> frozenset[str]:
    """Return the values of a float graph that come too close to float16's largest number on some images.

    ONNX Runtime runs the graph as written, with every value as an output.

    Args:
        model: A float32 model from `encoder_to_onnx`.
        images: Encoder inputs, (1, 3, S, S) each.
        headroom: A value is returned if its magnitude times `headroom` exceeds 65,504.

    Raises:
        CalibrationError: There are no images.
        EngineError: ONNX Runtime is not installed.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {value.name for value in shown.graph.output}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    floats = [v.name for v in inferred.value_info if v.type.tensor_type.elem_type == SINGLE and v.name not in outputs]
    shown.graph.output.extend(helper.make_tensor_value_info(name, SINGLE, None) for name in floats)
    (given,) = (value.name for value in model.graph.input)
    session = open_session("onnxruntime", shown.SerializeToString(), SessionOptions(optimize=False))
    largest: dict[str, float] = {}
    for image in images:
        for name, values in session.run({given: image}).items():
            largest[name] = float(np.maximum(largest.get(name, 0.0), np.abs(values).max(initial=0.0)))  # NaN stays
    if not largest:
        raise CalibrationError("half precision needs an image to look at, got none: name some with --calibration")
    return frozenset(name for name, value in largest.items() if not value * headroom <= _LARGEST)


class _Converter:
    def __init__(self, model: onnx.ModelProto, kept: Collection[str]) -> None:
        self._kept = frozenset(kept)
        self._result = onnx.ModelProto()
        self._result.CopyFrom(model)
        self._graph = self._result.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._types: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in self._graph.input}
        self._made: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def convert(self) -> onnx.ModelProto:
        nodes = list(self._graph.node)
        single = self._single_precision(nodes)
        outputs = {value.name for value in self._graph.output}
        for node in nodes:
            wanted = SINGLE if node.name in single or outputs & set(node.output) else HALF
            self._add(node, wanted)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._constants.values() if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        return self._result

    def _single_precision(self, nodes: list[onnx.NodeProto]) -> set[str]:
        """Return the names of the nodes that are pinned to float32."""
        pinned = {n.name for n in nodes if n.op_type == "LayerNormalization" or ".core." in n.name}
        pinned |= {n.name for n in nodes if self._kept & {*n.input, *n.output}}
        pinned |= {n.name for n in nodes if n.op_type == "Conv" and not all(map(self._holds, n.input))}
        makers = {output: node for node in nodes for output in node.output}
        for node in nodes:
            if node.op_type != "Conv":
                continue
            around = [makers[name] for name in node.input if name in makers and makers[name].op_type in _QUANTIZERS]
            around += [makers[n.input[0]] for n in around if n.input[0] in makers]  # the nodes that make the codes
            if any(not self._fits(n.input[1]) for n in around if n.op_type in _QUANTIZERS):
                pinned |= {node.name, *(n.name for n in around if n.op_type in _QUANTIZERS)}
        return pinned

    def _fits(self, scale: str) -> bool:
        values = numpy_helper.to_array(self._constants[scale])
        return bool((values >= _SMALLEST).all() and (values <= _LARGEST).all())

    def _holds(self, name: str) -> bool:
        """Return whether float16 can hold a constant's values; True for anything but a constant."""
        if name not in self._constants or self._constants[name].data_type != SINGLE:
            return True
        return bool(np.abs(numpy_helper.to_array(self._constants[name])).max(initial=0.0) <= _LARGEST)

    def _add(self, node: onnx.NodeProto, wanted: int) -> None:
        """Append a node with its float inputs in the wanted type."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name and self._type(name) in (HALF, SINGLE) and not (node.op_type == "Resize" and index == 2):
                copy.input[index] = self._cast(name, wanted)
        self._nodes.append(copy)
        kind = self._type(node.input[2]) if node.op_type == "QuantizeLinear" else wanted
        self._types |= dict.fromkeys(node.output, kind)

    def _type(self, name: str) -> int:
        return int(self._constants[name].data_type) if name in self._constants else self._types[name]

    def _cast(self, name: str, wanted: int) -> str:
        """Return a value in the wanted type: a constant is converted, anything else goes through a Cast."""
        if self._type(name) == wanted:
            return name
        if (name, wanted) not in self._made:
            made = f"{name}:{'half' if wanted == HALF else 'single'}"
            if name in self._constants:
                self._constants[made] = numpy_helper.from_array(self._half(name), made)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [made], name=made, to=wanted))
                self._types[made] = wanted
            self._made[name, wanted] = made
        return self._made[name, wanted]

    def _half(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        values = numpy_helper.to_array(self._constants[name])
        largest = float(np.abs(values).max(initial=0))
        if largest > _LARGEST:
            raise EngineError(
                f"{name} must be at most 65504 to be float16, got {largest:g}: export without half precision"
            )
        return np.asarray(values, np.float16)
