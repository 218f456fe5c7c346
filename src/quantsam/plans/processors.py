"""On which processors the integer kernels compute a plan exactly.

x86 kernels without VNNI add pairs of products in 16 bits, which saturate: see `quant.saturation`. Those with VNNI, and
Arm's, add in 32 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol

from quantsam.plans.layers import Role, is_depthwise
from quantsam.quant.params import TensorSpec
from quantsam.quant.saturation import PairOrder


class Site(Protocol):
    """What of a site decides whether its products can overflow."""

    @property
    def tensor(self) -> str:
        """Its name at its convolution."""
        ...

    @property
    def branch(self) -> str:
        """Which convolution of the layer."""
        ...

    @property
    def convolution(self) -> str:
        """Path of its convolution."""
        ...

    @property
    def role(self) -> Role:
        """Weight or activation."""
        ...

    @property
    def path(self) -> str:
        """Its module."""
        ...


def weights_in_pairs(kinds: Iterable[tuple[str, Site, TensorSpec]], order: PairOrder) -> set[str]:
    """Return the paths of the weights whose products a kernel without VNNI adds in pairs of 16 bits.

    These are signed 8-bit weights of convolutions with an 8-bit input of one scale, but for depthwise ones. oneDNN does
    so with symmetric weights alone.

    Args:
        kinds: Kind of layer, site and specification of each quantized tensor.
        order: Of the engine, see `PairOrder`.
    """
    quantized = list(kinds)
    inputs = {
        site.convolution
        for _, site, spec in quantized
        if site.tensor == "input" and _is_8_bit(spec) and not spec.per_channel
    }
    return {
        site.path
        for kind, site, spec in quantized
        if site.role == "weight"
        and site.path in inputs
        and _is_8_bit(spec)
        and spec.fmt.signed
        and (spec.symmetric or order == "running")
        and not is_depthwise(kind, site.branch)
    }


def protected(spec: TensorSpec) -> TensorSpec:
    """Return a weight's specification, saturation-free where its codes can be: around a zero point of 0."""
    return dataclasses.replace(spec, saturation_free=True) if spec.symmetric else spec


def _is_8_bit(spec: TensorSpec) -> bool:
    return spec.fits_8_bits and spec.fmt.num_bits == 8
