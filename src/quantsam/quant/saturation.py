"""Pairs of weights whose products overflow 16 bits on x86 processors without VNNI, and scales at which none does.

Without VNNI, the 8-bit kernels of oneDNN (OpenVINO) and MLAS (ONNX Runtime) multiply uint8 activations with int8
weights by `vpmaddubsw`. It adds two neighbouring products in a signed 16-bit number that saturates. An activation code
is at most 255, so a pair of weight codes is safe if the positive ones, and likewise the negative ones, add up to at
most 128 in magnitude: 128 * 255 = 32,640 < 2^15.

Neighbours are two input channels, 2 j and 2 j + 1, at one position of the kernel. The engines differ where the number
of channels is odd, as in a model's first convolution: see `PairOrder`. A depthwise convolution adds each product in 32
bits.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsam.quant.formats import Format

PairOrder = Literal["padded", "running"]
"""How a kernel forms pairs: `padded` (oneDNN) pads an odd number of channels at each position of the kernel; `running`
(MLAS) lets the last channel of a position meet the first one of the next position."""

LARGEST_PAIR = 128
"""Largest magnitude that two weight codes of one sign may add up to."""

_STEP = 1.001  # by which a scale grows until rounding leaves no pair too large


def in_pairs(x: Tensor, order: PairOrder) -> Tensor:
    """Return what a kernel without VNNI adds in pairs.

    Args:
        x: (..., kernel, kernel, channels): codes in the order in which the kernels add, channels last.
        order: Of the kernel.

    Returns:
        (..., pairs, 2), of the same dtype; an odd one out is paired with 0.

    >>> in_pairs(torch.arange(1, 7).reshape(1, 2, 3), "padded").tolist()
    [[1, 2], [3, 0], [4, 5], [6, 0]]
    >>> in_pairs(torch.arange(1, 7).reshape(1, 2, 3), "running").tolist()
    [[1, 2], [3, 4], [5, 6]]
    """
    flat = F.pad(x, (0, x.shape[-1] % 2)).flatten(-3) if order == "padded" else x.flatten(-3)
    even = F.pad(flat, (0, flat.shape[-1] % 2))
    return even.reshape(*even.shape[:-1], -1, 2)


def has_depthwise_shape(codes: Tensor) -> bool:
    """Whether a weight (out, in / groups, kernel, kernel) has one input channel a group."""
    return codes.shape[1] == 1


def one_signed_sums(pairs: Tensor) -> Tensor:
    """Return the magnitude that the positive or the negative ones of each pair add up to, the larger: (..., pairs)."""
    return torch.maximum(pairs.clamp(min=0).sum(-1), (-pairs).clamp(min=0).sum(-1))


def largest_pairs(codes: Tensor) -> Tensor:
    """Return the largest magnitude that one-signed weights of a pair add up to, in either order.

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
    """Return which output channels own a pair that can overflow 16 bits, (out,) bool."""
    return largest_pairs(codes) > LARGEST_PAIR


def saturation_free_scale(weight: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Return the smallest scales, none below the given ones, at which no pair of symmetric codes can overflow.

    Only the channels that own a too large pair get a larger scale, and only as much larger as their largest pair needs.
    Where the given scales do not clip, that is less than twice as large, against twice for weights of 7 bits.

    Args:
        weight: (out, in / groups, kernel, kernel) float32.
        scale: (out,), or () for one scale for the whole weight.
        fmt: Of the codes, signed; their zero point is 0.

    >>> from quantsam.quant.formats import get_format
    >>> weight = torch.tensor([100.0, 56.0, 127.0, -127.0]).reshape(1, 4, 1, 1)
    >>> round(saturation_free_scale(weight, torch.ones(1), get_format("int8")).item(), 3)  # 100 + 56 must become 128
    1.213
    """
    # codes that are rounded add up to at most one more than the floats they stand for
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
