"""The loss in kernels without VNNI: pairs of products saturate at 16 bits, see `quant.saturation`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsam.models.blocks import Conv2d
from quantsam.quant.saturation import LARGEST_PAIR, PairOrder, in_pairs, one_signed_sums

_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
_VALUES_AT_ONCE = 1 << 23


class PairSaturation(nn.Module):
    """Computes what saturation takes off the accumulators of one convolution.

    Only pairs of weights that can overflow are computed.

    Attributes:
        channels: Output channels with such a pair, (n,) int64.
    """

    def __init__(self, conv: Conv2d, codes: Tensor, zero_point: Tensor, order: PairOrder) -> None:
        """Take a convolution that is not depthwise.

        Args:
            conv: The convolution, for its geometry.
            codes: (out, in / groups, kernel, kernel) weight codes as the kernel sees them, including the zero point.
            zero_point: (), zero point of the input's codes.
            order: How the kernel forms pairs.
        """
        super().__init__()
        self.kernel, self.stride, self.padding, self.groups = conv.kernel_size, conv.stride, conv.padding, conv.groups
        self.order: PairOrder = order
        weights = in_pairs(codes.float().permute(0, 2, 3, 1), order)  # (out, pairs, 2)
        out, pair = torch.nonzero(one_signed_sums(weights) > LARGEST_PAIR, as_tuple=True)
        self.channels = torch.unique(out)
        self.register_buffer("zero_point", zero_point.float(), persistent=False)
        self.register_buffer("out", out, persistent=False)
        self.register_buffer("pair", pair, persistent=False)
        self.register_buffer("weights", weights[out, pair], persistent=False)  # (n, 2)
        self.out_channels = len(codes)

    def forward(self, codes: Tensor) -> Tensor:
        """Return what saturation takes off the exact sums.

        Args:
            codes: (N, in, H, W) codes of the input less their zero point, as integers in float32.

        Returns:
            (N, out, H', W') float64: subtract it from the exact accumulator to get the accumulator without VNNI.
        """
        images, height, width = len(codes), *self._output_hw(codes)
        windows = self._pairs(codes)  # (N, groups, pairs, 2, H' * W')
        excess = codes.new_zeros(images, self.out_channels, height * width, dtype=torch.float64)
        out, pair, weights = (self.get_buffer(name) for name in ("out", "pair", "weights"))
        group = out // (self.out_channels // self.groups)
        step = max(1, _VALUES_AT_ONCE // (images * height * width))
        for part in torch.split(torch.arange(len(out), device=out.device), step):
            sums = (windows[:, group[part], pair[part]] * weights[part, :, None]).sum(2)  # (N, part, H' * W')
            excess.index_add_(1, out[part], (sums - sums.clamp(_LOWEST, _HIGHEST)).double())
        return excess.reshape(images, self.out_channels, height, width)

    def _pairs(self, codes: Tensor) -> Tensor:
        """Return the kernel's windows of raw codes, including padding, in pairs."""
        raw = codes + self.get_buffer("zero_point")
        pad = int(self.padding[0])
        raw = F.pad(raw, (pad, pad, pad, pad), value=float(self.get_buffer("zero_point")))
        windows = F.unfold(raw, self.kernel, stride=self.stride)  # (N, C * k * k, L)
        per_group = codes.shape[1] // self.groups
        windows = windows.reshape(len(codes), self.groups, per_group, *self.kernel, -1)  # (N, G, C / G, k, k, L)
        last = windows.permute(0, 1, 5, 3, 4, 2)  # (N, G, L, k, k, C / G)
        return in_pairs(last, self.order).permute(0, 1, 3, 4, 2)

    def _output_hw(self, codes: Tensor) -> tuple[int, int]:
        pad, kernel, stride = int(self.padding[0]), self.kernel[0], self.stride[0]
        height, width = ((side + 2 * pad - kernel) // stride + 1 for side in codes.shape[-2:])
        return height, width
