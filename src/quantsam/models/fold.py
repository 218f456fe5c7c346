"""Fold every BatchNorm into the convolution before it, as all inference engines do."""

from __future__ import annotations

import torch
from torch import nn

from quantsam.models.blocks import ConvLayer
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder


@torch.no_grad()
def fold_norms(encoder: ImageEncoder) -> ImageEncoder:
    """Return an encoder in eval mode that computes the same without BatchNorm; `encoder` is unchanged.

    Products are computed in float64 and rounded to float32 once.
    """
    folded = copy_encoder(encoder).eval()
    for layer in folded.modules():
        if isinstance(layer, ConvLayer) and isinstance(layer.norm, nn.BatchNorm2d):
            weight, bias = _folded(layer.conv, layer.norm)
            layer.conv.weight = nn.Parameter(weight, requires_grad=False)
            layer.conv.bias = nn.Parameter(bias, requires_grad=False)
            layer.norm = None
            del layer.norm_site
    return folded


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    weight = conv.weight.double() * gain.reshape(-1, 1, 1, 1)
    return weight.float(), (norm.bias.double() + shift * gain).float()
