"""The mathematics of scaling channels: powers of two that make a tensor easier to quantize. Pure tensor functions."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-30
_LOWEST, _HIGHEST = -8, 14
"""Limits of an exponent: a nearly dead channel must not make biases saturate, and float16 must hold the factors."""


def balanced(activation: Tensor, weight: Tensor, strength: float) -> Tensor:
    """Return exponents: dividing channels by these powers of two balances activations against weights.

    The factor of a channel is `activation^strength / weight^(1 - strength)` (SmoothQuant, Xiao et al., 2023, equation
    4), rounded to a power of two. All factors are shifted so that the median channel keeps its size. A channel that is
    always zero also keeps its size.

    Args:
        activation: (C,) largest magnitudes of the channels.
        weight: (C,) largest magnitudes of the weights that read the channels.
        strength: 1 makes all activations equally large, 0 all weights.

    Returns:
        (C,) int32.

    >>> balanced(torch.tensor([1.0, 64.0, 1.0]), torch.ones(3), 1.0)
    tensor([0, 6, 0], dtype=torch.int32)
    """
    alive = (activation > _TINY) & (weight > _TINY)
    logs = strength * activation.clamp(min=_TINY).log2() - (1 - strength) * weight.clamp(min=_TINY).log2()
    if not bool(alive.any()):
        return torch.zeros_like(activation, dtype=torch.int32)
    middle = logs[alive].median()
    return (
        torch.where(alive, torch.round(logs - middle), torch.zeros_like(logs)).clamp(_LOWEST, _HIGHEST).to(torch.int32)
    )


def levelled(low: Tensor, high: Tensor) -> Tensor:
    """Return exponents that bring the ranges of all channels as close to the widest range as powers of two allow.

    No channel exceeds the widest one: the scale of a symmetric grid does not change, and the other channels use more of
    the grid. A channel's weights and bias grow equally, so for nearly dead channels float16 is the only limit.

    Args:
        low: (C,) smallest values.
        high: (C,) largest values.

    Returns:
        (C,) int32, none above 0.

    >>> levelled(torch.tensor([0.0, -1.0]), torch.tensor([8.0, 3.0]))
    tensor([ 0, -1], dtype=torch.int32)
    """
    reach = torch.maximum(low.abs(), high.abs())
    widest = reach.max()
    if not bool(widest > _TINY):
        return torch.zeros_like(reach, dtype=torch.int32)
    exponents = torch.ceil(torch.log2(reach.clamp(min=_TINY) / widest))
    return torch.where(reach > _TINY, exponents, torch.zeros_like(exponents)).clamp(-_HIGHEST, 0).to(torch.int32)
