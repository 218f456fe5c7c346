"""Convolutions in exact integers: codes in, an int32 accumulator, and the engine's own requantization.

Integers up to 2^24 are exact in float32. Products of 8-bit activation codes and 8-bit weight codes, summed over a
kernel, may be larger. So activations are split into two halves of four bits. Their sums stay below 2^24 for up to 8,192
summands, and float64 adds the two sums. With more summands, everything is computed in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.plans.biases import integer_biases
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import weight_codes
from quantsam.plans.processors import weights_in_pairs
from quantsam.quant.params import QParams
from quantsam.simulation.pairs import PairSaturation
from quantsam.simulation.sites import FakeQuantize

_EXACT = 2**24
_LARGEST = 255 * 128
_HALF = 16


class Requantize(nn.Module):
    """Maps an accumulator to rounded values, as ONNX Runtime's `QLinearConv` does."""

    def __init__(self, site: FakeQuantize, scale: Tensor) -> None:
        """Take the output's site and the accumulator's scale, () or (C,)."""
        super().__init__()
        self.site = site
        self.register_buffer("multiplier", scale / site.params.scale, persistent=False)

    def forward(self, acc: Tensor) -> Tensor:
        """Map an accumulator (N, C, H, W), integers in float32, to values on the site's grid."""
        out, fmt = self.site.params, self.site.spec.fmt
        codes = torch.round(acc * _by_channel(self.get_buffer("multiplier"))) + out.zero_point
        return (codes.clamp(fmt.qmin, fmt.qmax) - out.zero_point) * out.scale


class IntegerConv2d(nn.Module):
    """A quantized convolution as an integer engine computes it.

    First `acc = sum (x - zero_point) * w + bias`, exactly. If the output is quantized, then ONNX Runtime's
    `clamp(rint(float32(acc) * float32(s_x * s_w / s_y)) + zero_point)`, ties to even. Otherwise OpenVINO's
    `float32(acc) * float32(s_x * s_w) + bias`.
    """

    def __init__(
        self,
        conv: Conv2d,
        codes: Tensor,
        x: QParams,
        w: QParams,
        bias: Tensor | None,
        saturation: PairSaturation | None = None,
    ) -> None:
        """Take a convolution.

        Args:
            conv: The convolution, for its geometry, sites and float bias.
            codes: (out, in / groups, kernel, kernel) codes of the weight, less its zero point.
            x: Grid of the input, one scale per tensor or per channel.
            w: Grid of the weight.
            bias: (out,) int32 codes of scale `s_x * s_w`, which replace the float bias.
            saturation: Loss from the kernel's 16-bit sums; None for sums in 32 bits.
        """
        super().__init__()
        self.saturation = saturation
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.input_site, self.conv_site = conv.input_site, conv.conv_site
        self.input_scale, self.output_scale = conv.input_scale, conv.output_scale
        float_bias = conv.bias if bias is None else None
        scale = x.scale * w.scale
        self.requantizes = isinstance(conv.conv_site, FakeQuantize) and float_bias is None
        if isinstance(conv.conv_site, FakeQuantize) and self.requantizes:
            self.conv_site = Requantize(conv.conv_site, scale)
        tensors = {
            "codes": codes.float(),
            "x_scale": x.scale,
            "scale": scale,
            "integer_bias": None if bias is None else bias.double(),
            "float_bias": None if float_bias is None else float_bias.detach(),
        }
        for name, value in tensors.items():
            self.register_buffer(name, value, persistent=False)

    def input_codes(self, x: Tensor) -> Tensor:
        """Map rounded values (N, in, H, W) to their codes less the zero point, as integers in float32."""
        return torch.round(x / _by_channel(self.get_buffer("x_scale")))

    def accumulate(self, x: Tensor) -> Tensor:
        """Map rounded values (N, in, H, W) to the accumulator (N, out, H', W'), integers in float64."""
        weight, bias = self.get_buffer("codes"), self._buffers["integer_bias"]
        codes = self.input_codes(x)
        if _LARGEST * weight[0].numel() <= _EXACT:
            acc = self._convolve(codes).double()
        elif _HALF * _LARGEST // 255 * weight[0].numel() > _EXACT:
            acc = F.conv2d(codes.double(), weight.double(), None, self.stride, self.padding, 1, self.groups)
        else:
            high = torch.floor(codes / _HALF)
            acc = self._convolve(high).double() * _HALF + self._convolve(codes - _HALF * high).double()
        acc = acc if self.saturation is None else acc - self.saturation(codes)
        return acc if bias is None else acc + _by_channel(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H', W'), rounded if the plan rounds the output."""
        if self.input_scale is not None:
            x = self.input_scale(x)
        y = self.accumulate(self.input_site(x)).float()
        if not self.requantizes:
            bias = self._buffers["float_bias"]
            y = y * _by_channel(self.get_buffer("scale"))
            y = y if bias is None else y + _by_channel(bias)
        rounded: Tensor = self.conv_site(y)
        return rounded if self.output_scale is None else self.output_scale(rounded)

    def _convolve(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.get_buffer("codes"), None, self.stride, self.padding, 1, self.groups)


def use_integers(encoder: ImageEncoder, plan: Plan, prepared: ImageEncoder, *, saturate: bool = False) -> None:
    """Replace, in place, the convolutions of a simulation whose weight and input are 8-bit integers.

    Args:
        encoder: The simulation, not fused.
        plan: Its plan.
        prepared: The float encoder that the plan was made on.
        saturate: Add pairs of products in 16 bits, as the engine's x86 kernels without VNNI do.
    """
    biases = integer_biases(plan, prepared)
    order = get_placement(plan.placement).pairs if saturate else None
    sites = ((site.kind, site, site.spec) for site in plan.sites)
    in_pairs = set() if order is None else weights_in_pairs(sites, order)
    for site, x in plan.quantized_convolutions():
        if not (site.spec.fits_8_bits and x.spec.fits_8_bits):
            continue
        conv = encoder.get_submodule(site.path)
        assert isinstance(conv, Conv2d)
        codes = weight_codes(prepared, site)
        grid, x_grid = site.grid.to(codes.device), x.grid.to(codes.device)
        bias = biases[site.path].codes if site.path in biases else None
        saturation = None
        if order is not None and site.path in in_pairs:
            saturation = PairSaturation(conv, codes, x_grid.zero_point, order)
        replaced = IntegerConv2d(conv, codes - grid.broadcast(codes.ndim)[1], x_grid, grid, bias, saturation)
        parent, _, name = site.path.rpartition(".")
        encoder.get_submodule(parent).register_module(name, replaced)


def _by_channel(x: Tensor) -> Tensor:
    """Shape a scalar or (C,) to broadcast over (N, C, H, W)."""
    return x.reshape(-1, 1, 1) if x.ndim else x
