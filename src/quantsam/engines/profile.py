"""Measure where an engine spends its time: milliseconds per layer, from the engine's own profiler."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from quantsam.engines.encoder import check_runs, open_plan
from quantsam.engines.onnx_encoder import INPUT, encoder_to_onnx
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.runtime.sessions import SessionOptions

_ADDRESS = re.compile(r"(?:stage\d+|neck):\d+:\d+")


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """The times of one encoder from an engine's profiler.

    Attributes:
        layers: Median milliseconds by address. A node without a layer's name (activation, addition, attention,
            up-sampling) counts toward the layer before it.
        before: Milliseconds before the first layer.
    """

    layers: dict[str, float]
    before: float

    @property
    def total(self) -> float:
        """Total time in milliseconds."""
        return self.before + sum(self.layers.values())


def layer_times(
    model: EfficientViTSam, plan: Plan, engine: str, *, rounds: int = 20, warm_up: int = 3, threads: int = 1
) -> LayerTimes:
    """Profile an encoder in an engine.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan with the engine's placement; or a plan without sites.
        engine: Name of the engine, `onnxruntime` or `openvino`.
        rounds: Number of measured inferences.
        warm_up: Number of inferences before measuring.
        threads: Number of threads per inference.

    Raises:
        PlanError: See `check_runs`.
        EngineError: The engine is not installed, or refuses the graph.
    """
    check_runs(plan, engine)
    side = model.variant.input_size
    options = SessionOptions(threads, shapes={INPUT: (1, 3, side, side)}, profile=True)
    opened, _ = open_plan(plan, engine, encoder_to_onnx(model, plan).SerializeToString(), options)
    session: Any = opened
    image = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
    found = [attribute(nodes) for nodes in session.profile({INPUT: image}, warm_up, rounds)]
    layers = {a: median(own.get(a, 0.0) for own, _ in found) for a in dict.fromkeys(k for own, _ in found for k in own)}
    return LayerTimes(layers, median(before for _, before in found))


def attribute(nodes: Iterable[tuple[str, float]]) -> tuple[dict[str, float], float]:
    """Add up the times of nodes, given in the order in which they ran, by layer; and the time before the first layer.

    >>> attribute([("cast", 1.0), ("stage0:0:0/convolution", 2.0), ("act", 0.5)])
    ({'stage0:0:0': 2.5}, 1.0)
    """
    layers: dict[str, float] = {}
    before, current = 0.0, None
    for name, spent in nodes:
        match = _ADDRESS.search(name)
        current = match[0] if match else current
        if current is None:
            before += spent
        else:
            layers[current] = layers.get(current, 0.0) + spent
    return layers, before
