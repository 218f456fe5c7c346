"""Find where an engine's tensors deviate from the simulation's, layer by layer, in steps of the grid (LSB)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from quantsam.engines.encoder import check_runs, open_plan
from quantsam.engines.executed import executed
from quantsam.engines.onnx_encoder import INPUT, encoder_to_onnx
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan, PlanSite
from quantsam.runtime.sessions import SessionOptions


@dataclass(frozen=True, slots=True)
class Distance:
    """The distance between two tensors on one grid.

    Attributes:
        most_lsb: Largest difference, in steps of the grid.
        differing: Share of the values that differ, 0..1.
    """

    most_lsb: float
    differing: float


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One convolution: how the engine ran it, and how far its rounded tensors are from the simulation's.

    Attributes:
        layer: Label of the layer: `stage3:4:2`, or `stage4:1:0/depthwise0` for convolutions of the multi-scale branch.
        operator: The engine's own name for the operator that it ran.
        precision: Precision of the convolution's input.
        fused: Names of the graph's nodes that run inside this operator.
        quantized: Whether the plan quantizes the weight and the input.
        is_integer: Whether the engine multiplied integers.
        simulated: Largest distance of the convolution's quantized tensors from the simulation's; None if it has none.
        exact: The same for the simulation in exact integers.
    """

    layer: str
    operator: str
    precision: str
    fused: tuple[str, ...]
    quantized: bool
    is_integer: bool
    simulated: Distance | None
    exact: Distance | None

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


Simulate = Callable[..., nn.Module]


def report_layers(
    model: EfficientViTSam, plan: Plan, image: Tensor, simulate: Simulate, engine_name: str | None = None
) -> tuple[LayerReport, ...]:
    """Run one image in the simulation and in the optimized engine, and compare every rounded tensor.

    Making a tensor an output can prevent the engine from fusing the operations after it. So the executed operators are
    read from the graph without these outputs.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan with the engine's placement.
        image: (1, 3, S, S), normalized.
        simulate: The function `quantsam.simulate`.
        engine_name: The engine; by default that of the plan's placement.

    Raises:
        PlanError: The plan does not fit its engine.
        EngineError: The engine is not installed or refuses the graph.
    """
    engine_name = engine_name or get_placement(plan.placement).engine
    check_runs(plan, engine_name)
    sites = [site for site in plan.sites if site.role == "activation"]
    graph = encoder_to_onnx(model, plan)
    options = SessionOptions(torch.get_num_threads(), shapes={INPUT: tuple(image.shape)})
    plain = graph.SerializeToString()
    ran = executed(plain, open_plan(plan, engine_name, plain, options)[0])
    for site in sites:
        graph.graph.output.append(helper.make_tensor_value_info(site.key, onnx.TensorProto.FLOAT, None))
    session, _ = open_plan(plan, engine_name, graph.SerializeToString(), options)
    engine = session.run({INPUT: image.cpu().numpy()})
    found = {}
    for exact in (False, True):
        seen = _rounded(simulate(model, plan, fused=False, exact=exact), sites, image)
        found[exact] = _distances(sites, seen, engine)
    quantized = {weight.label for weight, _ in plan.quantized_convolutions()}
    return tuple(
        LayerReport(
            layer=entry.label.rstrip("/."),
            operator=entry.operator,
            precision=entry.precision,
            fused=entry.fused,
            quantized=entry.label in quantized,
            is_integer=entry.is_integer,
            simulated=_largest(found[False], entry.label),
            exact=_largest(found[True], entry.label),
        )
        for entry in ran
    )


def _rounded(simulated: nn.Module, sites: Sequence[PlanSite], image: Tensor) -> dict[str, Tensor]:
    """Return the tensor at each site."""
    seen: dict[str, Tensor] = {}

    def keep(key: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen[key] = output.clone()

        return hook

    for site in sites:
        simulated.get_submodule(f"encoder.{site.path}").register_forward_hook(keep(site.key))
    with torch.inference_mode():
        simulated(image)
    return seen


def _distances(sites: Sequence[PlanSite], seen: dict[str, Tensor], engine: dict[str, Any]) -> dict[str, Distance]:
    found = {}
    for site in sites:
        assert site.params is not None
        values = seen[site.key].cpu()
        scale, _ = site.params.to("cpu").broadcast(values.ndim)
        steps = ((values - torch.from_numpy(engine[site.key])) / scale).round().abs()
        found[site.key] = Distance(float(steps.max()), float((steps > 0).float().mean()))
    return found


def _largest(found: dict[str, Distance], layer: str) -> Distance | None:
    own = [found[key] for key in (f"{layer}{name}" for name in ("input", "conv", "norm", "act")) if key in found]
    return max(own, key=lambda distance: (distance.differing, distance.most_lsb), default=None)
