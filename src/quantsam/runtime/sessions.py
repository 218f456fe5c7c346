"""What a graph in an engine is, whichever engine it is. Nothing here imports PyTorch."""

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
    """How a graph is run.

    Attributes:
        threads: Threads of one inference; the engine's choice if None.
        precision: What is not quantized runs in float32, or where the engine can in bfloat16 or float16.
        optimize: Let the engine rewrite the graph; without, it runs node by node as written (ONNX Runtime alone).
        profile: Let the engine note what each node takes, for `Session.profile`; slows it down.
        wide_sums: Let ONNX Runtime add products in 32 bits on x86 processors without VNNI too; slower, also where it
            changes nothing.
        shapes: Fixed shapes of inputs whose dimensions vary in the file, by name; faster on OpenVINO.
    """

    threads: int | None = None
    precision: Precision = "f32"
    optimize: bool = True
    profile: bool = False
    wide_sums: bool = False
    shapes: Mapping[str, tuple[int, ...]] | None = None


class Session(Protocol):
    """A graph that an engine has taken in.

    Attributes:
        engine: The engine's name.
        handle: The engine's own object, for what only it can tell.

    A session that runs in another process also has `own_ms`, what its last inference took there.
    """

    engine: str
    handle: Any

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        ...


def require(package: str) -> Any:
    """Import an engine's package.

    Raises:
        EngineError: It is not installed; the message says which extra brings it.
        VersionError: It is too old; the message says what it must be.
    """
    if find_spec(package) is None:
        raise EngineError(
            f"engine {package!r} needs the package {package}, which is not installed: pip install 'quantsam[{package}]'"
        )
    check_version(package)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime's; it complains where it cannot write, too
    return importlib.import_module(package)


def reason_of(error: Exception) -> str:
    """Return why an engine refuses, in its own words but without its source's paths, types and conditions."""
    text = " ".join(str(error).split())
    for mark in ("Status Message: ", " was false. ", "NOT_IMPLEMENTED : "):  # what it means stands behind the condition
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
        label: What its values' names begin with: `stage3:4:2/`, `stage4:1:0/depthwise0.`.
        operator: The engine's own word: `QLinearConv`, `brgconv_avx512_I8`, ...
        precision: Of its input: `u8`, `i8`, `f32`, ...; `?` where the engine does not tell.
        fused: Names of the graph's nodes that run inside of it.
    """

    label: str
    operator: str
    precision: str
    fused: tuple[str, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Whether it multiplies integers."""
        return self.precision in _INTEGERS
