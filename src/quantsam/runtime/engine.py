"""What an engine is: one value, which all that asks for an engine by name reads.

A new engine that takes ONNX graphs is a file that holds such a value, and its name in `runtime.engines`.
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
        name: What users call it.
        package: What is imported; also the extra that installs it.
        title: As its makers write it.
        placement: Name of the placement of its plans.
        weight_formats: Formats of weights that its own conversion was seen to compute as a plan says.
        activation_formats: The same of activations.
        opener: What gives it a graph, `module:function`, imported when it is needed: (bytes or path, options) to a
            `Session`.
        reader: What reads from a session which convolutions it runs, and how, `module:function`: (graph, session) to a
            list of `Executed`; None where the engine does not tell.
        checker: What makes sure that it can run here, `module:function`; None where its package is enough.
        precisions: Of what is not quantized; the first is its own choice.
        channel_activations: Whether an activation may have a scale a channel.
        saturates: Whether it has x86 kernels that add pairs of products in 16 bits, see `quant.saturation`.
        widens: Whether it can be told to add them in 32 bits.
        on_processor: Whether it runs on the processor, and so opens bundles and is timed and studied here.
        usual: Whether commands take it where their user names no engine.
        versioner: What returns the version that computes, `module:function`; None where it is its package's.
        builder: What returns the shell line that builds its own file of an exported encoder, `module:function`; None
            where it runs the ONNX file.
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
        """Return the formats of weights or of activations."""
        return self.weight_formats if role == "weight" else self.activation_formats

    def check(self) -> None:
        """Make sure, before long work, that it can run on this machine.

        Raises:
            EngineError: Its package, or a device, is missing.
            VersionError: Its package is too old.
        """
        if self.checker is not None:
            imported(self.checker)()
        else:
            require(self.package)

    def version(self) -> str:
        """Return the version that computes; `not installed` where there is none.

        Raises:
            EngineError: It cannot be asked here.
        """
        if self.versioner is not None:
            return str(imported(self.versioner)())
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "not installed"

    def check_precision(self, precision: str) -> None:
        """Make sure that it has a precision for what is not quantized.

        Raises:
            InputError: It has not.
        """
        if precision not in self.precisions:
            raise InputError(
                f"precision of {self.name} must be {' or '.join(map(repr, self.precisions))}, got {precision!r}"
            )

    def precision_for(self, asked: Precision) -> Precision:
        """Return the precision of what is not quantized; `f32` asks for the engine's own choice.

        Raises:
            InputError: It has not what was asked for.
        """
        used = self.precisions[0] if asked == "f32" else asked
        self.check_precision(used)
        return used

    def open(self, model: bytes | Path, options: SessionOptions) -> Session:
        """Give it a graph.

        Raises:
            InputError: It has no such precision.
            EngineError: It is not installed, or cannot run the graph.
        """
        try:
            session: Session = imported(self.opener)(model, options)
        except (InputError, EngineError, VersionError):
            raise
        except Exception as error:  # each engine has errors of its own
            what = repr(str(model)) if isinstance(model, Path) else "the graph"
            raise EngineError(
                f"{self.name} cannot run {what} ({reason_of(error)}): export it for {self.name}"
            ) from error
        return session

    def build_line(self, graph: Path) -> str | None:
        """Return the shell line that builds its own file of an exported encoder; None where it runs the ONNX file."""
        return None if self.builder is None else str(imported(self.builder)(graph))

    def read(self, graph: bytes, session: Session) -> Sequence[Executed] | None:
        """Return the convolutions that a session runs, in its own words; None where it does not tell."""
        found: Sequence[Executed] | None = None if self.reader is None else imported(self.reader)(graph, session)
        return found


def imported(reference: str) -> Any:
    """Return what `module:name` means."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
