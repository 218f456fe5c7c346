"""Simulate a plan in PyTorch: round weights once, and activations at their sites."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from quantsam.errors import PlanError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import set_parameter, with_modules
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.biases import corrected_biases, integer_biases
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import prepare, rounded_weight
from quantsam.quant.params import TensorSpec
from quantsam.simulation.additions import use_integer_additions
from quantsam.simulation.fuse import fuse
from quantsam.simulation.integer import use_integers
from quantsam.simulation.sites import FakeQuantize, ShiftedFakeQuantize


class SimulatedEncoder(nn.Module):
    """An encoder that simulates its plan.

    Attributes:
        plan: The plan.
        integers: `exact` or `saturating` if it computes in integers; None if floats stand for integers.
    """

    def __init__(
        self, plan: Plan, encoder: ImageEncoder, integers: Literal["exact", "saturating"] | None = None
    ) -> None:
        super().__init__()
        self.plan = plan
        self.encoder = encoder
        self.integers = integers

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, S, S) to the embedding (N, embed_dim, size, size)."""
        y: Tensor = self.encoder(image)
        return y


def simulate(
    model: EfficientViTSam, plan: Plan, *, fused: bool = True, exact: bool = False, saturate: bool = False
) -> SimulatedEncoder:
    """Return a new encoder that simulates a plan; `model` is unchanged.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan.
        exact: Compute quantized convolutions in integers, with the requantization of the plan's engine, see
            `simulation.integer`. This is slower and not fused.
        saturate: Compute in integers, and let sums saturate as in the engine's x86 kernels without VNNI. This shows
            what a plan for VNNI computes on another processor.
        fused: Replace the modules between two convolutions by table look-ups, see `simulation.fuse`.

    Raises:
        PlanError: The plan is not calibrated or was made for another model, or `saturate` is set but the placement's
            engine has no kernels that saturate.
    """
    if saturate and get_placement(plan.placement).pairs is None:
        raise PlanError(
            f"only plans for onnxruntime and openvino have sums that saturate, got placement {plan.placement!r}: "
            "calibrate with --placement onnxruntime or openvino"
        )
    plan.check_calibrated()
    prepared = prepare(model, plan)
    integers: Literal["exact", "saturating"] | None = "saturating" if saturate else "exact" if exact else None
    return SimulatedEncoder(plan, assemble(prepared, plan, fused=fused, exact=exact, saturate=saturate), integers)


def assemble(
    prepared: ImageEncoder,
    plan: Plan,
    *,
    fused: bool = True,
    exact: bool = False,
    saturate: bool = False,
    rounded: dict[tuple[str, TensorSpec], Tensor] | None = None,
) -> ImageEncoder:
    """Assemble the encoder of a simulation.

    Args:
        prepared: The float encoder with the plan's transforms, see `prepare`.
        plan: A calibrated plan for this encoder; this is not checked.
        fused: See `simulate`.
        exact: See `simulate`.
        saturate: See `simulate`.
        rounded: Cache of rounded weights by site and specification; it is read and extended, so that plans of one
            calibration share memory.
    """
    placement = get_placement(plan.placement)
    exact = exact or saturate
    rounding = ShiftedFakeQuantize if exact and placement.rounds_shifted else FakeQuantize
    rounded = {} if rounded is None else rounded
    device = next(prepared.parameters()).device
    sites = {
        site.path: rounding(site.spec, site.params).to(device)
        for site in plan.sites
        if site.role == "activation" and site.params is not None
    }
    encoder = with_modules(prepared, sites).eval()
    for site in plan.sites:
        if site.role == "weight" and site.params is not None:
            key = (site.key, site.spec)
            if key not in rounded:
                rounded[key] = rounded_weight(prepared, site)
            set_parameter(encoder, f"{site.path}.weight", rounded[key])
    biases = corrected_biases(plan, prepared) | {p: b.values for p, b in integer_biases(plan, prepared).items()}
    for path, bias in biases.items():
        set_parameter(encoder, f"{path}.bias", bias)
    if exact:
        use_integers(encoder, plan, prepared, saturate=saturate)
        if placement.engine == "onnxruntime":
            use_integer_additions(encoder, plan, prepared)
    elif fused:
        fuse(encoder)
    return encoder
