"""Outlier channels for a model that has none: the same function in float, a much harder one to quantize.

What makes the large official models collapse in INT8 is that a few channels of their residual streams are
hundreds of times as large as the others. A scale that a stream's writers put on a channel and its readers take off
again gives any model such channels, and as the scale is a power of two, every number but those of the channel
itself stays the same to the last bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import nn

from quantsam.errors import InputError
from quantsam.models.blocks import (
    ConvLayer,
    EfficientViTBlock,
    FusedMBConv,
    LinearAttention,
    MBConv,
    ResBlock,
    Residual,
)
from quantsam.models.encoder import ImageEncoder
from quantsam.models.sam import EfficientViTSam

Stream = tuple[list[nn.BatchNorm2d], list[nn.Conv2d]]


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
    if factor < 2 or not math.log2(factor).is_integer():
        raise InputError(f"factor must be a power of two from 2 on, got {factor}: others change the model's function")
    least = min(*model.variant.widths[1:], model.variant.neck_width)
    if not 1 <= channels <= least:
        raise InputError(f"channels must be from 1 to {least}, the narrowest stream of {model.name}, got {channels}")
    hard = copy.deepcopy(model)
    encoder = hard.float_encoder
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for writers, readers in residual_streams(encoder):
            chosen = torch.randperm(writers[0].num_features, generator=generator)[:channels]
            for norm in writers:
                norm.weight[chosen] *= factor
                norm.bias[chosen] *= factor
            for convolution in readers:
                convolution.weight[:, chosen] /= factor
    return hard


def residual_streams(encoder: ImageEncoder) -> Iterator[Stream]:
    """Yield, of stages 1 to the last and of the neck, the norms that write to the residual stream and who reads it."""
    stages = [_ops(stage) for stage in encoder.backbone.stages]
    neck_inputs = {
        stage: _layer(_ops(ops)[0]) for stage, ops in zip(encoder.neck.stages, encoder.neck.input_ops, strict=True)
    }
    for index, ops in enumerate(stages[1:], start=1):
        writers, readers = _ends(ops)
        readers = readers[1:]  # the first block reads the stage before
        if index + 1 < len(stages):
            readers.append(_ends(stages[index + 1][:1])[1][0])
        if index in neck_inputs:
            readers.append(neck_inputs[index].conv)
        yield writers, readers
    writers, readers = _ends(_ops(encoder.neck.middle))
    inputs = [_norm(layer) for layer in neck_inputs.values()]
    yield inputs + writers, [*readers, _layer(_ops(encoder.neck.output_ops[0])[0]).conv]


def _ends(ops: list[nn.Module]) -> Stream:
    """Return the last norms and the first convolutions of blocks, in order."""
    writers: list[nn.BatchNorm2d] = []
    readers: list[nn.Conv2d] = []
    for op in ops:
        parts = [op.context_module, op.local_module] if isinstance(op, EfficientViTBlock) else [op]
        for part in parts:
            main = part.main if isinstance(part, Residual) else part
            first, last = _first_and_last(main)
            writers.append(_norm(last))
            readers.append(first.conv)
    return writers, readers


def _first_and_last(main: nn.Module) -> tuple[ConvLayer, ConvLayer]:
    if isinstance(main, ResBlock):
        return main.conv1, main.conv2
    if isinstance(main, FusedMBConv):
        return main.spatial_conv, main.point_conv
    if isinstance(main, MBConv):
        return main.inverted_conv, main.point_conv
    assert isinstance(main, LinearAttention)
    return main.qkv, main.proj


def _ops(chain: nn.Module) -> list[nn.Module]:
    return list(chain.get_submodule("op_list").children())


def _layer(module: nn.Module) -> ConvLayer:
    assert isinstance(module, ConvLayer)
    return module


def _norm(layer: ConvLayer) -> nn.BatchNorm2d:
    assert isinstance(layer.norm, nn.BatchNorm2d)
    return layer.norm
