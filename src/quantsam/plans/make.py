"""Make a plan: resolve a scheme on a model under a placement."""

from __future__ import annotations

from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import state_digest
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import discover_layers
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.resolve import resolve
from quantsam.plans.transforms import transformed
from quantsam.schemes.load import load_scheme
from quantsam.schemes.scheme import Scheme


def make_plan(
    model: EfficientViTSam,
    scheme: Scheme | str,
    placement: str = "thesis",
    *,
    weights: bool = True,
    activations: bool = True,
) -> Plan:
    """Resolve a scheme on a model.

    Args:
        model: The float model.
        scheme: A scheme, or anything that `load_scheme` accepts.
        placement: Name of the placement.
        weights: Quantize weights (the thesis' `quantize_W`).
        activations: Quantize activations (the thesis' `quantize_A`).

    Returns:
        A plan that is not calibrated yet.

    Raises:
        SchemeError: The scheme does not fit the model.
        InputError: There is no such placement.
    """
    scheme = scheme if isinstance(scheme, Scheme) else load_scheme(scheme)
    encoder = model.float_encoder
    sites = resolve_sites(encoder, scheme, placement, weights=weights, activations=activations)
    transforms = get_placement(placement).transforms
    return Plan(model.name, state_digest(encoder), scheme.name, scheme.digest, placement, sites, transforms)


def resolve_sites(
    encoder: ImageEncoder, scheme: Scheme, placement: str, *, weights: bool = True, activations: bool = True
) -> tuple[PlanSite, ...]:
    """Return the sites that `make_plan` quantizes; the encoder's weights are not read and may be on `meta`."""
    roles = {"weight": weights, "activation": activations}
    placed = get_placement(placement)
    layers = discover_layers(transformed(encoder, placed.transforms), shortcuts=True)
    resolved = resolve(scheme, placed, layers, encoder.variant.name)
    return tuple(
        PlanSite(str(layer.address), layer.kind, site.name, site.role, site.path, spec)
        for layer, site, spec in resolved
        if roles[site.role]
    )
