"""A stand-in for NVIDIA's package and for CUDA: it checks the calls, and computes by ONNX Runtime in host memory.

It knows what TensorRT's documentation says of the calls that a bundle makes. It is no proof that TensorRT runs a graph.
"""

import ctypes
import json
import types

import numpy as np
import onnx
import onnxruntime

__version__ = "10.8.0"
NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
memory = {}
_SEPARATOR = b"\nPROFILE "


class Logger:
    WARNING = 2

    def __init__(self, level):
        assert level == self.WARNING


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, usual, most):
        assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))
        self.shapes[name] = (least, usual, most)


class Builder:
    def __init__(self, logger):
        self.profile = None

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return types.SimpleNamespace(content=None)

    def create_builder_config(self):
        return types.SimpleNamespace(add_optimization_profile=lambda profile: setattr(self, "profile", profile))

    create_optimization_profile = staticmethod(Profile)

    def build_serialized_network(self, network, config):
        graph = onnx.load_from_string(network.content).graph
        for tensor in graph.input:
            dynamic = any(d.dim_param for d in tensor.type.tensor_type.shape.dim)
            assert dynamic <= (tensor.name in self.profile.shapes), f"{tensor.name} has no shapes"
        return network.content + _SEPARATOR + json.dumps(self.profile.shapes).encode()


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        self.network = network

    def parse(self, content):
        onnx.checker.check_model(content)
        self.network.content = content
        return True


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, content):
        graph, separator, shapes = content.rpartition(_SEPARATOR)
        return Engine(graph, json.loads(shapes)) if separator else None


def nptype(kind):
    return {"tensor(float)": np.float32, "tensor(int64)": np.int64}[kind]


class Engine:
    def __init__(self, graph, profile):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.profile = profile
        given, found = self.session.get_inputs(), self.session.get_outputs()
        self.kinds = {tensor.name: tensor.type for tensor in (*given, *found)}
        self.modes = {tensor.name: TensorIOMode.INPUT for tensor in given}
        self.modes |= {tensor.name: TensorIOMode.OUTPUT for tensor in found}
        self.num_io_tensors = len(self.modes)

    def get_tensor_name(self, index):
        return list(self.modes)[index]

    def get_tensor_mode(self, name):
        return self.modes[name]

    def get_tensor_dtype(self, name):
        return self.kinds[name]

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses = engine, {}, {}

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.profile.get(name, (shape, shape, shape))
        self.shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name):
        side = self.shapes["embedding"][2] if "embedding" in self.shapes else None
        count = self.shapes["points"][0] if "points" in self.shapes else 1
        outputs = {tensor.name: tensor.shape for tensor in self.engine.session.get_outputs()}
        known = {"masks": (count, 4, 4 * side, 4 * side), "predicted_iou": (count, 4)} if side else {}
        return known.get(name) or (1, *outputs[name][1:])

    def set_tensor_address(self, name, address):
        assert address in memory
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        given = {name: self._array(name, self.shapes[name]) for name in self.shapes}
        names = [n for n, mode in self.engine.modes.items() if mode == TensorIOMode.OUTPUT]
        for name, array in zip(names, self.engine.session.run(names, given), strict=True):
            self._array(name, array.shape)[...] = array
        return True

    def _array(self, name, shape):
        kind = np.dtype(nptype(self.engine.kinds[name]))
        assert memory[self.addresses[name]]._length_ == int(np.prod(shape)) * kind.itemsize
        return np.frombuffer(memory[self.addresses[name]], kind).reshape(shape)


class Cuda:
    """CUDA's runtime library, on this machine's own memory."""

    def cudaMalloc(self, address, size):  # noqa: N802
        taken = (ctypes.c_char * size.value)()
        address._obj.value = ctypes.addressof(taken)
        memory[address._obj.value] = taken
        return 0

    def cudaFree(self, address):  # noqa: N802
        del memory[address.value]
        return 0

    def cudaMemcpy(self, target, source, size, way):  # noqa: N802
        assert (target.value in memory, source.value in memory) == ((way.value == 1), (way.value == 2))
        ctypes.memmove(target, source, size.value)
        return 0


_library = ctypes.CDLL
ctypes.CDLL = lambda name, *more, **others: Cuda() if "cudart" in str(name) else _library(name, *more, **others)
