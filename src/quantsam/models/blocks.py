"""The blocks of EfficientViT's L series, with a named site wherever a tensor may be quantized.

A site is an identity: it computes nothing, costs nothing and has no state, so official checkpoints
load with no renaming of keys. Source: EfficientViT (Cai et al., 2023, arXiv:2205.14756).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Site(nn.Identity):
    """A do-nothing place in the graph where a tensor may be observed or quantized."""


class ChannelScale(nn.Module):
    """Multiplies each channel by a power of two, which changes no digit of a float.

    Attributes:
        factors: (C,) float32.
    """

    factors: Tensor

    def __init__(self, exponents: Tensor) -> None:
        """Take the exponents, (C,) integers."""
        super().__init__()
        self.register_buffer("factors", torch.exp2(exponents.float()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x * self.factors.reshape(-1, 1, 1)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` between two sites: its input, and its output with the bias added.

    Padding keeps the resolution at stride 1, as every convolution of the encoder does.

    Attributes:
        input_scale: Channel scale that a repair puts before the input's site; None without one.
        output_scale: Channel scale that a repair puts behind the output's site; None without one.
        code_offsets: Offsets that a repair adds to the codes of the rounded weight, int8, the weight's shape; None
            without them.
    """

    input_scale: ChannelScale | None
    output_scale: ChannelScale | None
    code_offsets: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.input_site: nn.Module = Site()
        self.conv_site: nn.Module = Site()
        self.input_scale = None
        self.output_scale = None
        self.register_buffer("code_offsets", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        if self.input_scale is not None:
            x = self.input_scale(x)
        y: Tensor = self.conv_site(super().forward(self.input_site(x)))
        return y if self.output_scale is None else self.output_scale(y)


class ConvLayer(nn.Module):
    """Convolution, then BatchNorm if any, then an activation if any."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = False,
    ) -> None:
        super().__init__()
        # a convolution has a bias exactly where no BatchNorm follows; the callers that differ set it
        self.conv = Conv2d(in_channels, out_channels, kernel, stride, groups, bias=not norm)
        self.norm: nn.Module | None = None
        self.act: nn.Module | None = None
        if norm:
            self.norm = nn.BatchNorm2d(out_channels)
            self.norm_site = Site()
        if act:
            self.act = nn.GELU(approximate="tanh")
            self.act_site = Site()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm_site(self.norm(x))
        if self.act is not None:
            x = self.act_site(self.act(x))
        return x


class ResBlock(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3, act=True)
        self.conv2 = ConvLayer(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y: Tensor = self.conv2(self.conv1(x))
        return y


class FusedMBConv(nn.Module):
    """Fused inverted bottleneck: a dense 3x3 convolution expands, a 1x1 convolution projects."""

    def __init__(self, in_channels: int, out_channels: int, expand: int, stride: int = 1) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.spatial_conv = ConvLayer(in_channels, hidden, 3, stride=stride, act=True)
        self.point_conv = ConvLayer(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        y: Tensor = self.point_conv(self.spatial_conv(x))
        return y


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expand, 3x3 depthwise, 1x1 project; only the last has a BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, expand: int, stride: int = 1) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.inverted_conv = ConvLayer(in_channels, hidden, 1, norm=False, act=True)
        self.depth_conv = ConvLayer(hidden, hidden, 3, stride=stride, groups=hidden, norm=False, act=True)
        self.point_conv = ConvLayer(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        y: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return y


class LinearAttention(nn.Module):
    """Multi-scale ReLU linear attention ("LiteMLA").

    A 1x1 convolution makes queries, keys and values. A depthwise `scale` x `scale` and a grouped 1x1
    convolution turn them into a second set. Every head attends with `relu(q) (relu(k)^T [v, 1])`; the
    last column normalizes the others.
    """

    eps = 1e-15

    def __init__(self, channels: int, dim: int, scale: int) -> None:
        super().__init__()
        self.dim = dim
        heads = channels // dim
        width = 3 * heads * dim
        self.qkv = ConvLayer(channels, width, 1, norm=False)
        self.qkv.conv.register_parameter("bias", None)
        self.aggreg = nn.ModuleList(
            [nn.Sequential(Conv2d(width, width, scale, groups=width), Conv2d(width, width, 1, groups=3 * heads))]
        )
        self.core = LinearAttentionCore(dim, self.eps)
        self.proj = ConvLayer(2 * heads * dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y: Tensor = self.proj(self.core(self.project(x)))
        return y

    def project(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to queries, keys and values at all scales, (N, scales * 3 * heads * dim, H, W)."""
        qkv = self.qkv(x)
        return torch.cat([qkv, *(branch(qkv) for branch in self.aggreg)], dim=1)


class LinearAttentionCore(nn.Module):
    """The attention itself, between the convolutions; it has no weights."""

    SITES = ("q", "k", "v", "relu_q", "relu_k", "kv", "unnormalized", "out")

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.sites = nn.ModuleDict({name: Site() for name in self.SITES})

    def forward(self, qkv: Tensor) -> Tensor:
        """Map (N, heads * 3 * dim, H, W), q k v interleaved per head, to (N, heads * dim, H, W)."""
        sites = self.sites
        batch, _, height, width = qkv.shape
        q, k, v = qkv.reshape(batch, -1, 3, self.dim, height * width).unbind(2)  # (N, heads, dim, H*W)
        q, k, v = sites["q"](q), sites["k"](k), sites["v"](v)
        q, k = sites["relu_q"](F.relu(q)), sites["relu_k"](F.relu(k))
        ones = v.new_ones(()).expand(*v.shape[:2], 1, v.shape[3])
        kv = sites["kv"](torch.cat([v, ones], dim=2) @ k.transpose(-1, -2))  # (N, heads, dim + 1, dim)
        out = sites["unnormalized"](kv @ q)  # (N, heads, dim + 1, H*W)
        out = sites["out"](out[:, :, :-1] / (out[:, :, -1:] + self.eps))
        result: Tensor = out.reshape(batch, -1, height, width)
        return result


class Residual(nn.Module):
    """`main`, with its input added unless the block changes shape."""

    def __init__(self, main: nn.Module, shortcut: bool = True) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut
        if shortcut:
            self.shortcut_site: nn.Module = Site()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) as `main` does."""
        added: Tensor | None = self.shortcut_site(x) if self.shortcut else None
        y: Tensor = self.main(x)
        return y if added is None else y + added


class EfficientViTBlock(nn.Module):
    """Linear attention for context, then an inverted bottleneck for locality."""

    def __init__(self, channels: int, dim: int, scale: int, expand: int) -> None:
        super().__init__()
        self.context_module = Residual(LinearAttention(channels, dim, scale))
        self.local_module = Residual(MBConv(channels, channels, expand))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y: Tensor = self.local_module(self.context_module(x))
        return y


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
