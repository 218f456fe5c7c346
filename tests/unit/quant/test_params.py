import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsam.errors import SchemeError
from quantsam.quant.formats import FORMATS
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import EPS, params_from_range

INTEGERS = st.sampled_from(sorted(name for name, fmt in FORMATS.items() if fmt.kind == "int"))
VALUE = st.floats(-1e4, 1e4, width=32)


def spec(fmt="int8", *, symmetric=True, quantizer="uniform"):
    return TensorSpec(fmt, "minmax", symmetric, per_channel=False, quantizer=quantizer)


def params(low, high, *args, **kwargs):
    return params_from_range(torch.tensor(low), torch.tensor(high), spec(*args, **kwargs), None)


@given(VALUE, VALUE)
def test_symmetric_int8_divides_by_127_and_a_half(a, b):
    found = params(min(a, b), max(a, b))
    assert found.scale == max(torch.tensor(max(abs(a), abs(b))) / 127.5, torch.tensor(EPS))
    assert found.zero_point == 0


@pytest.mark.parametrize(("fmt", "half"), [("int4", 7.5), ("int16", 32767.5), ("int2", 1.5), ("uint8", 127.5)])
def test_symmetric_formats_divide_by_half_of_their_grid(fmt, half):
    assert params(-3.0, 1.0, fmt).scale == torch.tensor(3.0) / half


@pytest.mark.parametrize(("fmt", "middle"), [("uint8", 128), ("uint4", 8), ("uint16", 32768)])
def test_symmetric_unsigned_puts_zero_in_the_middle(fmt, middle):
    assert params(-3.0, 1.0, fmt).zero_point == middle


@given(INTEGERS, VALUE, VALUE)
def test_affine_holds_zero_and_covers_the_range(name, a, b):
    low, high = min(a, b), max(a, b)
    found = params(low, high, name, symmetric=False)
    fmt, scale, zero = FORMATS[name], found.scale.item(), found.zero_point.item()
    assert fmt.qmin <= zero <= fmt.qmax  # zero itself has a code
    slack = scale * (0.5 + 2e-7 * fmt.levels)  # rounding the zero point shifts the grid by half a step
    assert (fmt.qmin - zero) * scale <= min(low, 0) + slack
    assert (fmt.qmax - zero) * scale >= max(high, 0) - slack


@given(INTEGERS, VALUE, VALUE)
def test_affine_wastes_nothing(name, a, b):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale = params(low, high, name, symmetric=False).scale.item()
    assert scale == pytest.approx(max((high - low) / (FORMATS[name].levels - 1), EPS), rel=1e-6)


def test_affine_by_hand():
    found = params(-1.0, 2.0, "uint8", symmetric=False)
    assert found.scale == torch.tensor(3.0) / 255
    assert found.zero_point == 85
    found = params(-1.0, 2.0, "int8", symmetric=False)
    assert found.zero_point == -43
    assert params(2.0, 5.0, "uint8", symmetric=False).zero_point == 0  # widened down to 0
    assert params(-5.0, -2.0, "uint8", symmetric=False).zero_point == 255


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("fmt", "quantizer"), [("int8", "uniform"), ("uint8", "uniform"), ("int4", "log2"), ("fp8_e4m3", "float8")]
)
@pytest.mark.parametrize("largest", [0.0, 1e-30, 1e-9])
def test_a_scale_is_never_below_epsilon(fmt, quantizer, symmetric, largest):
    found = params(-largest, largest, fmt, symmetric=symmetric, quantizer=quantizer)
    assert found.scale == EPS
    fits = FORMATS[fmt]
    assert fits.qmin <= found.zero_point <= fits.qmax


@pytest.mark.parametrize(("fmt", "largest"), [("fp8_e4m3", 448.0), ("fp8_e5m2", 57344.0)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_float8_meets_its_largest_value(fmt, largest, symmetric):
    found = params(-3.0, 7.0, fmt, symmetric=symmetric, quantizer="float8")
    assert found.scale == torch.tensor(7.0) / largest
    assert found.zero_point == 0


def test_log2_scale_is_the_largest_magnitude():
    found = params(0.0, 0.75, "uint4", symmetric=False, quantizer="log2")
    assert found.scale == 0.75
    assert found.zero_point == 0


@pytest.mark.parametrize("symmetric", [True, False])
@given(ranges=st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=5))
def test_per_channel_is_channel_by_channel(symmetric, ranges):
    low = torch.tensor([min(pair) for pair in ranges])
    high = torch.tensor([max(pair) for pair in ranges])
    together = params_from_range(low, high, spec("uint8", symmetric=symmetric), 1)
    assert together.axis == 1
    for i in range(len(ranges)):
        alone = params_from_range(low[i], high[i], spec("uint8", symmetric=symmetric), None)
        assert together.scale[i] == alone.scale
        assert together.zero_point[i] == alone.zero_point


def test_types_and_shapes():
    found = params_from_range(torch.zeros(3).double(), torch.ones(3).double(), spec("uint8", symmetric=False), 0)
    assert (found.scale.dtype, found.zero_point.dtype) == (torch.float32, torch.int32)
    assert found.scale.shape == found.zero_point.shape == (3,)
    assert params(0.0, 1.0).scale.shape == ()


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 1, 1)), (1, (1, 3, 1)), (2, (1, 1, 3)), (-1, (1, 1, 3))])
def test_broadcast_puts_the_channels_on_their_axis(axis, shape):
    scale, zero = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), axis).broadcast(3)
    assert scale.shape == zero.shape == shape


def test_broadcast_of_a_whole_tensor_changes_nothing():
    scale, zero = QParams(torch.tensor(2.0), torch.tensor(1), None).broadcast(4)
    assert scale.shape == zero.shape == ()


def test_a_specification_knows_its_format():
    assert spec("int4").fmt is FORMATS["int4"]
    with pytest.raises(SchemeError, match="got 'int1'"):
        _ = spec("int1").fmt
