"""Find out whether an engine's integer kernels add products in 32 bits on this processor.

This is measured: a probe with the largest codes runs in the engine itself. Names of instruction sets could mislead, for
example on an unknown or future processor, in an emulator, or with a limit set by an environment variable. The probe
cannot mislead.
"""

from __future__ import annotations

import functools
import platform
from importlib import resources
from typing import Literal

import numpy as np

from quantsam.results.machine import instruction_sets
from quantsam.runtime.engines import ENGINES, get_engine, open_session
from quantsam.runtime.sessions import SessionOptions

PROBE = "probe.onnx"
PROBE_SHAPE = (1, 32, 4, 4)


Processors = Literal["any", "vnni"]
"""`any`: exact everywhere. `vnni`: exact only where products are added in 32 bits (x86 with VNNI or AMX, Arm)."""


@functools.cache
def adds_in_32_bits(engine: str) -> bool:
    """Whether an engine's integer kernels add products in 32 bits on this processor.

    Without VNNI (or AMX), x86 kernels add pairs of products in 16 bits, which saturate.

    Args:
        engine: Name of the engine.

    Raises:
        EngineError: The engine is not installed.
    """
    if not get_engine(engine).saturates:
        return True
    graph = resources.files(__package__).joinpath(PROBE).read_bytes()
    session = open_session(engine, graph, SessionOptions(threads=1, shapes={"in": PROBE_SHAPE}))
    found = session.run({"in": np.ones(PROBE_SHAPE, np.float32)})["out"]
    # 32 products of the largest codes; saturating pairs give half of the true sum
    return bool((found > 0.75 * PROBE_SHAPE[1]).all())


def processor_text(engine: str | None = None) -> str:
    """Describe this processor's instruction sets in a few words.

    Args:
        engine: Engine whose way of adding products is also described.
    """
    sets = " ".join(instruction_sets()) or f"unknown instruction sets ({platform.machine() or 'unknown machine'})"
    if engine is None:
        return sets
    how = "products added in 32 bits" if adds_in_32_bits(engine) else "pairs of products saturate at 16 bits"
    return f"{sets}; {engine}: {how}"


def inexact_message(what: str, engine: str) -> str:
    """Say that a plan for VNNI does not suit this processor, and what to do.

    Args:
        what: Name of the plan or bundle.
        engine: The engine that runs the plan or bundle.
    """
    return (
        f"{what} is exact only where products are added in 32 bits, got {processor_text(engine)}: "
        f"calibrate or export again {way_to_exactness(engine)}"
    )


def way_to_exactness(engine: str) -> str:
    """Return the advice for an exact plan here; a plan made for another engine may not be exact."""
    able = " or ".join(name for name, each in ENGINES.items() if each.widens)
    return f"for {engine} with --processors any, or for {able}"
