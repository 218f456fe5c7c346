"""Compute the size of an encoder's weights under a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quantsam.models.encoder import ImageEncoder
from quantsam.plans.plan import PlanSite

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of an encoder's weights.

    Attributes:
        quantized_parameters: Number of weights and biases of the convolutions whose weights are quantized.
        saved_mib: Size saved, as the thesis defines it: these parameters in FP16 less in the scheme's format, in MiB.
        size_bytes: Everything to store: codes packed to their bits, one float32 scale per channel or tensor (for
            affine formats also one zero point of the format's width), all other entries in float32.
        fp32_bytes: Size of all entries in float32.
    """

    quantized_parameters: int
    saved_mib: float
    size_bytes: int
    fp32_bytes: int


def account(encoder: ImageEncoder, sites: Iterable[PlanSite]) -> Size:
    """Add up the sizes of an encoder under the quantized sites of a plan.

    The encoder may be on `meta`: only its shapes are read. BatchNorm's statistics count as entries,
    its step counter does not.
    """
    fp32_bytes = 4 * sum(t.numel() for t in encoder.state_dict().values() if t.is_floating_point())
    parameters = saved_bits = 0
    size_bits = 8 * fp32_bytes
    for site in sites:
        if site.role != "weight":
            continue
        conv = encoder.get_submodule(site.path)
        weight = conv.get_parameter("weight")
        count = sum(p.numel() for p in conv.parameters())
        bits = site.spec.fmt.num_bits
        grids = weight.shape[0] if site.spec.per_channel else 1
        parameters += count
        saved_bits += count * (16 - bits)
        size_bits += weight.numel() * (bits - 32) + grids * (32 + (0 if site.spec.symmetric else bits))
    return Size(parameters, saved_bits / 8 / _MIB, -(-size_bits // 8), fp32_bytes)
