"""The image encoder: backbone, neck and a final normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import (
    ConvLayer,
    EfficientViTBlock,
    FusedMBConv,
    LayerNorm2d,
    MBConv,
    ResBlock,
    Residual,
)
from quantsam.models.variants import BlockKind, Variant


class Encoder(Protocol):
    """Whatever computes an image embedding: PyTorch in float, a simulation, an engine."""

    def __call__(self, image: Tensor, /) -> Tensor:
        """Map a normalized (N, 3, S, S) image to a (N, embed_dim, embed_size, embed_size) embedding."""
        ...


class _OpList(nn.Module):
    """A chain whose entries live under `op_list`, as the official checkpoints name them."""

    def __init__(self, *ops: nn.Module) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(ops)

    def forward(self, x: Tensor) -> Tensor:
        for op in self.op_list:
            x = op(x)
        return x


def _local_block(kind: BlockKind, width_in: int, width: int, expand: int, stride: int) -> nn.Module:
    if kind == "res":
        return ResBlock(width)
    return (FusedMBConv if kind == "fmb" else MBConv)(width_in, width, expand, stride)


def _stage(variant: Variant, index: int) -> _OpList:
    width, kind, expand = variant.widths[index], variant.blocks[index], variant.expands[index]
    if index == 0:
        first: nn.Module = ConvLayer(3, width, 3, stride=2, act=True)
    else:
        down = _local_block(kind, variant.widths[index - 1], width, 4 * expand, stride=2)
        first = Residual(down, shortcut=False)
    blocks: list[nn.Module] = []
    for _ in range(variant.depths[index]):
        if kind in ("att3", "att5"):
            blocks.append(EfficientViTBlock(width, variant.attention_dim, int(kind[-1]), expand))
        else:
            blocks.append(Residual(_local_block(kind, width, width, expand, stride=1)))
    return _OpList(first, *blocks)


class Backbone(nn.Module):
    """EfficientViT-L: a stem, then stages that halve the resolution."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_stage(variant, index) for index in range(len(variant.widths)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, 3, S, S) to the output of every stage, (N, widths[i], S / 2^(i+1), S / 2^(i+1))."""
        features: list[Tensor] = []
        x = image
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class UpSample(nn.Module):
    """Bicubic up-sampling to a fixed side; does nothing if the input already has that side."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, size, size)."""
        if x.shape[-2:] == (self.size, self.size):
            return x
        return F.interpolate(x, size=(self.size, self.size), mode="bicubic", align_corners=False)


class Neck(nn.Module):
    """Sums the last stages at the embedding's resolution and refines the sum with fused blocks."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.stages = variant.neck_stages
        width = variant.neck_width
        self.input_ops = nn.ModuleList(
            _OpList(ConvLayer(variant.widths[stage], width, 1), UpSample(variant.embed_size)) for stage in self.stages
        )
        self.middle = _OpList(
            *(Residual(FusedMBConv(width, width, variant.neck_expand)) for _ in range(variant.neck_depth))
        )
        self.output_ops = nn.ModuleList([_OpList(ConvLayer(width, variant.embed_dim, 1, norm=False))])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map the stages' outputs to (N, embed_dim, embed_size, embed_size)."""
        y: Tensor = self.output_ops[0](self.middle(self.gather(features)))
        return y

    def gather(self, features: Sequence[Tensor] | Mapping[int, Tensor]) -> Tensor:
        """Resample the outputs of `stages` to the embedding's resolution and add them up."""
        inputs = [op(features[stage]) for op, stage in zip(self.input_ops, self.stages, strict=True)]
        x: Tensor = inputs[-1]
        for other in reversed(inputs[:-1]):
            x = other + x
        return x


class ImageEncoder(nn.Module):
    """Backbone, neck and LayerNorm: map a normalized image to its embedding."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.backbone = Backbone(variant)
        self.neck = Neck(variant)
        self.norm = LayerNorm2d(variant.embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, input_size, input_size) to (N, embed_dim, embed_size, embed_size)."""
        y: Tensor = self.norm(self.neck(self.backbone(image)))
        return y
