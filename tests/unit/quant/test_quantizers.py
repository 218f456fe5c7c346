import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from quantsam.quant.formats import FLOAT8_DTYPES, FORMATS
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import dequantize, fake_quantize, params_from_range, quantize

INTEGERS = st.sampled_from(sorted(name for name, fmt in FORMATS.items() if fmt.kind == "int"))
FLOATS = sorted(FLOAT8_DTYPES)
VALUES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40)
LOG2 = TensorSpec("uint4", "minmax", False, False, "log2")


def uniform(fmt="int8", *, symmetric=True, per_channel=False):
    return TensorSpec(fmt, "minmax", symmetric, per_channel)


def fitted(x, spec, axis=None):
    """The min-max grid of a tensor."""
    if axis is None:
        return params_from_range(x.min(), x.max(), spec, None)
    rest = [d for d in range(x.ndim) if d != axis % x.ndim]
    return params_from_range(x.amin(rest), x.amax(rest), spec, axis)


def grid(scale, zero_point=0):
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), None)


def specs():
    """Every kind of specification."""
    return st.one_of(
        st.builds(lambda f, s: TensorSpec(f, "minmax", s, False), INTEGERS, st.booleans()),
        st.sampled_from([TensorSpec(f, "minmax", True, False, "float8") for f in FLOATS]),
        st.sampled_from([TensorSpec(f"uint{b}", "minmax", False, False, "log2") for b in (2, 4, 8)]),
    )


@given(specs(), VALUES)
def test_rounding_twice_is_rounding_once(spec, values):
    x = torch.tensor(values)
    params = fitted(x, spec)
    once = fake_quantize(x, spec, params)
    assert torch.equal(fake_quantize(once, spec, params), once)


@given(specs(), VALUES)
def test_fake_quantize_is_quantize_then_dequantize_bit_for_bit(spec, values):
    x = torch.tensor(values)
    params = fitted(x / 2, spec)  # half of the range: some saturate
    expected = dequantize(quantize(x, spec, params), spec, params)
    assert expected.dtype == torch.float32
    assert torch.equal(fake_quantize(x, spec, params), expected)


@given(INTEGERS, st.booleans(), VALUES)
def test_error_is_at_most_half_a_step_inside_the_range(name, symmetric, values):
    x, spec = torch.tensor(values), uniform(name, symmetric=symmetric)
    params = fitted(x, spec)
    fmt, scale = spec.fmt, params.scale.item()
    reach_low, reach_high = (fmt.qmin - params.zero_point.item()) * scale, (fmt.qmax - params.zero_point.item()) * scale
    inside = (x >= reach_low) & (x <= reach_high)
    error = (fake_quantize(x, spec, params) - x).abs()[inside]
    assert (error <= scale / 2 + 4e-7 * x.abs().max()).all()  # float32's own rounding on top
    # what minmax covers: all but half a step on either side
    assert (x >= reach_low - scale * 0.501 - 4e-7 * x.abs().max()).all()
    assert (x <= reach_high + scale * 0.501 + 4e-7 * x.abs().max()).all()


@given(INTEGERS, st.booleans(), VALUES)
def test_rounding_keeps_order_and_zero(name, symmetric, values):
    x = torch.tensor(values).sort().values
    spec = uniform(name, symmetric=symmetric)
    params = fitted(x, spec)
    assert (fake_quantize(x, spec, params).diff() >= 0).all()
    assert fake_quantize(torch.zeros(1), spec, params) == 0


@given(INTEGERS, st.booleans())
def test_values_beyond_the_range_saturate(name, symmetric):
    spec = uniform(name, symmetric=symmetric)
    params = params_from_range(torch.tensor(-1.0), torch.tensor(2.0), spec, None)
    x = torch.tensor([-math.inf, -1e38, -50.0, 50.0, 1e38, math.inf])
    fmt = spec.fmt
    assert quantize(x, spec, params).tolist() == [fmt.qmin] * 3 + [fmt.qmax] * 3
    low, high = ((bound - params.zero_point) * params.scale for bound in (fmt.qmin, fmt.qmax))
    assert fake_quantize(x, spec, params).tolist() == [low] * 3 + [high] * 3


def test_int8_by_hand_rounds_half_to_even():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 126.5, 127.5, 400.0, -128.5, -400.0])
    assert quantize(x, uniform(), grid(1.0)).tolist() == [0, 2, 2, 0, -2, 0, 126, 127, 127, -128, -128]
    assert fake_quantize(x, uniform(), grid(1.0)).tolist() == [0, 2, 2, 0, -2, 0, 126, 127, 127, -128, -128]


