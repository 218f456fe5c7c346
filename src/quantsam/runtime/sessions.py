"""The common interface to a graph in any engine. Nothing here imports PyTorch."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from quantsam.errors import EngineError
from quantsam.versions import check_version

Array = NDArray[Any]
Precision = Literal["f32", "bf16", "f16"]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How to run a graph.

    Attributes:
        threads: Number of threads per inference; the engine's choice if None.
        precision: Precision of the parts that are not quantized: float32, or bfloat16 or float16 if the engine supports
            it.
        optimize: Let the engine rewrite the graph; else it runs node by node as written (only ONNX Runtime).
        profile: Let the engine record each node's time, for `Session.profile`; slower.
        wide_sums: Let ONNX Runtime add products in 32 bits on x86 processors without VNNI too; slower, even if it
            changes nothing.
        shapes: Fixed shapes, by name, for inputs with variable dimensions in the file; faster on OpenVINO.
    """

    threads: int | None = None
    precision: Precision = "f32"
    optimize: bool = True
    profile: bool = False
    wide_sums: bool = False
    shapes: Mapping[str, tuple[int, ...]] | None = None


class Session(Protocol):
    """A graph that is open in an engine.

    Attributes:
        engine: The engine's name.
        handle: The engine's own object, for engine-specific queries.

    A session that runs in another process also has `own_ms`, the time of its last inference there.
    """

    engine: str
    handle: Any

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        ...


def require(package: str) -> Any:
    """Import an engine's package.

    Raises:
        EngineError: The package is not installed; the message names the extra that installs it.
        VersionError: The package is too old; the message states the required version.
    """
    if find_spec(package) is None:
        raise EngineError(
            f"engine {package!r} needs the package {package}, which is not installed: pip install 'quantsam[{package}]'"
        )
    check_version(package)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # of ONNX Runtime; it also complains if it cannot write
    return importlib.import_module(package)


def reason_of(error: Exception) -> str:
    """Return an engine's reason for a refusal, without source paths, types and conditions."""
    text = " ".join(str(error).split())
    for mark in ("Status Message: ", " was false. ", "NOT_IMPLEMENTED : "):  # the meaning follows the condition
        text = text.rpartition(mark)[2]
    text = re.sub(r"Exception from \S+\s*|Check '[^']*' failed at \S+\s*|FrontEnd API failed with \w+:\s*", "", text)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/\S+\.(?:cc|cpp|h|hpp):\d+:?\s*", "", text)
    text = re.sub(r"^[\w:<>~]*\([^)]*\)(?: \[with [^]]*\])?\s*", "", text)  # a function's signature
    return text[:200].strip(" .:") or type(error).__name__


_INTEGERS = ("u8", "i8")


@dataclass(frozen=True, slots=True)
class Executed:
    """One convolution as the engine runs it.

    Attributes:
        label: Prefix of the convolution's value names: `stage3:4:2/`, `stage4:1:0/depthwise0.`.
        operator: The engine's own name for the operator: `QLinearConv`, `brgconv_avx512_I8`, ...
        precision: Precision of the input: `u8`, `i8`, `f32`, ...; `?` if the engine does not tell.
        fused: Names of the graph's nodes that run inside this operator.
    """

    label: str
    operator: str
    precision: str
    fused: tuple[str, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Whether the convolution multiplies integers."""
        return self.precision in _INTEGERS
