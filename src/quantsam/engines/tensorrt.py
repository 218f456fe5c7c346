"""Run plans in TensorRT: explicit quantization in a strongly typed network.

Written against the documented API of TensorRT 10. We have never run it on a GPU, because we had none. The tests run the
converted graph in other engines and check the calls against a stand-in.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from quantsam.engines.half import with_half_precision
from quantsam.errors import EngineError, OutputError
from quantsam.files import atomic_write
from quantsam.notices import notice
from quantsam.places import cache_folder
from quantsam.runtime.sessions import SessionOptions, require
from quantsam.runtime.tensorrt import BUILT_SUFFIX

ENCODER = "encoder.onnx"


def trtexec_command(graph: Path, *, engine_path: Path | None = None) -> str:
    """Return the shell command that builds the same engine with TensorRT's own tool.

    Args:
        graph: The exported encoder.
        engine_path: Output path of the engine; beside the graph if None.
    """
    target = engine_path or graph.with_suffix(BUILT_SUFFIX)
    return shlex.join(["trtexec", f"--onnx={graph}", f"--saveEngine={target}", "--stronglyTyped"])


def check_tensorrt() -> Any:
    """Return the TensorRT package, if it is installed and a GPU is available.

    Raises:
        EngineError: The package or the GPU is missing; the message gives the `trtexec` command for another machine.
    """
    elsewhere = (
        f"export with `quantsam export --engine tensorrt` and build where it is: {trtexec_command(Path(ENCODER))}"
    )
    try:
        package = require("tensorrt")
    except EngineError as error:
        raise EngineError(f"{error}; or {elsewhere}") from error
    if not torch.cuda.is_available():
        raise EngineError(f"engine 'tensorrt' needs a CUDA GPU, PyTorch finds none on this machine: {elsewhere}")
    return package


def open_graph(model: bytes | Path, options: SessionOptions) -> TensorRtSession:
    """Build or load an engine from an ONNX file or its content; see `open_tensorrt`."""
    graph = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    return open_tensorrt(graph)


def open_tensorrt(model: onnx.ModelProto, *, half: bool = True, cache: Path | None = None) -> TensorRtSession:
    """Build an engine, or load one that was built earlier from the same graph.

    Args:
        model: A model from `encoder_to_onnx`, with the placement `tensorrt`.
        half: Whether parts that are not quantized run in float16, except what would overflow; see `engines.half`.
        cache: Folder for built engines; the user's cache folder if None.

    Raises:
        EngineError: TensorRT or a GPU is missing, or TensorRT refuses the graph.
        OutputError: `cache` was given and cannot be written.
    """
    trt = check_tensorrt()
    graph = (with_half_precision(model) if half else model).SerializeToString()
    folder = cache or cache_folder("tensorrt")
    name = hashlib.sha256(graph + f"{trt.__version__}{torch.cuda.get_device_name()}".encode()).hexdigest()
    path = (folder or Path()) / f"{name}.engine"
    logger = trt.Logger(trt.Logger.ERROR)
    plan = path.read_bytes() if path.is_file() else _build(trt, logger, graph)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot load the engine {str(path)!r}: delete it, it is built again"
        )
    if not path.is_file():
        try:
            if folder is None:
                raise OutputError("no folder can be written")
            _keep(path, plan)
        except (OutputError, OSError) as error:
            if cache is not None:  # the user's own choice
                raise
            notice(
                f"the built engine is not kept ({error}), each process builds it anew: set XDG_CACHE_HOME to a folder "
                "that can be written"
            )
    return TensorRtSession(trt, engine)


def _keep(path: Path, plan: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {str(path.parent)!r}: {error.strerror}: name another") from error
    with atomic_write(path) as aside:
        aside.write_bytes(plan)


def _build(trt: Any, logger: Any, graph: bytes) -> bytes:
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT {trt.__version__} refuses the graph ({errors}): export it again")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = (1, *tuple(tensor.shape)[1:])
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise EngineError(f"TensorRT {trt.__version__} cannot build the engine: its log above says why")
    return bytes(built)


class TensorRtSession:
    """An encoder in TensorRT, on the current CUDA device.

    Attributes:
        engine: `tensorrt`.
        handle: TensorRT's engine.
    """

    engine = "tensorrt"

    def __init__(self, trt: Any, engine: Any) -> None:
        self.handle = engine
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return all outputs by name, float32."""
        device = torch.device("cuda")
        given = {n: torch.from_numpy(np.ascontiguousarray(x)).to(device) for n, x in inputs.items()}
        for name, tensor in given.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        found = {}
        for name in self._outputs:
            found[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=torch.float32, device=device)
            self._context.set_tensor_address(name, found[name].data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise EngineError("TensorRT could not run the engine: its log above says why")
        stream.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}
