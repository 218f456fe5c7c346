"""Build this bundle's graphs in TensorRT and run them. Needs numpy, TensorRT 10 with its Python package, and CUDA.

    python3 tensorrt_engine.py     builds both graphs beside the ONNX files, and times them
    python3 run.py IMAGE --box 40,60,300,280     builds them if they are not there yet, and segments an image

NVIDIA's JetPack 6 for Jetson, and TensorRT's containers, have all three. Build on the machine that will run the graphs:
TensorRT chooses its kernels for one GPU. quantsam's authors had no GPU to run this file on.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]

HERE = Path(__file__).resolve().parent
MOST_PROMPTS, MOST_POINTS = 16, 64  # that are decoded together
TO_DEVICE, TO_HOST = 1, 2


class Cuda:
    """The few functions of CUDA's runtime library that are needed."""

    def __init__(self) -> None:
        for name in ("libcudart.so", "libcudart.so.12", "libcudart.so.13", "libcudart.so.11.0"):
            try:
                self._library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise RuntimeError("CUDA's libcudart.so is not found: add its folder to LD_LIBRARY_PATH")

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} of CUDA returned {code}")

    def allocate(self, size: int) -> int:
        """Return the address of new memory on the GPU."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Return memory of the GPU."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def write(self, address: int, array: Array) -> None:
        """Copy an array to the GPU."""
        self._copy(address, array.ctypes.data, array.nbytes, TO_DEVICE)

    def read(self, address: int, array: Array) -> None:
        """Copy memory of the GPU into an array."""
        self._copy(array.ctypes.data, address, array.nbytes, TO_HOST)

    def _copy(self, target: int, source: int, size: int, way: int) -> None:
        self._call("cudaMemcpy", *map(ctypes.c_void_p, (target, source)), ctypes.c_size_t(size), ctypes.c_int(way))


class TensorRtGraph:
    """An ONNX file in TensorRT: built once, kept beside the file, and loaded from then on."""

    def __init__(self, path: Path, shapes: dict[str, tuple[Shape, Shape, Shape]]) -> None:
        """Build or load a graph.

        `shapes` has the least, the usual and the largest shape of each input whose shape may change.
        """
        import tensorrt

        self._trt, self._cuda = tensorrt, Cuda()
        content = path.read_bytes()
        about = f"{tensorrt.__version__} {json.dumps(shapes)}".encode()
        digest = hashlib.sha256(content + about).hexdigest()[:12]
        kept = path.with_name(f"{path.stem}-{digest}.engine")
        logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        runtime = tensorrt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(kept.read_bytes()) if kept.is_file() else None
        if engine is None:  # not built yet, or for another GPU
            print(f"building {path.name} in TensorRT {tensorrt.__version__}: this may take minutes", file=sys.stderr)
            built = self._build(logger, content, shapes)
            kept.write_bytes(built)
            engine = runtime.deserialize_cuda_engine(built)
        if engine is None:
            raise RuntimeError(f"TensorRT {tensorrt.__version__} cannot load {kept}: its messages above say why")
        self._runtime, self._engine, self._context = runtime, engine, engine.create_execution_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._outputs = [n for n in names if engine.get_tensor_mode(n) == tensorrt.TensorIOMode.OUTPUT]

    def _build(self, logger: Any, content: bytes, shapes: dict[str, tuple[Shape, Shape, Shape]]) -> bytes:
        trt = self._trt
        builder = trt.Builder(logger)
        # strongly typed: every type is the graph's, so that TensorRT chooses no float16 where it would overflow
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(content):
            errors = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
            raise RuntimeError(f"TensorRT {trt.__version__} refuses the graph: {errors}")
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for name, three in shapes.items():
            profile.set_shape(name, *three)
        config.add_optimization_profile(profile)
        built = builder.build_serialized_network(network, config)
        if built is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot build the graph: its messages above say why")
        return bytes(built)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        taken = []
        try:
            for name, array in inputs.items():
                given = np.ascontiguousarray(array)
                if not self._context.set_input_shape(name, given.shape):
                    raise RuntimeError(f"input {name} of shape {given.shape} is larger than TensorRT was built for")
                taken.append(self._cuda.allocate(given.nbytes))
                self._cuda.write(taken[-1], given)
                self._context.set_tensor_address(name, taken[-1])
            found: dict[str, Array] = {}
            addresses = {}
            for name in self._outputs:
                shape, kind = self._context.get_tensor_shape(name), self._engine.get_tensor_dtype(name)
                found[name] = np.empty(tuple(shape), self._trt.nptype(kind))
                taken.append(self._cuda.allocate(found[name].nbytes))
                addresses[name] = taken[-1]
                self._context.set_tensor_address(name, taken[-1])
            if not self._context.execute_async_v3(0):  # the default stream: a copy waits for it
                raise RuntimeError("TensorRT could not run the graph: its messages above say why")
            for name, address in addresses.items():
                self._cuda.read(address, found[name])
            return found
        finally:
            for address in taken:
                self._cuda.free(address)


def encoder_shapes(about: dict[str, Any]) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Return the shapes of the encoder's input: one image."""
    image = (1, 3, about["input_size"], about["input_size"])
    return {"image": (image, image, image)}


def decoder_shapes() -> dict[str, tuple[Shape, Shape, Shape]]:
    """Return the shapes of the decoder's inputs: from one prompt of two points to many of many."""
    counts = ((1, 2), (1, 2), (MOST_PROMPTS, MOST_POINTS))
    least, usual, most = ((*pair, 2) for pair in counts)
    return {"points": (least, usual, most), "labels": counts}


def main() -> None:
    """Build both graphs and time them."""
    about = json.loads((HERE / "manifest.json").read_text("utf-8"))
    try:
        encoder = TensorRtGraph(HERE / "encoder.onnx", encoder_shapes(about))
        decoder = TensorRtGraph(HERE / "decoder.onnx", decoder_shapes())
        image = np.zeros((1, 3, about["input_size"], about["input_size"]), np.float32)
        embedding = encoder.run({"image": image})["embedding"]
        points = np.array([[[100, 100], [400, 400]]], np.float32)
        prompt = {"embedding": embedding, "points": points, "labels": np.array([[2, 3]], np.int64)}
        for name, graph, given in (("encoder", encoder, {"image": image}), ("decoder, a box", decoder, prompt)):
            spent = []
            for _ in range(23):
                started = time.perf_counter()
                graph.run(given)
                spent.append(1000 * (time.perf_counter() - started))
            print(f"{name}: {np.median(spent[3:]):.1f} ms, copies to and from the GPU included")
    except ImportError as error:
        sys.exit(
            f"tensorrt_engine.py: the package {error.name} is not installed: NVIDIA's JetPack or containers have it"
        )
    except (OSError, RuntimeError) as error:
        sys.exit(f"tensorrt_engine.py: {error}")


if __name__ == "__main__":
    main()
