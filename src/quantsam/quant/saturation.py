"""Find pairs of weights whose products overflow 16 bits on x86 processors without VNNI, and scales that avoid it.

Without VNNI, the 8-bit kernels of oneDNN (OpenVINO) and MLAS (ONNX Runtime) multiply uint8 activations with int8
weights by `vpmaddubsw`. This instruction adds two neighbouring products in a signed 16-bit number that saturates. An
activation code is at most 255. A pair of weight codes is safe if its positive codes, and likewise its negative codes,
add up to at most 128 in magnitude: 128 * 255 = 32,640 < 2^15.

Neighbours are two input channels, 2 j and 2 j + 1, at one position of the kernel. Engines differ if the number of
channels is odd, as in a model's first convolution: see `PairOrder`. A depthwise convolution adds each product in 32
bits.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsam.quant.formats import Format

PairOrder = Literal["padded", "running"]
"""How a kernel forms pairs. `padded` (oneDNN) pads an odd number of channels at each position of the kernel. `running`
(MLAS) pairs the last channel of a position with the first channel of the next position."""

LARGEST_PAIR = 128
"""Largest magnitude that two weight codes of one sign may add up to."""

_STEP = 1.001  # factor by which a scale grows until rounding leaves no pair too large


def in_pairs(x: Tensor, order: PairOrder) -> Tensor:
    """Arrange codes in the pairs that a kernel without VNNI adds.

    Args:
        x: (..., kernel, kernel, channels): codes in the order in which the kernels add, channels last.
        order: How the kernel forms pairs.

    Returns:
        (..., pairs, 2), of the same dtype; a code without a neighbour is paired with 0.

    >>> in_pairs(torch.arange(1, 7).reshape(1, 2, 3), "padded").tolist()
    [[1, 2], [3, 0], [4, 5], [6, 0]]
    >>> in_pairs(torch.arange(1, 7).reshape(1, 2, 3), "running").tolist()
    [[1, 2], [3, 4], [5, 6]]
    """
    flat = F.pad(x, (0, x.shape[-1] % 2)).flatten(-3) if order == "padded" else x.flatten(-3)
    even = F.pad(flat, (0, flat.shape[-1] % 2))
    return even.reshape(*even.shape[:-1], -1, 2)


def has_depthwise_shape(codes: Tensor) -> bool:
    """Return whether a weight (out, in / groups, kernel, kernel) has one input channel per group."""
    return codes.shape[1] == 1


def one_signed_sums(pairs: Tensor) -> Tensor:
    """Return the larger magnitude of each pair's positive sum and negative sum: (..., pairs)."""
    return torch.maximum(pairs.clamp(min=0).sum(-1), (-pairs).clamp(min=0).sum(-1))


def largest_pairs(codes: Tensor) -> Tensor:
    """Return the largest magnitude to which weights of one sign in a pair add up, over both orders.

    Args:
        codes: (out, in / groups, kernel, kernel) weights.

    Returns:
        (out,), of the same dtype; 0 for a depthwise convolution.
    """
    if has_depthwise_shape(codes):
        return codes.new_zeros(len(codes))
    last = codes.permute(0, 2, 3, 1)
    largest = one_signed_sums(in_pairs(last, "padded")).amax(1)
    if codes.shape[1] % 2 == 0:
        return largest  # the orders are the same
    return torch.maximum(largest, one_signed_sums(in_pairs(last, "running")).amax(1))


def saturating_channels(codes: Tensor) -> Tensor:
    """Return which output channels have a pair that can overflow 16 bits, (out,) bool."""
    return largest_pairs(codes) > LARGEST_PAIR


def saturation_free_scale(weight: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Return the smallest scales at which no pair of symmetric codes can overflow; none is below the given scale.

    Only channels with too large a pair get a larger scale, and only as large as their largest pair needs. If the given
    scales do not clip, they grow by less than a factor of 2. 7-bit weights would double them.

    Args:
        weight: (out, in / groups, kernel, kernel) float32.
        scale: (out,), or () for one scale for the whole weight.
        fmt: Format of the codes, signed; their zero point is 0.

    >>> from quantsam.quant.formats import get_format
    >>> weight = torch.tensor([100.0, 56.0, 127.0, -127.0]).reshape(1, 4, 1, 1)
    >>> round(saturation_free_scale(weight, torch.ones(1), get_format("int8")).item(), 3)  # 100 + 56 must become 128
    1.213
    """
    # the sum of a pair of rounded codes exceeds the sum before rounding by at most 1
    least = largest_pairs(weight) / (LARGEST_PAIR + 1)
    least = least if scale.ndim else least.max()
    found = scale.clone()
    unsafe = torch.arange(len(weight), device=weight.device)  # a channel that is safe stays so at a larger scale
    while True:
        scales = found[unsafe].reshape(-1, 1, 1, 1) if scale.ndim else found
        saturating = saturating_channels(torch.round(weight[unsafe] / scales).clamp(fmt.qmin, fmt.qmax))
        unsafe = unsafe[saturating]
        if not len(unsafe):
            return found
        if scale.ndim:
            found[unsafe] = torch.maximum(least[unsafe], found[unsafe] * _STEP)
        else:
            found = torch.maximum(least, found * _STEP)
