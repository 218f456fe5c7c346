"""TensorRT, on a CUDA device; the code that runs it needs PyTorch and is in `engines.tensorrt`."""

from __future__ import annotations

from quantsam.runtime.engine import Engine

BUILT_SUFFIX = ".engine"
"""Suffix of the files that TensorRT builds from ONNX graphs, for one GPU."""

ENGINE = Engine(
    name="tensorrt",
    package="tensorrt",
    title="TensorRT",
    placement="tensorrt",
    weight_formats=("int8", "fp8_e4m3"),
    activation_formats=("int8", "fp8_e4m3"),
    opener="quantsam.engines.tensorrt:open_graph",
    checker="quantsam.engines.tensorrt:check_tensorrt",
    precisions=("f16",),
    on_processor=False,
    builder="quantsam.engines.tensorrt:trtexec_command",
)
