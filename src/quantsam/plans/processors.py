"""On which processors the integer kernels compute a plan exactly.

x86 kernels without VNNI add pairs of products in 16 bits, which saturate: see `quant.saturation`. Those with VNNI, and
Arm's, add in 32 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal, Protocol

from quantsam.plans.layers import Role
from quantsam.quant.params import TensorSpec

Processors = Literal["any", "vnni"]
"""`any`: exact everywhere. `vnni`: exact only where products are added in 32 bits (x86 with VNNI or AMX, Arm)."""

_INPUT = ".input_site"


class Site(Protocol):
    """What of a site decides whether its products can overflow."""

    @property
    def name(self) -> str:
        """Name in the layer."""
        ...

    @property
    def role(self) -> Role:
        """Weight or activation."""
        ...

    @property
    def path(self) -> str:
        """Its module."""
        ...


def weights_in_pairs(kinds: Iterable[tuple[str, Site, TensorSpec]]) -> set[str]:
    """Return the paths of the weights whose products a kernel without VNNI adds in pairs of 16 bits.

    These are 8-bit integer weights of convolutions with 8-bit integer inputs, but for depthwise ones.

    Args:
        kinds: Kind of layer, site and specification of each quantized tensor.
    """
    quantized = list(kinds)
    inputs = {s.path.removesuffix(_INPUT) for _, s, spec in quantized if s.path.endswith(_INPUT) and _is_8_bit(spec)}
    return {
        site.path
        for kind, site, spec in quantized
        if site.role == "weight" and site.path in inputs and _is_8_bit(spec) and not _is_depthwise(kind, site.name)
    }


def protected(spec: TensorSpec) -> TensorSpec:
    """Return a weight's specification, saturation-free where its codes can be: symmetric and signed."""
    can = spec.symmetric and spec.fmt.signed
    return dataclasses.replace(spec, saturation_free=True) if can else spec


def _is_8_bit(spec: TensorSpec) -> bool:
    return spec.quantizer == "uniform" and spec.fmt.kind == "int" and spec.fmt.num_bits == 8


def _is_depthwise(kind: str, name: str) -> bool:
    return kind == "mbc_depthwise" or name.startswith("depthwise")
