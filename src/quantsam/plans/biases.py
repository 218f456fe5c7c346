"""Integer biases: an engine that adds the bias in the accumulator stores it in the accumulator's scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantsam.models.encoder import ImageEncoder
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.plans.transforms import CorrectBiases

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
        """The float values of the codes, (out,) float32."""
        return self.codes.float() * self.scale


def corrected_biases(plan: Plan, encoder: ImageEncoder) -> dict[str, Tensor]:
    """Return the biases that a repair corrects, (out,) float32, keyed by the convolution's path.

    These are the biases of convolutions whose weight and input the plan quantizes. Others keep the float model's bias.

    Args:
        plan: The plan, calibrated or not.
        encoder: The encoder that `prepare` returned.
    """
    shifts = {p: s for t in plan.transforms if isinstance(t, CorrectBiases) for p, s in t.values.items()}
    found = {}
    for weight, _ in plan.quantized_convolutions() if shifts else ():
        if weight.path in shifts:
            bias = encoder.get_submodule(weight.path)._parameters.get("bias")
            shift = shifts[weight.path].to(encoder.get_submodule(weight.path).get_parameter("weight").device)
            found[weight.path] = shift if bias is None else bias.detach() + shift
    return found


def integer_biases(plan: Plan, encoder: ImageEncoder) -> dict[str, IntegerBias]:
    """Return the biases that a plan's placement keeps as int32, keyed by the convolution's path.

    A bias is an integer if the convolution's input and weight are integers of at most 8 bits. The input must have one
    scale per tensor; the weight may have a scale per channel or per tensor, as in `QLinearConv`. The bias saturates.

    Args:
        plan: The calibrated plan.
        encoder: The encoder that `prepare` returned.
    """
    if not get_placement(plan.placement).integer_bias:
        return {}
    found, corrected = {}, corrected_biases(plan, encoder)
    for weight, x in plan.quantized_convolutions():
        bias = corrected.get(weight.path, encoder.get_submodule(weight.path)._parameters.get("bias"))
        if bias is None or not (weight.spec.fits_8_bits and x.spec.fits_8_bits) or x.grid.axis is not None:
            continue
        scale = (x.grid.scale.to(bias.device) * weight.grid.scale.to(bias.device)).expand(len(bias)).contiguous()
        codes = torch.round(bias.detach().double() / scale.double()).clamp(-_LARGEST, _LARGEST)
        found[weight.path] = IntegerBias(codes.to(torch.int32), scale)
    return found
