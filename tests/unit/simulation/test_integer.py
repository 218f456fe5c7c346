import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from quantsam.engines.onnx_graph import FLOAT, Graph
from quantsam.models.blocks import Conv2d
from quantsam.quant.params import QParams, TensorSpec
from quantsam.runtime.sessions import SessionOptions, open_session
from quantsam.simulation.integer import IntegerConv2d
from quantsam.simulation.sites import FakeQuantize, ShiftedFakeQuantize

UINT8 = TensorSpec("uint8", "minmax", False, False)


def grid(scale, zero_point=0, axis=None):
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), axis)


class Layer:
    """One quantized convolution with everything that an engine needs to know of it."""

    def __init__(self, seed, channels, width, kernel, groups=1, gain=1.0):
        g = torch.Generator().manual_seed(seed)
        self.x_codes = torch.randint(0, 256, (1, channels, 9, 11), generator=g)
        self.w_codes = torch.randint(-127, 128, (width, channels // groups, kernel, kernel), generator=g)
        self.bias = torch.randint(-5000, 5000, (width,), generator=g, dtype=torch.int32)
        self.x = grid(0.0173, int(torch.randint(0, 256, (), generator=g)))
        scales = torch.rand(width, generator=g) * 0.01 + 1e-4
        self.w = QParams(scales, torch.zeros(width, dtype=torch.int32), 0)
        spread = 0.0173 * 0.005 * 70 * 70 * (channels // groups * kernel**2) ** 0.5
        self.y = grid(float(gain * spread / 100), 117)
        self.groups, self.kernel = groups, kernel
        self.values = (self.x_codes - self.x.zero_point) * self.x.scale

    def integer(self, requantize=True, shifted=False):
        conv = Conv2d(self.x_codes.shape[1], len(self.w_codes), self.kernel, groups=self.groups, bias=not requantize)
        site = ShiftedFakeQuantize if shifted else FakeQuantize
        conv.input_site = site(UINT8, self.x)
        conv.conv_site = site(UINT8, self.y)
        if not requantize:
            conv.bias = torch.nn.Parameter(self.bias.float() * self.x.scale * self.w.scale)
        return IntegerConv2d(conv, self.w_codes, self.x, self.w, self.bias if requantize else None)

    def accumulator(self):
        """In int64, by NumPy."""
        x = (self.x_codes - self.x.zero_point).numpy().astype(np.int64)
        pad = self.kernel // 2
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (self.kernel, self.kernel), (2, 3))[0]  # C H W k k
        w = self.w_codes.numpy().astype(np.int64)
        per = w.shape[1]
        out = []
        for o in range(len(w)):
            first = o // (len(w) // self.groups) * per
            out.append(np.einsum("chwij,cij->hw", windows[first : first + per], w[o]))
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

    def on(self, engine):
        session = open_session(engine, self.graph(engine == "onnxruntime"), SessionOptions(1))
        return torch.from_numpy(session.run({"in": self.values.numpy()})["out"])


LAYERS = [
    (0, 16, 24, 3, 1),
    (1, 24, 96, 1, 1),
    (2, 32, 32, 3, 32),
    (3, 48, 48, 5, 48),
    (4, 96, 96, 1, 6),
    (5, 600, 16, 1, 1),
]


@pytest.mark.parametrize(("seed", "channels", "width", "kernel", "groups"), LAYERS)
def test_the_accumulator_is_exact(seed, channels, width, kernel, groups):
    layer = Layer(seed, channels, width, kernel, groups)
    found = layer.integer(requantize=False).accumulate(layer.values)
    assert np.array_equal(found.numpy(), layer.accumulator())


@pytest.mark.parametrize("channels", [512, 1024])  # in two halves, and in float64
def test_the_accumulator_is_exact_where_float32_is_not(channels):
    layer = Layer(6, channels, 4, 3)
    layer.x = grid(0.0173, 0)
    layer.x_codes[...], layer.w_codes[...] = 255, 127
    layer.x_codes[:, 0], layer.w_codes[:, 0] = 254, 126
    layer.values = layer.x_codes * layer.x.scale
    exact = layer.accumulator()
    assert exact.max() > 2**24
    assert np.array_equal(layer.integer(requantize=False).accumulate(layer.values).numpy(), exact)


@pytest.mark.parametrize(("seed", "channels", "width", "kernel", "groups"), LAYERS)
def test_onnx_runtime_bit_for_bit(seed, channels, width, kernel, groups):
    layer = Layer(seed, channels, width, kernel, groups)
    assert torch.equal(layer.integer()(layer.values), layer.on("onnxruntime"))


@pytest.mark.parametrize(("seed", "channels", "width", "kernel", "groups"), LAYERS)
def test_openvino_to_one_step_at_ties(seed, channels, width, kernel, groups):
    layer = Layer(seed, channels, width, kernel, groups)
    found = layer.integer(requantize=False, shifted=True)(layer.values)
    steps = ((found - layer.on("openvino")) / layer.y.scale).round().abs()
    assert steps.max() <= 1
    assert (steps > 0).float().mean() < 0.001


@given(st.integers(0, 255), st.floats(0.001, 10), st.lists(st.floats(-20, 20), min_size=1, max_size=8))
def test_shifted_rounding_is_the_same_but_at_ties(zero_point, scale, values):
    x, params = torch.tensor(values), grid(scale, zero_point)
    plain, shifted = FakeQuantize(UINT8, params)(x), ShiftedFakeQuantize(UINT8, params)(x)
    share = (x / params.scale).frac().abs()
    tie = (share - 0.5).abs() < 1e-3
    assert torch.allclose(plain[~tie], shifted[~tie], rtol=1e-5)
    assert ((plain - shifted).abs() <= 1.001 * params.scale).all()


def test_shifted_ties_go_to_even_codes():
    x = torch.tensor([0.5, 1.5, 2.5])
    assert FakeQuantize(UINT8, grid(1.0, 3))(x).tolist() == [0, 2, 2]
    assert ShiftedFakeQuantize(UINT8, grid(1.0, 3))(x).tolist() == [1, 1, 3]  # codes 4, 4, 6
