"""What a grid reaches, and where clipping begins."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import fake_quantize, params_from_range
from quantsam.quant.ranges import clipping_range, grid_range

SPECS = {
    "symmetric": TensorSpec("int8", "minmax", symmetric=True, per_channel=False),
    "narrow": TensorSpec("int8", "minmax", symmetric=True, per_channel=False, narrow=True),
    "affine": TensorSpec("uint8", "minmax", symmetric=False, per_channel=False),
    "int4": TensorSpec("int4", "minmax", symmetric=True, per_channel=False),
    "int16": TensorSpec("int16", "minmax", symmetric=True, per_channel=False),
    "e4m3": TensorSpec("fp8_e4m3", "minmax", symmetric=True, per_channel=False, quantizer="float8"),
    "e5m2": TensorSpec("fp8_e5m2", "minmax", symmetric=True, per_channel=False, quantizer="float8"),
    "log2": TensorSpec("uint4", "minmax", symmetric=False, per_channel=False, quantizer="log2"),
}


def grid(scale, zero_point=0):
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), None)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("scale", [0.013, 1.0, 700.0])
def test_the_ends_are_what_values_far_outside_become(name, scale):
    spec, params = SPECS[name], grid(scale, 100 if name == "affine" else 0)
    low, high = grid_range(spec, params)
    far = torch.tensor([-1e30, 1e30])
    torch.testing.assert_close(fake_quantize(far, spec, params), torch.stack([low, high]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "log2"])
def test_half_a_step_beyond_the_grid_is_rounding_and_more_is_clipping(name):
    spec, params = SPECS[name], grid(0.25, 100 if name == "affine" else 0)
    low, high = grid_range(spec, params)
    below, above = clipping_range(spec, params)
    inner = fake_quantize(torch.stack([low, high]) * (1 - 1e-6), spec, params)
    assert inner.tolist() == [low.item(), high.item()]
    # the step to the next code inward, found by rounding values closer and closer to zero
    ladder = fake_quantize(torch.linspace(high.item() * 0.7, high.item(), 200_001), spec, params).unique()
    step = (ladder[-1] - ladder[-2]).item()
    assert (above - high).item() == pytest.approx(step / 2, rel=0.05)
    assert (low - below).item() == pytest.approx(step / 2, rel=0.05)
    assert (above - high).item() >= step / 2


def test_log2_clips_what_is_more_than_half_a_power_above_and_what_is_negative():
    spec, params = SPECS["log2"], grid(2.0)
    below, above = clipping_range(spec, params)
    assert above.item() == pytest.approx(2 * 2**0.5)
    smallest = -below.item()  # the positive twin of the bound is where codes other than zero's begin
    around = torch.tensor([smallest * 0.999, smallest * 1.001])
    assert (fake_quantize(around, spec, params) > 0).tolist() == [False, True]


@given(
    st.sampled_from(sorted(SPECS)),
    st.floats(-1e4, 1e4, width=32),
    st.floats(-1e4, 1e4, width=32),
)
def test_a_grid_clips_nothing_of_the_range_it_was_made_from(name, one, other):
    low, high = torch.tensor(min(one, other)), torch.tensor(max(one, other))
    if name == "log2":
        low, high = low.abs(), torch.maximum(low.abs(), high.abs())
    params = params_from_range(low, high, SPECS[name], None)
    below, above = clipping_range(SPECS[name], params)
    assert below <= low
    assert high <= above


def test_channels_have_bounds_of_their_own():
    scales = torch.tensor([0.5, 2.0])
    params = QParams(scales, torch.tensor([0, 10], dtype=torch.int32), 1)
    for bounds in (grid_range, clipping_range):
        low, high = bounds(SPECS["affine"], params)
        for channel in range(2):
            alone = bounds(SPECS["affine"], grid(scales[channel].item(), [0, 10][channel]))
            assert (low[channel], high[channel]) == alone
