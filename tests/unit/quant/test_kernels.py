import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsam.quant import kernels

BLOCK = kernels._BLOCK


def plain(x, scale, zero_point, axis, qmin, qmax):
    """The same with PyTorch's operations."""
    if axis is not None:
        shape = [1] * x.ndim
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    codes = torch.clamp(torch.round(x / scale) + zero_point, qmin, qmax)
    return (codes - zero_point) * scale


def bits(x):
    return x.contiguous().view(torch.int32)


def check(x, scale, zero_point, axis=None, qmin=-128, qmax=127):
    scale, zero_point = torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)
    before = x.clone()
    found = kernels.fake_quantize_uniform(x, scale, zero_point, axis, qmin, qmax)
    assert found.shape == x.shape
    assert found.dtype == torch.float32
    assert torch.equal(bits(x), bits(before))  # the input is left alone
    assert torch.equal(bits(found), bits(plain(x, scale, zero_point, axis, qmin, qmax)))


def noise(*shape, spread=30.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * spread


@given(
    st.lists(st.floats(width=32, allow_nan=False), max_size=30),
    st.floats(2.0**-23, 2.0**20, width=32),
    st.integers(-128, 127),
)
def test_rounds_as_pytorch_does_bit_for_bit(values, scale, zero_point):
    check(torch.tensor(values, dtype=torch.float32), scale, zero_point)


@given(st.floats(2.0**-23, 2.0**10, width=32))
def test_ties_are_rounded_as_pytorch_does(scale):
    check((torch.arange(-300, 300) + 0.5) * scale, scale, 3)


def test_signed_zero():
    check(torch.tensor([0.0, -0.0, -0.2, 0.2]), 1.0, 0)
    check(torch.tensor([0.0, -0.0, -0.2, 0.2]), 1.0, 5)


@pytest.mark.parametrize(("qmin", "qmax", "zero"), [(-2, 1, 0), (0, 255, 85), (-32768, 32767, 0), (0, 65535, 40000)])
def test_any_grid(qmin, qmax, zero):
    check(noise(1000, spread=3 * qmax), 0.7, zero, None, qmin, qmax)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_any_axis(axis):
    x = noise(3, 4, 5, 6)
    n = x.shape[axis]
    check(x, [0.1 + 0.3 * i for i in range(n)], [7 * i - 9 for i in range(n)], axis)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(1, 3),
        lambda x: x[:, ::2],
        lambda x: x[..., 1:-1],
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[:, :1].expand(-1, 4, -1, -1),
        lambda x: x.permute(3, 2, 1, 0),
    ],
    ids=["transposed", "every-other", "offset", "channels-last", "expanded", "permuted"],
)
@pytest.mark.parametrize("axis", [None, 0, 1, 3])
def test_any_layout(view, axis):
    x = view(noise(4, 4, 4, 6))
    scales = 0.5 if axis is None else [0.1 + 0.3 * i for i in range(x.shape[axis])]
    check(x, scales, 0 if axis is None else [3 - i for i in range(x.shape[axis])], axis)


def test_scales_of_any_layout():
    x = noise(3, 4)
    scale = torch.tensor([[0.5, 1.0], [2.0, 3.0], [4.0, 7.0]])[:, 0]  # strided
    zero = torch.tensor(2, dtype=torch.int32).expand(3)
    found = kernels.fake_quantize_uniform(x, scale, zero, 0, -128, 127)
    assert torch.equal(found, plain(x, scale, zero, 0, -128, 127))


@pytest.mark.parametrize(
    ("shape", "axis"), [((), None), ((1,), None), ((7,), None), ((7,), 0), ((1, 1), 1), ((3, 1), 0), ((2, 3, 1, 1), 1)]
)
def test_few_dimensions(shape, axis):
    x = torch.linspace(-9, 9, math.prod(shape)).reshape(shape)
    check(
        x,
        0.7 if axis is None else [0.7 + i for i in range(shape[axis])],
        1 if axis is None else [1] * shape[axis],
        axis,
    )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 3), (2, 3, 0)])
def test_empty(shape):
    check(torch.empty(shape), 1.0, 0)
    for axis in range(len(shape)):
        check(torch.empty(shape), [1.0] * shape[axis], [0] * shape[axis], axis)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_rows_longer_than_a_block(size):
    check(noise(size), 0.3, 2)
    check(noise(2, 3, size), [0.3, 0.5, 0.9], [0, 1, 2], 1)


def test_infinity_and_huge_values_saturate_and_nan_stays():
    x = torch.tensor([math.inf, -math.inf, 3.4e38, -3.4e38, 1e-45, math.nan])
    found = kernels.fake_quantize_uniform(
        x, torch.tensor(2.0**-23), torch.tensor(0, dtype=torch.int32), None, -128, 127
    )
    step = 2.0**-23
    assert found[:5].tolist() == [127 * step, -128 * step, 127 * step, -128 * step, 0.0]
    assert found[5].isnan()


