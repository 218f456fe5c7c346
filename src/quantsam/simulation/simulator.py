"""Run a plan in PyTorch: weights rounded once, activations rounded at their sites."""

from __future__ import annotations

from torch import Tensor, nn

from quantsam.errors import PlanError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import set_weight, with_modules
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.simulation.fuse import fuse
from quantsam.simulation.sites import FakeQuantize


class SimulatedEncoder(nn.Module):
    """An encoder that behaves as its plan says.

    Attributes:
        plan: The plan.
    """

    def __init__(self, plan: Plan, encoder: ImageEncoder) -> None:
        super().__init__()
        self.plan = plan
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, S, S) to the embedding (N, embed_dim, size, size)."""
        y: Tensor = self.encoder(image)
        return y


def simulate(model: EfficientViTSam, plan: Plan, *, fused: bool = True) -> SimulatedEncoder:
    """Return a new encoder that simulates a plan; `model` is unchanged.

    Args:
        model: The model the plan was made for.
        plan: A calibrated plan.
        fused: Replace what lies between two convolutions by table look-ups, see `simulation.fuse`.

    Raises:
        PlanError: The plan is not calibrated or was made for another model.
    """
    plan.check_fits(model)
    device = next(model.float_encoder.parameters()).device
    missing = [site.key for site in plan.sites if site.params is None]
    if missing:
        raise PlanError(f"plan must be calibrated, got {len(missing)} sites without a scale: plan.calibrate(images)")
    sites = {
        site.path: FakeQuantize(site.spec, site.params).to(device)
        for site in plan.sites
        if site.role == "activation" and site.params is not None
    }
    encoder = with_modules(model.float_encoder, sites).eval()
    for site in plan.sites:
        if site.role == "weight" and site.params is not None:
            weight = model.float_encoder.get_submodule(site.path).get_parameter("weight").detach()
            set_weight(encoder, site.path, FakeQuantize(site.spec, site.params).to(device)(weight))
    if fused:
        fuse(encoder)
    return SimulatedEncoder(plan, encoder)
