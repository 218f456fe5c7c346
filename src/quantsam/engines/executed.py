"""Find what an engine really executed: read from the engine's own graph, not from the exported one."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from quantsam.plans.plan import Plan
from quantsam.runtime.engines import ENGINES
from quantsam.runtime.sessions import Executed, Session

CONVOLUTION = "convolution"
MERGED = "(merged)"  # the engine merged it into another operation, such as a matrix product after a transposition


def executed(graph: bytes, session: Session) -> tuple[Executed, ...]:
    """Return every convolution of a graph as a session runs it, in graph order; empty if the engine does not tell.

    Args:
        graph: The ONNX model, from `encoder_to_onnx`, that the session was made from.
        session: The engine's session.
    """
    found = ENGINES[session.engine].read(graph, session)
    if found is None:
        return ()
    names = [n.name for n in onnx.load_from_string(graph).graph.node if n.op_type == "Conv"]
    told = []
    for name in names:
        entry = next((e for e in found if any(_is_named(key, name) for key in (e.label, *e.fused))), None)
        entry = entry or Executed(name, MERGED, "?")
        told.append(Executed(name.removesuffix(CONVOLUTION), entry.operator, entry.precision, entry.fused))
    return tuple(told)


def quantized_but_float(plan: Plan, ran: Iterable[Executed]) -> tuple[str, ...]:
    """Return the convolutions whose weight and input the plan quantizes, but that the engine ran in float."""
    quantized = {weight.label for weight, _ in plan.quantized_convolutions()}
    return tuple(e.label for e in ran if e.label in quantized and not e.is_integer)


def _is_named(found: str, name: str) -> bool:
    """Return whether an engine's node name derives from ours: an engine may append to it, never change it."""
    return found.startswith(name) and found[len(name) : len(name) + 1] in ("", "/", "_")
