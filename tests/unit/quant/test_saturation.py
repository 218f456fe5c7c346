import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsam.quant.formats import get_format
from quantsam.quant.saturation import (
    LARGEST_PAIR,
    in_pairs,
    largest_pairs,
    saturating_channels,
    saturation_free_scale,
)

INT8 = get_format("int8")
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.sampled_from([1, 3]))


def weights(shape, seed):
    out, channels, kernel = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out, channels, kernel, kernel, generator=generator) ** 3


@given(SHAPES, st.integers(0, 1000), st.booleans())
def test_no_pair_is_too_large_at_the_new_scale_and_no_scale_shrinks_or_doubles(shape, seed, per_channel):
    weight = weights(shape, seed)
    largest = weight.abs().amax((1, 2, 3)) if per_channel else weight.abs().max()
    scale = (largest / 127).clamp(min=1e-6)
    safe = saturation_free_scale(weight, scale, INT8)
    assert safe.shape == scale.shape
    assert (safe >= scale).all()
    assert (safe <= 2 * scale).all()
    codes = torch.round(weight / (safe.reshape(-1, 1, 1, 1) if per_channel else safe)).clamp(-128, 127)
    assert not saturating_channels(codes).any()


@given(SHAPES, st.integers(0, 1000))
def test_a_channel_without_such_a_pair_keeps_its_scale(shape, seed):
    weight = weights(shape, seed)
    scale = (weight.abs().amax((1, 2, 3)) / 127).clamp(min=1e-6)
    kept = ~saturating_channels(torch.round(weight / scale.reshape(-1, 1, 1, 1)))
    assert torch.equal(saturation_free_scale(weight, scale, INT8)[kept], scale[kept])


def test_the_scale_is_the_least_that_is_safe():
    weight = torch.randn(32, 24, 3, 3, generator=torch.Generator().manual_seed(0))
    scale = weight.abs().amax((1, 2, 3)) / 127
    safe = saturation_free_scale(weight, scale, INT8)
    smaller = torch.where(safe > scale, safe / 1.02, scale)
    grown = safe > scale
    assert grown.sum() > 20
    unsafe = saturating_channels(torch.round(weight / smaller.reshape(-1, 1, 1, 1)))
    assert unsafe[grown].float().mean() > 0.6  # rounding may make a smaller one safe by chance


@pytest.mark.parametrize(("pair", "safe"), [
    ((127, 1), True), ((127, 2), False), ((64, 64), True), ((65, 64), False), ((-128, 0), True), ((-128, -1), False),
    ((127, -128), True),
])  # fmt: skip
def test_a_pair_is_safe_if_and_only_if_its_products_fit_16_bits(pair, safe):
    codes = torch.tensor(pair).reshape(1, 2, 1, 1)
    assert bool(saturating_channels(codes)) != safe
    reached = [a * pair[0] + b * pair[1] for a in (0, 255) for b in (0, 255)]
    assert (min(reached) >= -(2**15) and max(reached) < 2**15) == safe
    assert LARGEST_PAIR * 255 < 2**15


def test_a_depthwise_weight_has_no_pairs():
    assert largest_pairs(torch.full((4, 1, 3, 3), 127)).tolist() == [0] * 4


def test_an_odd_number_of_channels_pairs_in_two_ways():
    last = torch.arange(1, 13).reshape(2, 2, 3)
    assert in_pairs(last, "padded").tolist() == [[1, 2], [3, 0], [4, 5], [6, 0], [7, 8], [9, 0], [10, 11], [12, 0]]
    assert in_pairs(last, "running").tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]
    even = torch.arange(1, 9).reshape(2, 2, 2)
    assert torch.equal(in_pairs(even, "padded"), in_pairs(even, "running"))
