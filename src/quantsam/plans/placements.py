"""Placements: which sites exist, as one way of running the graph sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quantsam.errors import InputError, nearest
from quantsam.plans.layers import Layer, LayerSite


@dataclass(frozen=True, slots=True)
class Placement:
    """Where tensors are quantized.

    Attributes:
        name: Its name.
        description: One line for tables.
        sites: The sites of a layer, in the order of the forward pass.
    """

    name: str
    description: str
    sites: Callable[[Layer], tuple[LayerSite, ...]]


PLACEMENTS: dict[str, Placement] = {
    "thesis": Placement(
        name="thesis",
        description="BatchNorm not folded; input, weight, convolution, norm and activation quantized one by one; "
        "every step of linear attention; additions, up-sampling and the last LayerNorm in float",
        sites=lambda layer: layer.sites,
    ),
}


def get_placement(name: str) -> Placement:
    """Return a placement by name.

    Raises:
        InputError: There is none of that name.
    """
    if name not in PLACEMENTS:
        raise InputError(f"placement must be one of {', '.join(PLACEMENTS)}, got {name!r}: {nearest(name, PLACEMENTS)}")
    return PLACEMENTS[name]
