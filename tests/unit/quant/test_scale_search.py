import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsam.quant.histogram import Histogram
from quantsam.quant.observers import make_observer
from quantsam.quant.params import TensorSpec
from quantsam.quant.quantizers import fake_quantize
from quantsam.quant.scale_search import omse_range

SPECS = st.builds(
    TensorSpec,
    st.sampled_from(["int4", "uint4", "int8", "uint8", "int3"]),
    st.just("omse"),
    st.booleans(),
    st.just(False),
)


def squared_error(x, spec, params):
    return (fake_quantize(x, spec, params) - x).double().square().sum().item()


def found(name, x, spec, axis=None):
    observer = make_observer(name, axis)
    observer.observe(x)
    return observer.params(spec)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(SPECS, st.integers(0, 1000), st.floats(1e-4, 1e4), st.floats(-2, 2), st.floats(0.5, 3))
def test_omse_never_errs_more_than_minmax(spec, seed, size, shift, power):
    x = normal(seed, 1, 3000)
    x = (x.sign() * x.abs() ** power + shift) * size
    omse, minmax = (squared_error(x, spec, found(name, x, spec)) for name in ("omse", "minmax"))
    assert omse <= minmax * 1.02  # the search sees bins, not values


@pytest.mark.parametrize("fmt", ["int8", "uint8", "int4", "uint4"])
def test_omse_is_clearly_better_with_outliers(fmt):
    x = normal(0, 1, 400_000)
    x[0, 0] = 30.0
    spec = TensorSpec(fmt, "omse", fmt[0] == "i", False)
    omse, minmax = (squared_error(x, spec, found(name, x, spec)) for name in ("omse", "minmax"))
    assert omse < 0.7 * minmax


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("fmt", ["int4", "int8"])
def test_omse_is_the_best_of_its_ninety_ranges(fmt, symmetric):
    x = normal(3, 1, 5000) ** 3
    spec = TensorSpec(fmt, "omse", symmetric, False)
    whole = Histogram()
    whole.add(x)
    low, high = whole.range()
    shrinks = [
        squared_error(x, spec, found("minmax", (x.clamp(low * s, high * s)), spec))
        for s in (1 - 0.01 * step for step in range(90))
    ]
    assert squared_error(x, spec, found("omse", x, spec)) <= min(shrinks) * 1.02
    assert min(shrinks) < 0.99 * shrinks[0]  # else nothing was to be found


def test_omse_only_shrinks_and_by_whole_hundredths():
    whole = Histogram()
    whole.add(normal(5, 4, 3000) * torch.tensor([[1.0], [7.0], [0.01], [1e4]]))
    low, high = omse_range(whole, TensorSpec("int4", "omse", True, True))
    kept_low, kept_high = low / whole.range()[0], high / whole.range()[1]
    torch.testing.assert_close(kept_low, kept_high)
    assert (kept_high <= 1).all()
    assert (kept_high >= 0.1).all()
    torch.testing.assert_close((kept_high * 100).round(), kept_high * 100, atol=1e-3, rtol=0)


def test_omse_keeps_the_whole_range_of_what_fits():
    x = torch.linspace(-1, 1, 4097)[None]  # uniform: clipping costs more than it gains
    spec = TensorSpec("int8", "omse", True, False)
    assert found("omse", x, spec).scale == found("minmax", x, spec).scale


def test_omse_shrinks_down_to_eleven_hundredths():
    x = torch.cat([normal(6, 1, 200_000) / 1000, torch.ones(1, 1)], 1)
    spec = TensorSpec("int2", "omse", True, False)  # the lone 1 costs nearly nothing, the step everything
    x[0, :150_000] = 0.07
    assert found("omse", x, spec).scale.item() == pytest.approx(0.11 / 1.5)


def test_omse_of_zeros():
    spec = TensorSpec("int8", "omse", True, False)
    assert found("omse", torch.zeros(2, 3), spec).scale == torch.finfo(torch.float32).eps


def test_omse_searches_small_channels_beside_large_ones():
    shape = normal(1, 1, 1, 4000) ** 3
    sizes = torch.tensor([1e-5, 1e-3, 1.0, 1e3]).reshape(1, 4, 1)
    spec = TensorSpec("int8", "omse", True, True)
    scales = found("omse", shape * sizes, spec, 1).scale
    torch.testing.assert_close(scales / sizes.flatten(), scales[2].expand(4), rtol=0.03, atol=0)
    minmax = found("minmax", shape * sizes, spec, 1)
    for i in range(4):
        x = (shape * sizes)[:, i : i + 1]
        alone = TensorSpec("int8", "omse", True, False)
        assert squared_error(x, alone, found("omse", x, alone)) <= squared_error(
            x, alone, type(minmax)(minmax.scale[i], minmax.zero_point[i], None)
        )


def test_omse_of_many_channels_is_channel_by_channel():
    x = normal(8, 1, 300, 40) ** 3  # more than one chunk of the search
    spec = TensorSpec("int4", "omse", True, True)
    together = found("omse", x, spec, 1).scale
    for i in (0, 255, 256, 299):
        assert found("omse", x[:, i : i + 1], spec, 1).scale.item() == pytest.approx(together[i].item(), rel=0.03)


# power-of-two factors


@pytest.mark.parametrize("symmetric", [True, False])
def test_ptf_finds_the_factors_of_channels(symmetric):
    factors = torch.tensor([1.0, 2.0, 4.0, 8.0, 2.0])
    x = (torch.rand(3, 5, 6000, generator=torch.Generator().manual_seed(0)) * 2 - 1) * factors[:, None]
    spec = TensorSpec("int8", "ptf", symmetric, True)
    params = found("ptf", x, spec, 1)
    finest = found("minmax", x, TensorSpec("int8", "minmax", symmetric, False)).scale / 8
    assert torch.equal(params.scale, finest * factors)
    assert params.axis == 1
    assert params.zero_point.shape == (5,)
    assert len(params.zero_point.unique()) == 1


def test_ptf_factors_are_1_2_4_and_8_and_nothing_else():
    x = normal(2, 1, 6, 5000) * torch.tensor([1e-4, 0.1, 1.0, 3.0, 30.0, 300.0])[:, None]
    spec = TensorSpec("int8", "ptf", True, True)
    scales = found("ptf", x, spec, 1).scale
    finest = found("minmax", x, TensorSpec("int8", "minmax", True, False)).scale / 8
    assert (scales / finest).tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 8.0]


@settings(max_examples=20)
@given(st.integers(0, 1000), st.booleans(), st.lists(st.floats(0.05, 8), min_size=1, max_size=5))
def test_ptf_never_errs_more_than_one_scale_for_all(seed, symmetric, sizes):
    x = normal(seed, 1, len(sizes), 2000) * torch.tensor(sizes)[:, None]
    spec = TensorSpec("int8", "ptf", symmetric, True)
    ptf = squared_error(x, spec, found("ptf", x, spec, 1))
    whole = squared_error(x, spec, found("minmax", x, TensorSpec("int8", "minmax", symmetric, False)))
    assert ptf <= whole * 1.05  # the search sees bins, not values


def test_ptf_on_the_last_axis():
    factors = torch.tensor([8.0, 1.0])
    x = (torch.rand(2, 3000, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1) * factors
    for axis in (2, -1):
        scale = found("ptf", x, TensorSpec("uint8", "ptf", False, True), axis).scale
        assert (scale[0] / scale[1]).item() == 8
