"""The fields of a record that describe the evaluated model."""

from __future__ import annotations

from typing import Any

from quantsam.engines.encoder import EngineEncoder
from quantsam.models.encoder import ImageEncoder
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import discover_layers
from quantsam.plans.plan import Plan
from quantsam.plans.sizes import account
from quantsam.results.layer_formats import KEY, LayerFormat
from quantsam.results.record import JsonValue
from quantsam.simulation.simulator import SimulatedEncoder


def _plan_of(model: EfficientViTSam) -> Plan | None:
    encoder = model.image_encoder
    return encoder.plan if isinstance(encoder, (SimulatedEncoder, EngineEncoder)) else None


def is_described(model: EfficientViTSam) -> bool:
    """Return whether a record describes the model completely; False for a user's own encoder."""
    return isinstance(model.image_encoder, (ImageEncoder, SimulatedEncoder, EngineEncoder))


def engine_of(model: EfficientViTSam) -> str:
    """Return what computes the embeddings: `pytorch`, or an engine's name."""
    return model.image_encoder.engine if isinstance(model.image_encoder, EngineEncoder) else "pytorch"


def sizes(model: EfficientViTSam) -> dict[str, float | int | None]:
    """Return the size figures: all encoder weights under the plan, and the saving as the thesis defines it."""
    plan, encoder = _plan_of(model), model.float_encoder
    size = account(encoder, plan.sites if plan else ())
    return {
        "quantized_parameters": size.quantized_parameters,
        "saved_mib": size.saved_mib,
        "size_bytes": size.size_bytes,
        "fp32_bytes": size.fp32_bytes,
    }


def switches(model: EfficientViTSam) -> dict[str, JsonValue]:
    """Return whether weights and activations are quantized, and an engine's precision of the rest if not float32."""
    plan = _plan_of(model)
    roles = {site.role for site in plan.sites} if plan else set()
    found: dict[str, JsonValue] = {}
    if roles:
        found = {"weights": "weight" in roles, "activations": "activation" in roles}
    encoder = model.image_encoder
    if isinstance(encoder, SimulatedEncoder) and encoder.integers is not None:
        found["integers"] = encoder.integers
    exact = True
    if isinstance(encoder, EngineEncoder):
        exact = encoder.exact
        if encoder.precision != "f32":
            found["precision"] = encoder.precision
    return found if plan is None else found | exactness(plan, exact)


def formats_by_layer(model: EfficientViTSam) -> dict[str, JsonValue]:
    """Return every layer's formats under the model's plan, as in a record's results; empty for FP32."""
    plan = _plan_of(model)
    if plan is None:
        return {}
    found: dict[tuple[str, str], set[str]] = {}
    for site in plan.sites:
        found.setdefault((site.layer, site.role), set()).add(site.spec.format)
    layers: list[JsonValue] = []
    for layer in discover_layers(model.float_encoder):
        address = str(layer.address)
        weights, activations = (
            "/".join(sorted(found.get((address, role), ()))) or None for role in ("weight", "activation")
        )
        layers.append(LayerFormat(address, layer.kind, weights, activations).to_json())
    return {KEY: layers}


def exactness(plan: Plan, exact: bool) -> dict[str, JsonValue]:
    """Return a record's settings for a plan that was repaired, or whose integers are not exact on every processor.

    Args:
        plan: The plan that was computed.
        exact: Whether the processor adds products in 32 bits, or nothing ran in integers.

    Returns:
        `repairs`, if there are any. For a plan that is not exact everywhere also `processors`, which is `vnni`, and
        `exact` if it is false.
    """
    repairs: dict[str, JsonValue] = {"repairs": list(plan.repairs)} if plan.repairs else {}
    if plan.processors == "any":
        return repairs
    return repairs | {"processors": plan.processors, **({} if exact else {"exact": False})}


def plan_fields(model: EfficientViTSam) -> dict[str, Any]:
    """Return the record's fields for engine, scheme, plan, placement and calibration."""
    plan = _plan_of(model)
    if plan is None:
        scheme = "fp32" if isinstance(model.image_encoder, ImageEncoder) else type(model.image_encoder).__name__
        return {"scheme": scheme}
    return {"engine": engine_of(model), **fields_of_plan(plan)}


def fields_of_plan(plan: Plan) -> dict[str, Any]:
    """Return the record's fields for scheme, plan, placement and calibration."""
    fields: dict[str, Any] = {
        "scheme": plan.scheme,
        "scheme_digest": plan.scheme_digest,
        "plan_digest": plan.digest,
        "placement": plan.placement,
    }
    if plan.calibration is not None:
        fields |= {"calibration": plan.calibration.name, "calibration_digest": plan.calibration.digest}
    return fields
