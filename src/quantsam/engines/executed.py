"""What an engine really executed: read from the graph that it made, not from the one it was given."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from quantsam.plans.plan import Plan
from quantsam.runtime.engines import ENGINES
from quantsam.runtime.sessions import Executed, Session

CONVOLUTION = "convolution"
MERGED = "(merged)"  # the engine made it part of something else, such as a matrix product behind a transposition


def executed(graph: bytes, session: Session) -> tuple[Executed, ...]:
    """Return every convolution of a graph as a session runs it, in the order of the graph; nothing if it does not tell.

    Args:
        graph: The ONNX model that the session was made from, of `encoder_to_onnx`.
        session: What an engine made of it.
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
    """Return the convolutions that the plan quantizes, weight and input, and the engine ran in float."""
    quantized = {weight.label for weight, _ in plan.quantized_convolutions()}
    return tuple(e.label for e in ran if e.label in quantized and not e.is_integer)


def _is_named(found: str, name: str) -> bool:
    """Whether an engine's name for a node was made from ours: it may append, never change."""
    return found.startswith(name) and found[len(name) : len(name) + 1] in ("", "/", "_")
