"""Write an ONNX graph node by node, with names that a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 21  # the first opset with 4- and 16-bit QuantizeLinear
IR_VERSION = 10

Array = NDArray[Any]


class Graph:
    """Nodes and constants of a growing graph; values are referred to by name.

    Attributes:
        types: ONNX element type of each value that is not float32.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._shared: dict[tuple[Any, ...], str] = {}
        self._names: set[str] = set()

    def add(self, op: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node and return the name of its first output, which is also the node's name.

        Args:
            op: Operator in ONNX's default domain.
            inputs: Names of the input values.
            name: Name of the node and its output; further outputs get the suffix `:1`, `:2`, ...
            outputs: Number of outputs.
            attributes: Attributes of the operator.
        """
        assert name not in self._names, f"value {name} exists"
        self._names.add(name)
        names = [name, *(f"{name}:{i}" for i in range(1, outputs))]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return name

    def constant(self, name: str, value: Array | float | Sequence[int] | Sequence[float]) -> str:
        """Add a constant; integers become int64, floats float32, arrays keep their type."""
        if not isinstance(value, np.ndarray):
            first = value if isinstance(value, (int, float)) else value[0]
            value = np.asarray(value, np.float32 if isinstance(first, float) else np.int64)
        return self.tensor(numpy_helper.from_array(np.asarray(value, order="C"), name))

    def shared(self, value: float | Sequence[int] | Sequence[float]) -> str:
        """Return a constant that is stored once, however often it is requested."""
        key = (type(value).__name__, *value) if isinstance(value, Sequence) else (type(value).__name__, value)
        if key not in self._shared:
            self._shared[key] = self.constant(f"constant{len(self._shared)}", value)
        return self._shared[key]

    def tensor(self, tensor: onnx.TensorProto) -> str:
        """Add a constant given as an ONNX tensor."""
        assert tensor.name not in self._names, f"value {tensor.name} exists"
        self._names.add(tensor.name)
        self._constants[tensor.name] = tensor
        return str(tensor.name)

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[int, Sequence[int | str]]],
        outputs: Mapping[str, tuple[int, Sequence[int | str]]],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Return the finished model.

        Args:
            name: Name of the graph.
            inputs: Element type and shape of each input by name; a string marks a variable dimension.
            outputs: The same for the outputs.
            metadata: Metadata to store in the file.
        """
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(n, *described) for n, described in inputs.items()],
            [helper.make_tensor_value_info(n, *described) for n, described in outputs.items()],
            list(self._constants.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name = "quantsam"
        helper.set_model_props(model, dict(metadata))
        return model


FLOAT = TensorProto.FLOAT
