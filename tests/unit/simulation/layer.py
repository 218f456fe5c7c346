"""One quantized convolution with everything that an engine, and NumPy, need to know of it."""

import numpy as np
import torch
from onnx import TensorProto

from quantsam.engines.onnx_graph import FLOAT, Graph
from quantsam.models.blocks import Conv2d
from quantsam.quant.formats import get_format
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.ranges import grid_range
from quantsam.quant.saturation import saturation_free_scale
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions
from quantsam.simulation.integer import IntegerConv2d
from quantsam.simulation.pairs import PairSaturation
from quantsam.simulation.sites import FakeQuantize, ShiftedFakeQuantize

UINT8 = TensorSpec("uint8", "minmax", False, False)

LAYERS = [
    (0, 16, 24, 3, 1),
    (1, 24, 96, 1, 1),
    (2, 32, 32, 3, 32),
    (3, 48, 48, 5, 48),
    (4, 96, 96, 1, 6),
    (5, 600, 16, 1, 1),
    (6, 3, 16, 3, 1),  # an odd number of channels: pairs reach over positions of the kernel, or are padded
    (7, 33, 16, 1, 1),
    (8, 1024, 4, 3, 1),  # sums beyond 2^24
]
"""Seed, input channels, output channels, kernel, groups."""


def grid(scale, zero_point=0, axis=None):
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), axis)


class Layer:
    """Random codes of all 8 bits; with `safe`, weights whose products cannot overflow 16 bits in pairs."""

    def __init__(self, seed, channels, width, kernel, groups=1, gain=1.0, *, safe=False):
        g = torch.Generator().manual_seed(seed)
        self.x_codes = torch.randint(0, 256, (1, channels, 9, 11), generator=g)
        self.w_codes = torch.randint(-127, 128, (width, channels // groups, kernel, kernel), generator=g)
        if safe:
            scale = saturation_free_scale(self.w_codes.float(), torch.ones(width), get_format("int8"))
            self.w_codes = torch.round(self.w_codes / scale.reshape(-1, 1, 1, 1)).long()
        self.bias = torch.randint(-5000, 5000, (width,), generator=g, dtype=torch.int32)
        self.x = grid(0.0173, int(torch.randint(0, 256, (), generator=g)))
        scales = torch.rand(width, generator=g) * 0.01 + 1e-4
        self.w = QParams(scales, torch.zeros(width, dtype=torch.int32), 0)
        spread = 0.0173 * 0.005 * 70 * 70 * (channels // groups * kernel**2) ** 0.5
        self.y = grid(float(gain * spread / 100), 117)
        self.groups, self.kernel = groups, kernel
        self.values = (self.x_codes - self.x.zero_point) * self.x.scale

    def integer(self, requantize=True, shifted=False, order=None):
        """The simulation in integers; with `order`, sums saturate in pairs."""
        conv = Conv2d(self.x_codes.shape[1], len(self.w_codes), self.kernel, groups=self.groups, bias=not requantize)
        site = ShiftedFakeQuantize if shifted else FakeQuantize
        conv.input_site = site(UINT8, self.x)
        conv.conv_site = site(UINT8, self.y)
        if not requantize:
            conv.bias = torch.nn.Parameter(self.bias.float() * self.x.scale * self.w.scale)
        saturation = None
        if order is not None and self.w_codes.shape[1] > 1:
            saturation = PairSaturation(conv, self.w_codes, self.x.zero_point, order)
        return IntegerConv2d(conv, self.w_codes, self.x, self.w, self.bias if requantize else None, saturation)

    def accumulator(self, order=None):
        """In int64, by NumPy."""
        zero = int(self.x.zero_point)
        pad = self.kernel // 2
        x = np.pad(self.x_codes.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=zero)
        windows = np.lib.stride_tricks.sliding_window_view(x, (self.kernel, self.kernel), (2, 3))[0]  # C H W k k
        w = self.w_codes.numpy().astype(np.int64)
        per = w.shape[1]
        out = []
        for o in range(len(w)):
            first = o // (len(w) // self.groups) * per
            window = windows[first : first + per].astype(np.int64)
            if order is None or per == 1:
                out.append(np.einsum("chwij,cij->hw", window - zero, w[o]))
            else:
                out.append(_in_pairs(window, w[o], order) - zero * w[o].sum())
        return np.stack(out)[None]

    def graph(self, integer_bias):
        graph = Graph()
        for name, params, dtype in (("x", self.x, np.uint8), ("w", self.w, np.int8), ("y", self.y, np.uint8)):
            graph.constant(f"{name}:scale", params.scale.numpy())
            graph.constant(f"{name}:zero", params.zero_point.numpy().astype(dtype))
        graph.add("QuantizeLinear", ["in", "x:scale", "x:zero"], "x:codes")
        graph.add("DequantizeLinear", ["x:codes", "x:scale", "x:zero"], "x")
        graph.constant("w:codes", self.w_codes.numpy().astype(np.int8))
        graph.add("DequantizeLinear", ["w:codes", "w:scale", "w:zero"], "w", axis=0)
        scale = self.x.scale * self.w.scale
        if integer_bias:
            graph.constant("b:codes", self.bias.numpy())
            graph.constant("b:scale", scale.numpy())
            graph.add("DequantizeLinear", ["b:codes", "b:scale"], "b", axis=0)
        else:
            graph.constant("b", (self.bias.float() * scale).numpy())
        pad = self.kernel // 2
        graph.add("Conv", ["x", "w", "b"], "conv", group=self.groups, pads=[pad] * 4, kernel_shape=[self.kernel] * 2)
        graph.add("QuantizeLinear", ["conv", "y:scale", "y:zero"], "y:codes")
        graph.add("DequantizeLinear", ["y:codes", "y:scale", "y:zero"], "out")
        shape = (1, self.x_codes.shape[1], 9, 11)
        return graph.model(
            "layer", {"in": (FLOAT, shape)}, {"out": (TensorProto.FLOAT, (1, len(self.w_codes), 9, 11))}, {}
        ).SerializeToString()

    def on(self, engine, *, wide_sums=False):
        session = open_session(engine, self.graph(engine == "onnxruntime"), SessionOptions(1, wide_sums=wide_sums))
        return torch.from_numpy(session.run({"in": self.values.numpy()})["out"])


def _in_pairs(window, weight, order):
    """Sums of pairs that saturate at 16 bits, in plain loops: (C, H, W, k, k), (C, k, k) -> (H, W)."""
    products = [
        [(window[c, :, :, i, j], weight[c, i, j]) for c in range(len(weight))]
        for i in range(weight.shape[1])
        for j in range(weight.shape[2])
    ]
    runs = products if order == "padded" else [[entry for position in products for entry in position]]
    total = 0
    for run in runs:
        for k in range(0, len(run), 2):
            total = total + np.clip(sum(x * w for x, w in run[k : k + 2]), -32768, 32767)
    return total


def random_codes(layer, height, width):
    """Codes of a quantized convolution's input (1, in, height, width) that spread over its grid, as floats."""
    site = layer.input_site
    low, high = (end.reshape(-1, 1, 1) for end in grid_range(site.spec, site.params))
    shape = (1, layer.get_buffer("codes").shape[1] * layer.groups, height, width)
    return site(low + torch.rand(shape, generator=torch.Generator().manual_seed(1)) * (high - low))