def test_a_wrong_number_of_scales_is_not_wrapped_around():
    with pytest.raises(AssertionError):
        kernels.fake_quantize_uniform(noise(2, 4), torch.ones(2), torch.zeros(2, dtype=torch.int32), 1, -128, 127)
    with pytest.raises(AssertionError):
        kernels.fake_quantize_uniform(noise(2, 4), torch.ones(2), torch.zeros(2, dtype=torch.int32), None, -128, 127)


def test_the_number_of_threads_changes_nothing():
    x, threads = noise(5, 3, BLOCK + 3), torch.get_num_threads()
    scale, zero = torch.tensor([0.3, 0.5, 0.9]), torch.zeros(3, dtype=torch.int32)
    try:
        torch.set_num_threads(1)
        one = kernels.fake_quantize_uniform(x, scale, zero, 1, -128, 127)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, kernels.fake_quantize_uniform(x, scale, zero, 1, -128, 127))


def test_supports_only_what_the_kernels_take():
    x = torch.zeros(3)
    assert kernels.supports(x)
    assert not kernels.supports(x.double())
    assert not kernels.supports(x.half())
    assert not kernels.supports(torch.zeros(3, device="meta"))
    tracked = torch.zeros(3, requires_grad=True)
    assert not kernels.supports(tracked)
    with torch.no_grad():
        assert kernels.supports(tracked)


# look-up


def gathered(x, table, scale, zero_point, qmin):
    codes = torch.round(x / scale) + (zero_point - qmin)
    codes = codes.clamp(0, table.shape[1] - 1).long()
    rows = codes.transpose(0, 1).flatten(1)  # (C, N * ...)
    moved = x.transpose(0, 1)
    return table.gather(1, rows).reshape(moved.shape).transpose(0, 1)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 1, 1), (2, 3), (3, 3, 7), (1, 3, BLOCK + 7)])
@pytest.mark.parametrize(("levels", "qmin", "zero"), [(256, -128, 0), (256, 0, 85), (16, -8, 3)])
def test_lookup_is_a_gather_from_the_table(shape, levels, qmin, zero):
    x, table = noise(*shape, spread=levels / 3), noise(3, levels)
    expected = gathered(x, table, 0.7, zero, qmin)
    assert torch.equal(bits(kernels.lookup_(x.clone(), table, 0.7, zero, qmin)), bits(expected))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30), st.floats(2.0**-23, 1e3, width=32))
def test_lookup_of_any_value_stays_inside_its_channel_s_row(values, scale):
    x = torch.tensor(values, dtype=torch.float32).expand(2, 3, -1)
    table = torch.arange(3)[:, None] * 1000.0 + torch.arange(256)  # row and column can be read off
    found = kernels.lookup_(x, table, scale, 0, -128)
    assert torch.equal(found, gathered(x, table, scale, 0, -128))


def test_lookup_never_leaves_the_table():
    x = torch.tensor([math.inf, -math.inf, 3.4e38, -3.4e38, math.nan, -math.nan]).expand(1, 2, -1)
    table = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    found = kernels.lookup_(x, table, 0.5, 0, -2)
    assert found[0, :, :4].tolist() == [[4, 1, 4, 1], [8, 5, 8, 5]]
    assert found[0, :, 4:].isnan().all()  # as without a table: broken values stay visible


@pytest.mark.parametrize(
    "view", [lambda x: x.transpose(2, 3), lambda x: x.contiguous(memory_format=torch.channels_last)]
)
def test_lookup_of_any_layout(view):
    x, table = view(noise(2, 3, 4, 5)), noise(3, 256)
    before = x.clone()
    found = kernels.lookup_(x, table, 0.4, 0, -128)
    assert torch.equal(found, gathered(before, table, 0.4, 0, -128))
    assert torch.equal(x, before)  # a copy was needed


def test_lookup_overwrites_a_contiguous_tensor():
    x, table = noise(2, 3, 4), noise(3, 256)
    expected = gathered(x, table, 0.4, 0, -128)
    found = kernels.lookup_(x, table, 0.4, 0, -128)
    assert found.data_ptr() == x.data_ptr()
    assert torch.equal(x, expected)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 0, 4)])
def test_lookup_of_nothing(shape):
    assert kernels.lookup_(torch.empty(shape), noise(shape[1], 256), 1.0, 0, -128).shape == shape


def test_pytorch_keeps_its_number_of_threads():
    code = "import torch, quantsam.quant.kernels; print(torch.get_num_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout.split() == ["1"]
