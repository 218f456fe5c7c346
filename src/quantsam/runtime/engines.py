"""The registry of engines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from quantsam.errors import InputError, one_of
from quantsam.results.machine import environment
from quantsam.runtime import onnxruntime, openvino, tensorrt, web
from quantsam.runtime.engine import Engine
from quantsam.runtime.sessions import Session, SessionOptions

PYTORCH = "pytorch"
"""Not an engine, but what computes where none does: float, or a simulation."""

_DEFAULT = SessionOptions()

ENGINES: dict[str, Engine] = {
    module.ENGINE.name: module.ENGINE
    for module in (
        onnxruntime,
        openvino,
        tensorrt,
        web,
    )
}


def get_engine(name: str, *, on_processor: bool = False) -> Engine:
    """Return an engine by name.

    Args:
        name: Name of the engine.
        on_processor: Whether to accept only engines that run on the processor.

    Raises:
        InputError: There is no engine with this name.
    """
    known = engine_names(on_processor=on_processor)
    if name not in known:
        raise InputError(one_of("engine", name, known))
    return ENGINES[name]


def engine_names(*, on_processor: bool = False) -> tuple[str, ...]:
    """Return the names of all engines, or of those that run on the processor."""
    return tuple(name for name, engine in ENGINES.items() if engine.on_processor or not on_processor)


def usual_engines() -> tuple[str, ...]:
    """Return the names of the processor's engines that commands use if the user names none."""
    return tuple(name for name in engine_names(on_processor=True) if ENGINES[name].usual)


def installed_engines() -> tuple[str, ...]:
    """Return the names of the usual engines with installed packages, without importing them."""
    return tuple(name for name in usual_engines() if importlib.util.find_spec(ENGINES[name].package) is not None)


def check_engine(name: str) -> None:
    """Check, before long work, that a backend can compute: `pytorch`, or an installed engine.

    Raises:
        InputError: The engine is unknown.
        EngineError: The engine is not installed, or its device is missing.
    """
    known = (PYTORCH, *ENGINES)
    if name not in known:
        raise InputError(one_of("engine", name, known))
    if name != PYTORCH:
        ENGINES[name].check()


def check_precision(name: str, precision: str) -> None:
    """Make sure that a backend supports a precision for unquantized parts; `f32` leaves the choice to the engine.

    Raises:
        InputError: The backend does not support the precision.
    """
    able = [other for other, engine in ENGINES.items() if precision in engine.precisions]
    if precision != "f32" and name not in able:
        raise InputError(
            f"precision {precision} is of {' and '.join(able) or 'no engine'}, got engine {name}: take f32"
        )


def placement_of(engine: str, *, vnni: bool = False) -> str:
    """Return the name of the placement for a backend's plans.

    Args:
        engine: `pytorch`, or an engine's name.
        vnni: Whether the plans are only for processors with VNNI, if that makes a difference.
    """
    if engine == PYTORCH:
        return "thesis"
    found = ENGINES[engine]
    return f"{found.placement}+vnni" if vnni and found.saturates else found.placement


def open_session(engine: str, model: bytes | Path, options: SessionOptions = _DEFAULT) -> Session:
    """Open a graph in an engine on this processor.

    Args:
        engine: Name of the engine.
        model: The ONNX file, or its content.
        options: How to run the graph.

    Raises:
        InputError: The engine is unknown, or does not support the precision.
        EngineError: The engine is not installed, or cannot run the graph.
    """
    return get_engine(engine, on_processor=True).open(model, options)


def surroundings(engine: str) -> dict[str, str]:
    """Return the machine and the versions that a result depends on; see `environment`.

    Args:
        engine: The backend: `pytorch`, or an engine's name.

    Raises:
        EngineError: The engine's version cannot be found out here.
    """
    return environment() if engine == PYTORCH else {**environment(), engine: ENGINES[engine].version()}
