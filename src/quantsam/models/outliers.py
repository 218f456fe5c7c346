"""Give outlier channels to a model that has none: nearly the same function in float, but much harder to quantize.

The large official models collapse in INT8 because a few channels of their residual streams are hundreds of times as
large as the others. Any model can get such channels: a stream's writers multiply a channel by a scale, and its readers
divide it by that scale. The scale is a power of two, so all numbers outside this channel stay the same to the last bit.
"""

from __future__ import annotations

import copy
import math

import torch

from quantsam.errors import InputError
from quantsam.models.references import Chain
from quantsam.models.sam import EfficientViTSam
from quantsam.models.structure import structure_of


def with_outlier_channels(
    model: EfficientViTSam, *, factor: int = 64, channels: int = 2, seed: int = 0
) -> EfficientViTSam:
    """Return a copy of a model with a few channels of its residual streams scaled up, and down where they are read.

    Each block that writes to a stream gets a larger gain and offset in its last BatchNorm. Each convolution that reads
    the stream (next blocks, next stage, neck) gets smaller weights. The streams are those of stages 1 to the last and
    of the neck. A random generator chooses the channels.

    Args:
        model: A float model; it is not changed.
        factor: A power of two, at least 2.
        channels: Number of channels per stream.
        seed: Seed of the generator that chooses the channels.

    Raises:
        InputError: `factor` is not a power of two, or a stream has too few channels.
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

    A channel of the expanding convolution and the bias of the depthwise convolution are scaled up. The weight of the
    projecting convolution is scaled down. GELUs lie between them and are nearly linear for large values, so these
    channels behave like those of a ReLU: in float the model's predictions change a little. No scale of a stream helps
    here; only scales within a bottleneck do.

    Args:
        model: A float model; it is not changed.
        factor: A power of two, at least 2.
        channels: Number of channels per bottleneck.
        seed: Seed of the generator that chooses the channels.

    Raises:
        InputError: `factor` is not a power of two, or a bottleneck has too few channels.
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
