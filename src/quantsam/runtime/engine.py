"""Describe an engine as one value, which all code that looks up an engine by name reads.

To add an engine for ONNX graphs, write a file with such a value, and add its name to `runtime.engines`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from quantsam.errors import EngineError, InputError
from quantsam.runtime.sessions import Executed, Precision, Session, SessionOptions, reason_of, require
from quantsam.versions import VersionError

Role = Literal["weight", "activation"]

BYTES, WORDS = ("int8", "uint8"), ("int16", "uint16")
NARROW = tuple(f"{sign}int{bits}" for bits in (7, 6, 5, 4) for sign in ("", "u"))


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that runs ONNX graphs.

    Attributes:
        name: Name for users.
        package: Package to import; also the name of the extra that installs it.
        title: Name as its makers write it.
        placement: Name of the placement for the engine's plans.
        weight_formats: Weight formats that the engine was observed to compute as the plan says.
        activation_formats: The same for activations.
        opener: Function that opens a graph, `module:function`, imported when needed: (bytes or path, options) ->
            `Session`.
        reader: Function that reads which convolutions a session runs, and how, `module:function`: (graph, session) ->
            list of `Executed`; None if the engine does not tell.
        checker: Function that checks that the engine can run here, `module:function`; None if its package is enough.
        precisions: Precisions of the parts that are not quantized; the first is the engine's default.
        channel_activations: Whether an activation may have a scale per channel.
        saturates: Whether the engine has x86 kernels that add pairs of products in 16 bits; see `quant.saturation`.
        widens: Whether the engine can be set to add the products in 32 bits.
        on_processor: Whether the engine runs on the processor (CPU); only then can it open bundles and be timed and
            studied here.
        usual: Whether commands use the engine if the user names none.
        versioner: Function that returns the version that computes, `module:function`; None if it is the package's
            version.
        builder: Function that returns the shell command for building the engine's own file from an exported encoder,
            `module:function`; None if the engine runs the ONNX file.
    """

    name: str
    package: str
    title: str
    placement: str
    weight_formats: tuple[str, ...]
    activation_formats: tuple[str, ...]
    opener: str
    reader: str | None = None
    checker: str | None = None
    precisions: tuple[Precision, ...] = ("f32",)
    channel_activations: bool = True
    saturates: bool = False
    widens: bool = False
    on_processor: bool = True
    usual: bool = True
    versioner: str | None = None
    builder: str | None = None

    def formats(self, role: Role) -> tuple[str, ...]:
        """Return the supported formats of weights or activations."""
        return self.weight_formats if role == "weight" else self.activation_formats

    def check(self) -> None:
        """Check, before long work, that the engine can run on this machine.

        Raises:
            EngineError: The engine's package or a device is missing.
            VersionError: The engine's package is too old.
        """
        if self.checker is not None:
            imported(self.checker)()
        else:
            require(self.package)

    def version(self) -> str:
        """Return the version that computes; `not installed` if there is none.

        Raises:
            EngineError: The version cannot be found out here.
        """
        if self.versioner is not None:
            return str(imported(self.versioner)())
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "not installed"

    def check_precision(self, precision: str) -> None:
        """Make sure that the engine supports a precision for the parts that are not quantized.

        Raises:
            InputError: The engine does not support the precision.
        """
        if precision not in self.precisions:
            raise InputError(
                f"precision of {self.name} must be {' or '.join(map(repr, self.precisions))}, got {precision!r}"
            )

    def precision_for(self, asked: Precision) -> Precision:
        """Return the precision of the parts that are not quantized; `f32` requests the engine's default.

        Raises:
            InputError: The engine does not support the requested precision.
        """
        used = self.precisions[0] if asked == "f32" else asked
        self.check_precision(used)
        return used

    def open(self, model: bytes | Path, options: SessionOptions) -> Session:
        """Open a graph in the engine.

        Raises:
            InputError: The engine does not support the precision.
            EngineError: The engine is not installed, or cannot run the graph.
        """
        try:
            session: Session = imported(self.opener)(model, options)
        except (InputError, EngineError, VersionError):
            raise
        except Exception as error:  # each engine raises its own errors
            what = repr(str(model)) if isinstance(model, Path) else "the graph"
            raise EngineError(
                f"{self.name} cannot run {what} ({reason_of(error)}): export it for {self.name}"
            ) from error
        return session

    def build_line(self, graph: Path) -> str | None:
        """Return the shell command that builds the engine's own file; None if the engine runs the ONNX file."""
        return None if self.builder is None else str(imported(self.builder)(graph))

    def read(self, graph: bytes, session: Session) -> Sequence[Executed] | None:
        """Return the convolutions that a session runs, in the engine's own words; None if it does not tell."""
        found: Sequence[Executed] | None = None if self.reader is None else imported(self.reader)(graph, session)
        return found


def imported(reference: str) -> Any:
    """Return the object that `module:name` refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