def test_a_scale_divides_exactly_and_is_not_multiplied_by_its_reciprocal():
    scale = torch.tensor(1.7)
    x = (torch.arange(-128, 127) + 0.5) * scale  # on the edges, where the two differ
    params = QParams(scale, torch.tensor(0, dtype=torch.int32), None)
    divided = np.rint(x.numpy() / np.float32(1.7)).astype(int).tolist()
    assert np.rint(x.numpy() * (np.float32(1) / np.float32(1.7))).astype(int).tolist() != divided
    assert quantize(x, uniform(), params).tolist() == divided
    assert (fake_quantize(x, uniform(), params) / scale).round().tolist() == divided


def test_zero_point_by_hand():
    x = torch.tensor([-1.0, 0.0, 2.0, 9.0])
    spec = uniform("uint8", symmetric=False)
    params = params_from_range(torch.tensor(-1.0), torch.tensor(2.0), spec, None)
    assert quantize(x, spec, params).tolist() == [0, 85, 255, 255]
    assert fake_quantize(x, spec, params).tolist() == pytest.approx([-1.0, 0.0, 2.0, 2.0])


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("grad", [False, True])
def test_per_channel_is_slice_by_slice(axis, symmetric, grad):
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(axis + 9))
    x = x * torch.logspace(-2, 2, x.shape[axis]).reshape([-1 if d == axis % 4 else 1 for d in range(4)])
    spec = uniform(symmetric=symmetric, per_channel=True)
    params = fitted(x, spec, axis)
    together = fake_quantize(x.clone().requires_grad_(grad), spec, params)
    for i in range(x.shape[axis]):
        alone = QParams(params.scale[i], params.zero_point[i], None)
        assert torch.equal(together.select(axis, i), fake_quantize(x.select(axis, i), spec, alone))
        assert torch.equal(
            quantize(x, spec, params).select(axis, i), quantize(x.select(axis, i).contiguous(), spec, alone)
        )


@pytest.mark.parametrize("quantizer", ["log2", "float8"])
def test_other_quantizers_per_channel_are_slice_by_slice(quantizer):
    spec = TensorSpec("uint4" if quantizer == "log2" else "fp8_e4m3", "minmax", True, True, quantizer)
    x = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
    params = fitted(x, spec, 1)
    for i in range(4):
        alone = QParams(params.scale[i], params.zero_point[i], None)
        assert torch.equal(fake_quantize(x, spec, params)[:, i], fake_quantize(x[:, i], spec, alone))


# log2


