import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsam.errors import CalibrationError, SchemeError
from quantsam.quant.observers import OBSERVERS, make_observer
from quantsam.quant.params import TensorSpec
from quantsam.quant.quantizers import params_from_range

CASES = [(name, axis) for name in OBSERVERS for axis in (None, 1, 2, 3, -1) if not (name == "ptf" and axis is None)]
SHAPE = (7, 3, 4, 5)


def spec(fmt="int8", *, symmetric=True, per_channel=False):
    return TensorSpec(fmt, "minmax", symmetric, per_channel)


def stream(seed=0, shape=SHAPE):
    """Samples of different sizes: a range that moves."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp2(torch.randint(-4, 5, shape[:1], generator=generator).float())
    return torch.randn(shape, generator=generator) * sizes.reshape(-1, *[1] * (len(shape) - 1))


def fed(name, axis, *batches):
    observer = make_observer(name, axis)
    for batch in batches:
        observer.observe(batch)
    return observer


def same(a, b):
    assert a.count == b.count
    for x, y in zip(state(a), state(b), strict=True):
        assert x.shape == y.shape
        assert torch.equal(x, y)


def state(observer):
    """All that a grid is made from: searching one is slow."""
    histogram = getattr(observer, "histogram", None)
    return (*observer.range(), *((histogram.counts, histogram.centres()) if histogram else ()))


@pytest.mark.parametrize(("name", "axis"), CASES)
@settings(max_examples=8)
@given(st.integers(0, 3), st.lists(st.integers(0, SHAPE[0]), max_size=3))
def test_the_cut_into_batches_changes_nothing(name, axis, seed, cuts):
    x = stream(seed)
    parts = torch.tensor_split(x, sorted(cuts))  # some are empty
    same(fed(name, axis, *parts), fed(name, axis, x))


@pytest.mark.parametrize(("name", "axis"), CASES)
@settings(max_examples=8)
@given(st.integers(0, 3), st.integers(0, SHAPE[0]), st.integers(0, SHAPE[0]))
def test_merging_is_seeing_one_part_after_the_other(name, axis, seed, a, b):
    x, (a, b) = stream(seed), sorted((a, b))
    merged = fed(name, axis, x[:a])
    merged.merge(fed(name, axis, x[a:b]))
    merged.merge(fed(name, axis, x[b:]))
    same(merged, fed(name, axis, x))
    right = fed(name, axis, x[a:b])
    right.merge(fed(name, axis, x[b:]))
    left = fed(name, axis, x[:a])
    left.merge(right)  # grouped the other way
    same(left, merged)


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_merging_leaves_the_other_alone_and_can_go_on(name, axis):
    x = stream()
    first, second = fed(name, axis, x[:2]), fed(name, axis, x[2:4])
    empty = make_observer(name, axis)
    empty.merge(second)
    empty.observe(x[4:])
    first.merge(second)
    first.observe(x[4:])
    same(second, fed(name, axis, x[2:4]))
    same(empty, fed(name, axis, x[2:]))
    same(first, fed(name, axis, x))


@pytest.mark.parametrize("name", sorted(OBSERVERS.keys() - {"ptf"}))  # whose channels share a scale
@pytest.mark.parametrize("axis", [1, 2, 3, -1, -2])
def test_per_channel_is_channel_by_channel(name, axis):
    x = stream()
    together = fed(name, axis, x)
    low, high = together.range()
    params = together.params(spec(per_channel=True))
    assert low.shape == high.shape == params.scale.shape == (x.shape[axis],)
    assert params.axis == axis
    for i in range(x.shape[axis]):
        alone = fed(name, None, x.select(axis, i))
        assert torch.equal(torch.stack(alone.range()), torch.stack((low[i], high[i])))
        # the histogram of one row has more bins: `omse` may choose the neighbouring one of its 90 ranges
        tolerance = {"rtol": 0.03, "atol": 0.0} if name == "omse" else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(alone.params(spec()).scale, params.scale[i], **tolerance)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2)])
def test_few_dimensions(name, shape):
    x = stream(shape=shape)
    assert fed(name, 1, x).params(spec()).scale.shape == (3,)
    if name != "ptf":
        assert fed(name, None, x).params(spec()).scale.shape == ()
        assert fed(name, None, x[:, 0]).params(spec()).scale.shape == ()  # a number a sample


# what each one finds


@pytest.mark.parametrize("axis", [None, 1, 3])
def test_minmax_keeps_the_extremes(axis):
    x = stream()
    low, high = fed("minmax", axis, x[:3], x[3:]).range()
    rest = [d for d in range(4) if d != axis] if axis else [0, 1, 2, 3]
    assert torch.equal(low, x.amin(rest))
    assert torch.equal(high, x.amax(rest))


def test_ema_by_hand():
    observer = fed("ema", None, torch.tensor([[-1.0, 4.0]]))
    assert [v.item() for v in observer.range()] == [-1.0, 4.0]  # the first sets
    observer.observe(torch.tensor([[-3.0, 2.0]]))  # later ones move by a hundredth of the difference
    assert [v.item() for v in observer.range()] == pytest.approx([-1.02, 3.98])
    observer.observe(torch.tensor([[-1.02, 103.98]]))
    assert [v.item() for v in observer.range()] == pytest.approx([-1.02, 4.98])
    assert observer.params(spec()).scale.item() == pytest.approx(4.98 / 127.5)


def test_ema_does_not_touch_what_it_was_shown():
    x = stream()
    before = x.clone()
    for axis in (None, 1):
        fed("ema", axis, x, x)
    two = stream(shape=(4, 3))
    kept = two.clone()
    fed("ema", 1, two, two)
    assert torch.equal(x, before)
    assert torch.equal(two, kept)


@pytest.mark.parametrize("size", [1, 2, 100, 99_999, 100_001, 250_000])
def test_percentile_is_pytorch_s_quantile_of_a_sample(size):
    x = torch.randn(1, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    low, high = fed("percentile", None, x).range()
    assert high.item() == pytest.approx(torch.quantile(x, 0.99999).item(), rel=1e-9)
    assert low.item() == pytest.approx(torch.quantile(x, 0.00001).item(), rel=1e-9)
    if size > 100_000:
        assert high < x.max()


def test_percentile_per_channel_and_its_moving_average():
    x = torch.randn(2, 3, 150_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    high = torch.quantile(x, 0.99999, dim=2)
    expected = high[0] + 0.01 * (high[1] - high[0])
    torch.testing.assert_close(fed("percentile", 1, x).range()[1], expected)


def test_omse_by_hand_clips_a_lone_outlier():
    x = torch.cat([torch.linspace(-1, 1, 100_001), torch.tensor([2.0])])[None]
    scale = fed("omse", None, x).params(spec("int4")).scale.item()
    assert 0.9 / 7.5 < scale < 1.15 / 7.5


# what cannot be used


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_having_seen_nothing_is_an_error(name, axis):
    observer = make_observer(name, axis)
    observer.merge(make_observer(name, axis))
    observer.observe(torch.empty(0, 3, 4, 5))
    assert observer.count == 0
    for ask in (observer.range, lambda: observer.params(spec())):
        with pytest.raises(CalibrationError) as caught:
            ask()
        assert str(caught.value) == "an observer must see at least one sample, got none: calibrate with images"


@pytest.mark.parametrize(("name", "axis"), CASES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 2, 6])
def test_a_value_that_is_not_finite_is_never_forgotten(name, axis, value, where):
    x = stream()
    x[where, 1, 2, 3] = value
    observer = fed(name, axis, x[:3], x[3:])
    low, high = observer.range()
    assert not (torch.isfinite(low).all() and torch.isfinite(high).all())
    with pytest.raises(
        CalibrationError, match=r"^calibration values must be finite, got .*: check the images and the w"
    ):
        observer.params(spec())
    later = fed(name, axis, stream())
    later.merge(observer)
    with pytest.raises(CalibrationError):
        later.params(spec())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_percentile_does_not_step_over_what_is_not_finite(value):
    x = torch.zeros(1, 500_000)  # the quantile is the sixth largest value here
    x[0, 77] = value
    with pytest.raises(CalibrationError):
        fed("percentile", None, x).params(spec())


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(SchemeError, match=r"must be one of minmax, ema, percentile, omse, ptf, got 'min_max': did you"):
        make_observer("min_max")


def test_ptf_needs_channels():
    with pytest.raises(SchemeError, match=r"'ptf' must be per channel, got per tensor: set per_channel = true"):
        make_observer("ptf")


# how they are used


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_no_gradient_is_kept(name, axis):
    observer = fed(name, axis, *stream().requires_grad_().split(2))
    assert not any(value.requires_grad for value in observer.range())
    assert not observer.params(spec()).scale.requires_grad
    same(observer, fed(name, axis, stream()))


@pytest.mark.parametrize(("name", "axis"), CASES)
def test_what_was_observed_under_inference_mode_can_be_used_outside(name, axis):
    x = stream()
    with torch.inference_mode():
        observer = fed(name, axis, x[:3])
        later = fed(name, axis, x[5:])
    observer.observe(x[3:5])
    observer.merge(later)
    same(observer, fed(name, axis, x))


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("name", ["minmax", "ema", "percentile"])
def test_a_range_becomes_a_grid(name, axis):
    observer = fed(name, axis, stream())
    asked = spec("uint4", symmetric=False)
    expected = params_from_range(*observer.range(), asked, axis)
    found = observer.params(asked)
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found.zero_point, expected.zero_point)
    assert found.axis == axis
