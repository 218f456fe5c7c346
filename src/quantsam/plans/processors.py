"""Find the processors on which the integer kernels compute a plan exactly.

x86 kernels without VNNI add pairs of products in 16 bits, which saturate: see `quant.saturation`. Kernels with VNNI,
and Arm kernels, add in 32 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol

from quantsam.plans.layers import Role, is_depthwise
from quantsam.quant.params import TensorSpec
from quantsam.quant.saturation import PairOrder


class Site(Protocol):
    """The properties of a site that decide whether its products can overflow."""

    @property
    def tensor(self) -> str:
        """Its name at its convolution."""
        ...

    @property
    def branch(self) -> str:
        """Prefix that names its convolution within the layer."""
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
        """Path of its module."""
        ...


def weights_in_pairs(kinds: Iterable[tuple[str, Site, TensorSpec]], order: PairOrder) -> set[str]:
    """Return the paths of the weights whose products a kernel without VNNI adds in pairs of 16 bits.

    These are the signed 8-bit weights of convolutions that are not depthwise and have an 8-bit input with one scale.
    oneDNN adds in pairs only for symmetric weights.

    Args:
        kinds: Kind of layer, site and specification of each quantized tensor.
        order: The engine's order, see `PairOrder`.
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
    """Return a weight's specification, made saturation-free if its zero point is 0."""
    return dataclasses.replace(spec, saturation_free=True) if spec.symmetric else spec


def _is_8_bit(spec: TensorSpec) -> bool:
    return spec.fits_8_bits and spec.fmt.num_bits == 8
