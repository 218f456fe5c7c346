"""Make a model that runs a plan: simulated, or in an engine."""

from __future__ import annotations

from quantsam.engines.encoder import make_engine_encoder
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.runtime.engines import PYTORCH
from quantsam.runtime.sessions import Precision
from quantsam.simulation.simulator import simulate


def quantized_model(
    model: EfficientViTSam, plan: Plan, engine: str = PYTORCH, precision: Precision = "f32"
) -> EfficientViTSam:
    """Return a model whose encoder runs a plan: simulated, or in an engine; a plan without sites is FP32."""
    if engine != PYTORCH:
        return model.with_encoder(make_engine_encoder(model, plan, engine, precision=precision))
    return model.with_encoder(simulate(model, plan)) if plan.sites else model
