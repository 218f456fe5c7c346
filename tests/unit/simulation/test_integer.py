import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsam.runtime.processor import adds_in_32_bits
from quantsam.simulation.sites import FakeQuantize, ShiftedFakeQuantize

from .layer import LAYERS, UINT8, Layer, grid


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


@pytest.mark.parametrize("order", ["padded", "running"])
@pytest.mark.parametrize(("seed", "channels", "width", "kernel", "groups"), LAYERS)
def test_sums_that_saturate_are_those_of_plain_loops(seed, channels, width, kernel, groups, order):
    layer = Layer(seed, channels, width, kernel, groups)
    found = layer.integer(requantize=False, order=order).accumulate(layer.values)
    expected = layer.accumulator(order)
    assert np.array_equal(found.numpy(), expected)
    assert np.array_equal(expected, layer.accumulator()) == (channels == groups)  # depthwise: nothing saturates


@pytest.mark.parametrize("order", ["padded", "running"])
@pytest.mark.parametrize(("seed", "channels", "width", "kernel", "groups"), LAYERS)
def test_safe_weights_never_saturate(seed, channels, width, kernel, groups, order):
    layer = Layer(seed, channels, width, kernel, groups, safe=True)
    layer.x_codes[...] = torch.where(torch.rand(layer.x_codes.shape) < 0.7, 255, layer.x_codes)
    layer.values = (layer.x_codes - layer.x.zero_point) * layer.x.scale
    assert layer.w_codes.abs().max() > 64  # more than 7 bits
    found = layer.integer(requantize=False, order=order).accumulate(layer.values)
    assert np.array_equal(found.numpy(), layer.accumulator())


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize(("seed", "channels", "width", "kernel", "groups"), LAYERS)
def test_onnx_runtime_bit_for_bit(seed, channels, width, kernel, groups, safe):
    layer = Layer(seed, channels, width, kernel, groups, safe=safe)
    wide_sums = not safe and not adds_in_32_bits("onnxruntime")
    assert torch.equal(layer.integer()(layer.values), layer.on("onnxruntime", wide_sums=wide_sums))


def test_onnx_runtime_adds_in_32_bits_when_it_is_told_to():
    layer = Layer(*LAYERS[1])
    assert torch.equal(layer.integer()(layer.values), layer.on("onnxruntime", wide_sums=True))


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize(("seed", "channels", "width", "kernel", "groups"), LAYERS)
def test_openvino_to_one_step_at_ties(seed, channels, width, kernel, groups, safe):
    if not safe and not adds_in_32_bits("openvino"):
        pytest.skip("sums saturate on this processor: only safe weights are exact in OpenVINO")
    layer = Layer(seed, channels, width, kernel, groups, safe=safe)
    found = layer.integer(requantize=False, shifted=True)(layer.values)
    steps = ((found - layer.on("openvino")) / layer.y.scale).round().abs()
    assert steps.max() <= 1
    assert (steps > 0).float().mean() < 0.002


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