def test_log2_by_hand():
    x = torch.tensor([1.0, 0.5, 0.25, 0.7, 0.71, 2.0**-15, 2.0**-15.4, 2.0**-15.6, 2.0**-16, 0.0, -0.5, 3.0])
    codes = quantize(x, LOG2, grid(1.0))
    assert codes.tolist() == [0, 1, 2, 1, 0, 15, 15, -1, -1, -1, -1, 0]
    kept = [1.0, 0.5, 0.25, 0.5, 1.0, 2**-15, 2**-15, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert dequantize(codes, LOG2, grid(1.0)).tolist() == kept
    assert fake_quantize(x, LOG2, grid(1.0)).tolist() == kept
    assert fake_quantize(x * 3, LOG2, grid(3.0)).tolist() == [3 * value for value in kept]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_log2_drops_exponents_of_two_to_the_bits_and_more(bits):
    spec = TensorSpec(f"uint{bits}", "minmax", False, False, "log2")
    last = 2**bits - 1
    x = torch.exp2(-torch.tensor([0.0, last - 1, last, last + 1, last + 2], dtype=torch.float64)).float()
    # float32 itself ends at 2^-149
    expected = [code if code <= min(last, 149) else -1 for code in (0, last - 1, last, last + 1, last + 2)]
    assert quantize(x, spec, grid(1.0)).tolist() == expected


@given(st.floats(2.0**-14, 1.0, width=32))
def test_log2_keeps_a_value_within_a_factor_of_root_two(value):
    ratio = fake_quantize(torch.tensor([value]), LOG2, grid(1.0)).item() / value
    assert 2**-0.5 * (1 - 1e-5) <= ratio <= 2**0.5 * (1 + 1e-5)


def test_log2_of_what_has_no_logarithm_is_zero_and_infinity_saturates():
    x = torch.tensor([math.nan, -math.inf, -1.0, 0.0, -0.0, math.inf])
    assert fake_quantize(x, LOG2, grid(2.0)).tolist() == [0, 0, 0, 0, 0, 2.0]


# float8


@pytest.mark.parametrize("name", FLOATS)
def test_float8_is_pytorch_s_cast_of_every_code(name):
    spec, dtype = TensorSpec(name, "minmax", True, False, "float8"), FLOAT8_DTYPES[name]
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    every = every[torch.isfinite(every)]
    assert torch.equal(fake_quantize(every * 0.5, spec, grid(0.5)), every * 0.5)
    between = every.unique().unfold(0, 2, 1).mean(1)
    assert torch.equal(fake_quantize(between, spec, grid(1.0)), between.to(dtype).float())


@given(st.sampled_from(FLOATS), VALUES, st.floats(2.0**-10, 1000, width=32))
def test_float8_is_pytorch_s_cast_with_saturation(name, values, scale):
    spec, dtype = TensorSpec(name, "minmax", True, False, "float8"), FLOAT8_DTYPES[name]
    x, largest = torch.tensor(values), spec.fmt.qmax
    expected = (x / scale).clamp(-largest, largest).to(dtype).float() * torch.tensor(scale)
    assert quantize(x, spec, grid(scale)).dtype == dtype
    found = fake_quantize(x, spec, grid(scale))
    assert torch.equal(found, expected)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", FLOATS)
def test_float8_never_makes_infinity_or_nan(name):
    spec = TensorSpec(name, "minmax", True, False, "float8")
    x = torch.tensor([math.inf, -math.inf, 3e38, -3e38, spec.fmt.qmax * 1.04, -spec.fmt.qmax * 1.5])
    assert fake_quantize(x, spec, grid(1.0)).tolist() == [v * spec.fmt.qmax for v in (1, -1, 1, -1, 1, -1)]
    assert fake_quantize(torch.tensor([math.nan]), spec, grid(1.0)).isnan().all()  # it was there before


# what is not finite, gradients, shapes


@pytest.mark.parametrize("grad", [False, True])
def test_nan_stays_nan_on_both_paths_and_has_the_lowest_code(grad):
    x = torch.tensor([math.nan, 1.0, math.inf, -math.inf], requires_grad=grad)
    rounded = fake_quantize(x, uniform(), grid(1.0))
    assert rounded[0].isnan()
    assert rounded[1:].tolist() == [1.0, 127.0, -128.0]
    assert quantize(x.detach(), uniform(), grid(1.0)).tolist() == [-128, 1, 127, -128]


@given(INTEGERS, st.booleans(), VALUES)
def test_a_tensor_that_requires_a_gradient_is_rounded_the_same(name, symmetric, values):
    x, spec = torch.tensor(values), uniform(name, symmetric=symmetric)
    params = fitted(x / 2, spec)
    tracked = fake_quantize(x.clone().requires_grad_(), spec, params)
    assert torch.equal(tracked.detach(), fake_quantize(x, spec, params))
    assert tracked.dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "top"), [(uniform(), 1.0), (LOG2, 1.0), (TensorSpec("fp8_e4m3", "minmax", True, False, "float8"), 448.0)]
)
def test_an_input_is_never_changed(spec, top):
    x = torch.rand(50) * top
    before = x.clone()
    fake_quantize(x, spec, grid(0.01))
    with torch.no_grad():
        fake_quantize(x.requires_grad_(), spec, grid(0.01))
    assert torch.equal(x, before)


@pytest.mark.parametrize("spec", [uniform(), LOG2, TensorSpec("fp8_e5m2", "minmax", True, False, "float8")])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (2, 3, 4, 5)])
def test_shapes_are_kept(spec, shape):
    x = torch.rand(shape)
    assert fake_quantize(x, spec, grid(0.25)).shape == shape
    assert quantize(x, spec, grid(0.25)).shape == shape


@given(VALUES, st.integers(-20, 20))
def test_a_power_of_two_on_both_sides_changes_nothing(values, exponent):
    x = torch.tensor(values)
    assume(x.abs().max() > 1e-3)
    factor = 2.0**exponent
    params = fitted(x, uniform())
    scaled = QParams(params.scale * factor, params.zero_point, None)
    x_scaled = x * factor
    assume(torch.equal(x_scaled / factor, x))  # no underflow
    assert torch.equal(quantize(x, uniform(), params), quantize(x_scaled, uniform(), scaled))
