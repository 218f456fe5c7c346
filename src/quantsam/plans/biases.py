"""Integer biases: where an engine adds the bias in the accumulator, it is a number of the accumulator's scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantsam.models.encoder import ImageEncoder
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan, PlanSite

_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class IntegerBias:
    """The bias of one convolution.

    Attributes:
        codes: (out,) int32.
        scale: (out,) float32, the input's scale times the weight's.
    """

    codes: Tensor
    scale: Tensor

    @property
    def values(self) -> Tensor:
        """The floats that the codes stand for, (out,) float32."""
        return self.codes.float() * self.scale


def integer_biases(plan: Plan, encoder: ImageEncoder) -> dict[str, IntegerBias]:
    """Return the biases that a plan's placement keeps as int32, by the path of their convolution.

    A bias is one where input and weight of its convolution are integers of at most 8 bits, of one scale a tensor and a
    scale a channel or tensor, as `QLinearConv` has them; it saturates.

    Args:
        plan: Calibrated.
        encoder: As the placement prepared it.
    """
    if not get_placement(plan.placement).integer_bias:
        return {}
    weights = {s.path: s for s in plan.sites if s.role == "weight" and _fits_8_bits(s)}
    inputs = {s.path.removesuffix(".input_site"): s for s in plan.sites if s.path.endswith(".input_site")}
    found = {}
    for path, weight in weights.items():
        bias = encoder.get_submodule(path).get_parameter("bias") if _has_bias(encoder, path) else None
        x = inputs.get(path)
        if bias is None or x is None or not _fits_8_bits(x) or x.grid.axis is not None:
            continue
        scale = (x.grid.scale.to(bias.device) * weight.grid.scale.to(bias.device)).expand(len(bias)).contiguous()
        codes = torch.round(bias.detach().double() / scale.double()).clamp(-_LARGEST, _LARGEST)
        found[path] = IntegerBias(codes.to(torch.int32), scale)
    return found


def _has_bias(encoder: ImageEncoder, path: str) -> bool:
    return encoder.get_submodule(path)._parameters.get("bias") is not None


def _fits_8_bits(site: PlanSite) -> bool:
    return site.spec.quantizer == "uniform" and site.spec.fmt.kind == "int" and site.spec.fmt.num_bits <= 8
