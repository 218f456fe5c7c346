"""Outlier channels for a model that has none: nearly the same function in float, a much harder one to quantize.

What makes the large official models collapse in INT8 is that a few channels of their residual streams are
hundreds of times as large as the others. A scale that a stream's writers put on a channel and its readers take off
again gives any model such channels, and as the scale is a power of two, every number but those of the channel
itself stays the same to the last bit.
"""

from __future__ import annotations

import copy
import math

import torch

from quantsam.errors import InputError
from quantsam.models.sam import EfficientViTSam
from quantsam.models.structure import Chain, structure_of


def with_outlier_channels(
    model: EfficientViTSam, *, factor: int = 64, channels: int = 2, seed: int = 0
) -> EfficientViTSam:
    """Return a copy of a model in whose residual streams a few channels are scaled up, and down where they are read.

    What is scaled up is the gain and offset of the last BatchNorm of each block that writes to a stream; what is scaled
    down is the weight of each convolution that reads it: the next blocks, the next stage, the neck. The streams are
    those of stages 1 to the last and of the neck; which channels, a generator decides.

    Args:
        model: In float; left as it is.
        factor: A power of two, at least 2.
        channels: How many of each stream.
        seed: Which ones.

    Raises:
        InputError: `factor` is no power of two, or a stream has not so many channels.
    """
    _check_factor(factor)
    least = min(*model.variant.widths[1:], model.variant.neck_width)
    if not 1 <= channels <= least:
        raise InputError(f"channels must be from 1 to {least}, the narrowest stream of {model.name}, got {channels}")
    hard = copy.deepcopy(model)
    encoder = hard.float_encoder
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for stream in structure_of(encoder).streams:
            width = encoder.get_submodule(stream.readers[0].conv).get_parameter("weight").shape[1]
            chosen = torch.randperm(width, generator=generator)[:channels]
            for writer in stream.writers:
                assert writer.norm is not None
                encoder.get_submodule(writer.norm).get_parameter("weight")[chosen] *= factor
                encoder.get_submodule(writer.norm).get_parameter("bias")[chosen] *= factor
            for reader in stream.readers:
                encoder.get_submodule(reader.conv).get_parameter("weight")[:, chosen] /= factor
    return hard


def with_hidden_outlier_channels(
    model: EfficientViTSam, *, factor: int = 512, channels: int = 2, seed: int = 3
) -> EfficientViTSam:
    """Return a copy of a model in which a few hidden channels of each inverted bottleneck are scaled up.

    What is scaled up is a channel of the expanding convolution and the bias of the depthwise one; what is scaled down
    is the weight of the projecting one. GELUs lie between, and that of a large value is nearly linear: the channels
    become those of a ReLU, so in float the model's answers change a little. Here no scale of a stream helps; only
    scales within a bottleneck do.

    Args:
        model: In float; left as it is.
        factor: A power of two, at least 2.
        channels: How many of each bottleneck.
        seed: Which ones.

    Raises:
        InputError: `factor` is no power of two, or a bottleneck has not so many channels.
    """
    _check_factor(factor)
    hard = copy.deepcopy(model)
    encoder = hard.float_encoder
    generator = torch.Generator().manual_seed(seed)
    kinds = ["mbc_expand", "mbc_depthwise", "mbc_project"]
    chains = [p for block in structure_of(encoder).blocks for p in block.parts if isinstance(p, Chain)]
    with torch.no_grad():
        for chain in (c for c in chains if [conv.kind for conv in c.convolutions] == kinds):
            expand, depthwise, project = (encoder.get_submodule(conv.conv) for conv in chain.convolutions)
            width = len(expand.get_parameter("bias"))
            if not 1 <= channels <= width:
                raise InputError(f"channels must be from 1 to {width}, the width of {chain.path}, got {channels}")
            chosen = torch.randperm(width, generator=generator)[:channels]
            for parameter in (expand.get_parameter("weight"), *(c.get_parameter("bias") for c in (expand, depthwise))):
                parameter[chosen] *= factor
            project.get_parameter("weight")[:, chosen] /= factor
    return hard


def _check_factor(factor: int) -> None:
    if factor < 2 or not math.log2(factor).is_integer():
        raise InputError(f"factor must be a power of two from 2 on, got {factor}: others change the model's function")
