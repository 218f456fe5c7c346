import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsam.errors import CalibrationError
from quantsam.quant.histogram import _CHANNEL_BINS, _TENSOR_BINS, Histogram

# 2^k of very different sizes, so that ranges grow by any number of doublings
VALUE = st.builds(lambda m, e: m * 2.0**e, st.floats(-1, 1, width=32), st.integers(-40, 40))
ROWS = st.integers(1, 3).flatmap(
    lambda c: st.lists(st.lists(VALUE, min_size=c, max_size=c), min_size=1, max_size=30).map(
        lambda columns: torch.tensor(columns, dtype=torch.float32).T.contiguous()
    )
)


def filled(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def same(a, b):
    assert torch.equal(a.counts, b.counts)
    assert torch.equal(a.centres(), b.centres())
    for x, y in zip(a.range(), b.range(), strict=True):
        assert torch.equal(x, y)


@given(ROWS)
def test_every_value_is_counted_in_the_bin_that_holds_it(values):
    histogram = filled(values)
    centres = histogram.centres().double()
    assert histogram.counts.sum(1).tolist() == [values.shape[1]] * len(values)
    for row in range(len(values)):
        half_width = float(centres[row, 1] - centres[row, 0]) / 2
        expected = torch.zeros_like(histogram.counts[row])
        for value in values[row].double():
            expected[int(torch.searchsorted(centres[row] + half_width, value, right=True))] += 1
        assert torch.equal(histogram.counts[row], expected)


@given(ROWS, st.data())
def test_the_cut_into_batches_changes_nothing(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(1, values.shape[1]), max_size=3)))
    parts = [part for part in torch.tensor_split(values, cuts, dim=1) if part.shape[1]]
    same(filled(values), filled(*parts))


@given(ROWS, st.data())
def test_merging_is_counting_together_in_any_order(values, data):
    cut = data.draw(st.integers(0, values.shape[1]))
    first, second = (filled(*([part] if part.shape[1] else [])) for part in (values[:, :cut], values[:, cut:]))
    again = filled(*([values[:, cut:]] if cut < values.shape[1] else []))
    again.merge(first)
    first.merge(second)
    same(first, filled(values))
    same(again, filled(values))


def test_merging_leaves_the_other_alone():
    a, b = filled(torch.tensor([[1.0]])), filled(torch.tensor([[100.0]]))
    empty = Histogram()
    empty.merge(b)
    empty.add(torch.tensor([[7.0, -300.0]]))
    a.merge(b)
    same(b, filled(torch.tensor([[100.0]])))


def test_extremes_are_exact():
    low, high = filled(torch.tensor([[0.1, -0.3, 7.7], [1.1, 2.2, 3.3]])).range()
    assert low.tolist() == [torch.tensor(-0.3).item(), torch.tensor(1.1).item()]
    assert high.tolist() == [torch.tensor(7.7).item(), torch.tensor(3.3).item()]


@pytest.mark.parametrize("exponent", [-140, -126, -20, 0, 20, 127])
def test_a_power_of_two_is_inside(exponent):
    values = torch.tensor([[2.0**exponent, -(2.0**exponent)]])
    histogram = filled(values)
    centres = histogram.centres()[0]
    width = 2 * 2.0 ** (max(exponent, -127) + 1) / _TENSOR_BINS
    held = centres[histogram.counts[0] > 0].double()
    assert (held - values.double().sort().values[0]).abs().max() <= width / 2 + 1e-45


def test_the_resolution_follows_each_row():
    values = torch.stack([torch.linspace(-1e-6, 1e-6, 1000), torch.linspace(-1e6, 1e6, 1000)])
    histogram = filled(values[:, :10], values[:, 10:])
    for row, largest in enumerate((1e-6, 1e6)):
        step = (histogram.centres()[row, 1] - histogram.centres()[row, 0]).item()
        assert step <= 4 * largest / _CHANNEL_BINS
        assert (histogram.counts[row] > 0).sum() > 300


def test_memory_does_not_grow_with_the_stream():
    histogram = Histogram()
    for k in range(-60, 60):
        histogram.add(torch.randn(1, 1000, generator=torch.Generator().manual_seed(k)) * 2.0**k)
    assert histogram.counts.shape == (1, _TENSOR_BINS)
    assert histogram.counts.sum() == 120 * 1000
    assert filled(torch.ones(5, 3)).counts.shape == (5, _CHANNEL_BINS)


def test_zeros_alone_are_counted():
    histogram = filled(torch.zeros(2, 7))
    assert histogram.counts.sum(1).tolist() == [7, 7]
    histogram.add(torch.ones(2, 1))
    assert histogram.counts.sum(1).tolist() == [8, 8]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_value_that_is_not_finite_shows_in_the_range_for_good(value, where):
    broken, fine = torch.tensor([[1.0, value]]), torch.tensor([[1.0, 2.0]])
    histogram = filled(*((broken, fine) if where == "first" else (fine, broken)))
    low, high = histogram.range()
    assert not (torch.isfinite(low).all() and torch.isfinite(high).all())
    other = filled(fine)
    other.merge(histogram)
    low, high = other.range()
    assert not (torch.isfinite(low).all() and torch.isfinite(high).all())


def test_an_empty_histogram_has_no_range():
    for ask in (Histogram().range, Histogram().centres):
        with pytest.raises(CalibrationError, match="must see at least one sample, got none: calibrate with images"):
            ask()


def test_made_under_inference_mode_it_can_still_be_added_to():
    with torch.inference_mode():
        histogram = filled(torch.tensor([[1.0, 2.0]]))
    histogram.add(torch.tensor([[50.0]]))
    same(histogram, filled(torch.tensor([[1.0, 2.0, 50.0]])))


@given(ROWS)
def test_compiled_and_plain_counting_are_the_same(values):
    plain = Histogram()
    plain.add(values.double())  # the kernel takes float32 alone
    assert torch.equal(plain.counts, filled(values).counts)
    assert torch.equal(plain.exponents, filled(values).exponents)


@pytest.mark.parametrize("value", [2.0**-149, -(2.0**-149), 2.0**-126, 3.4028234663852886e38, -3.4028234663852886e38])
@pytest.mark.parametrize("company", [1.0, 3.0e38])
def test_the_smallest_and_largest_floats_find_their_bin(value, company):
    values = torch.tensor([[value, company]])
    histogram = filled(values)
    width, half = float(histogram.bin_width()), _TENSOR_BINS // 2
    expected = sorted(math.floor(v / width) + half for v in values[0].tolist())
    filled_bins = histogram.counts[0].nonzero()[:, 0]
    assert filled_bins.repeat_interleave(histogram.counts[0][filled_bins]).tolist() == expected


@given(ROWS)
def test_the_total_is_the_histogram_of_all_values_in_one_row(values):
    rows, whole = Histogram(64), Histogram(64)
    rows.add(values)
    whole.add(values.reshape(1, -1))
    same(rows.total(), whole)
    assert torch.equal(rows.total().exponents, whole.exponents)


@pytest.mark.parametrize("bins", [4, 64, 256])
def test_the_number_of_bins_may_be_chosen(bins):
    histogram = Histogram(bins)
    histogram.add(torch.tensor([[0.75, -0.25], [10.0, 3.0]]))
    assert histogram.counts.shape == (2, bins)
    assert histogram.bin_width().tolist() == [2 / bins, 32 / bins]
    merged = Histogram(bins)
    merged.merge(histogram)
    same(merged, histogram)


@pytest.mark.parametrize("bins", [0, 2, 100])
def test_bins_that_do_not_halve_are_refused(bins):
    with pytest.raises(AssertionError):
        Histogram(bins)
