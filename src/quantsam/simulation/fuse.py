"""Make a simulation fast: one table look-up replaces everything between two convolutions.

A convolution output that is rounded to 8 bits has only 256 values per channel. BatchNorm, activation
and every further rounding, including that of the next convolution's input, are functions of that
code. The modules themselves evaluate them once on the 256 values. The simulation then reads the
results from the table. It computes the same as the unfused modules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantsam.models.blocks import Conv2d, ConvLayer, Site
from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Chain
from quantsam.models.structure import structure_of
from quantsam.quant import kernels
from quantsam.quant.params import QParams
from quantsam.simulation.sites import FakeQuantize

_MOST_LEVELS = 256


class LookUp(nn.Module):
    """Rounds values to codes and replaces each code by an entry of its channel's table."""

    def __init__(self, scale: float, zero_point: int, qmin: int, table: Tensor) -> None:
        super().__init__()
        self.scale, self.zero_point, self.qmin = scale, zero_point, qmin
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape; may overwrite `x`, a convolution's fresh output."""
        table = self.get_buffer("table")
        if kernels.supports(x):
            return kernels.lookup_(x, table, self.scale, self.zero_point, self.qmin)
        step = x.new_full((), self.scale)  # a tensor: CUDA multiplies by the reciprocal of a plain number
        codes = torch.round(x / step) + (self.zero_point - self.qmin)
        codes = codes.clamp(0, table.shape[1] - 1).nan_to_num(0).long().transpose(0, 1)  # (C, N, H, W)
        found = table.gather(1, codes.flatten(1)).reshape(codes.shape).transpose(0, 1)
        return torch.where(x.isnan(), x, found)


def fuse(encoder: ImageEncoder) -> None:
    """Replace, in place, the modules behind each 8-bit convolution output by a look-up."""
    for block in structure_of(encoder).blocks:
        for part in block.parts:
            layers = [encoder.get_submodule(conv.path) for conv in part.convolutions]
            following = [*layers[1:], None] if isinstance(part, Chain) else [None] * len(layers)
            for layer, reader in zip(layers, following, strict=True):
                if isinstance(layer, ConvLayer):
                    _fuse_layer(layer, reader)


def _fuse_layer(layer: ConvLayer, following: nn.Module | None) -> None:
    site = layer.conv.conv_site
    if not isinstance(site, FakeQuantize) or not site.has_levels(_MOST_LEVELS):
        return
    names = [n for n in ("norm", "norm_site", "act", "act_site") if getattr(layer, n, None) is not None]
    steps: list[nn.Module | None] = [layer.conv.output_scale, *(layer.get_submodule(name) for name in names)]
    reader = None if following is None else following.get_submodule("conv")
    if isinstance(reader, Conv2d):
        steps += [reader.input_scale, reader.input_site]
    done = [step for step in steps if step is not None]
    if not any(not isinstance(step, Site) for step in done):
        return
    params = site.params
    table = _table(done, params, site, layer.conv.out_channels)
    layer.conv.output_scale = None
    layer.conv.conv_site = LookUp(float(params.scale), int(params.zero_point), int(site.spec.fmt.qmin), table)
    for name in names:
        layer.register_module(name, Site())
    if isinstance(reader, Conv2d):
        reader.input_scale = None
        reader.register_module("input_site", Site())


@torch.no_grad()
def _table(steps: list[nn.Module], params: QParams, site: FakeQuantize, channels: int) -> Tensor:
    """Run the steps on every value that a channel can take, (channels, levels) float32."""
    fmt = site.spec.fmt
    codes = torch.arange(int(fmt.qmin), int(fmt.qmax) + 1, device=params.scale.device)
    x = ((codes - params.zero_point).float() * params.scale).expand(1, channels, 1, -1).contiguous()
    for step in steps:
        x = step(x)
    return x.reshape(channels, -1).contiguous()
