"""Distributions of every site, against NumPy on the very same values."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from quantsam.diagnostics.observed import (
    Distributions,
    observe_distributions,
    save_histograms,
    site_names,
)
from quantsam.diagnostics.site_meter import MOST_BINS, SiteMeter, bins_for, compare, shown_bins
from quantsam.errors import CalibrationError, ImageError, InputError, PlanError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import copy_encoder
from quantsam.models.variants import get_variant
from quantsam.plans.calibration import calibrate
from quantsam.plans.layers import discover_layers
from quantsam.plans.make import make_plan
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.plans.transforms import transformed
from quantsam.prediction.transforms import preprocess
from quantsam.quant.params import QParams, TensorSpec
from quantsam.quant.quantizers import fake_quantize
from quantsam.quant.ranges import grid_range
from quantsam.schemes.load import parse_scheme

STAGES = {  # every kind of grid, in one model
    "stage0": 'weight = "int8"\nactivation = "int8"',
    "stage1": 'weight = "int4"\nactivation = "int16"',
    "stage2": 'weight = "uint8"\nactivation = "uint8"',
    "stage3": 'weight = "fp8_e4m3"\nactivation = "fp8_e5m2"',
    "stage4": 'weight = "int8"\nactivation = { format = "int8", per_channel = true }',
}
MIXED = parse_scheme(
    "\n".join(f'[[rules]]\nselect = {{ stage = "{stage}" }}\n{rule}' for stage, rule in STAGES.items())
    + '\n[[rules]]\nselect = { kind = "attention" }\nactivation = { format = "uint4", quantizer = "log2" }\n',
    "mixed",
)  # the neck stays in float


def pictures(count, seed=7, hw=(40, 64)):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for _ in range(count)]


@dataclasses.dataclass
class Look:
    """What was measured, and the very values that were: (C, n) of each site."""

    plan: Plan
    seen: Distributions
    truth: dict[str, torch.Tensor]

    def __post_init__(self):
        self.summaries = {summary.site: summary for summary in self.seen.summaries()}


def look(model, scheme="int8", placement="thesis", images=None):
    plan = calibrate(model, make_plan(model, scheme, placement), pictures(2, seed=1))
    kept, observe = {}, SiteMeter.observe

    def keep(meter, x):
        kept.setdefault(meter.site, []).append(x.detach().clone())
        observe(meter, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiteMeter, "observe", keep)
        seen = observe_distributions(model, plan, images or pictures(2))
    return Look(plan, seen, {site: torch.cat(parts).transpose(0, 1).flatten(1) for site, parts in kept.items()})


@pytest.fixture(scope="module")
def mixed(tiny):
    return look(tiny, MIXED)


@pytest.fixture(scope="module")
def openvino(tiny):
    return look(tiny, placement="openvino")


@pytest.fixture(params=["mixed", "openvino"])
def any_look(request):
    return request.getfixturevalue(request.param)


def test_what_is_seen_are_all_tensors_of_the_float_model(tiny, any_look):
    """By hooks on the model itself; runs of one model may differ in the last bit."""
    placement = any_look.plan.placement
    encoder = copy_encoder(transformed(tiny.float_encoder, get_placement(placement).transforms)).eval()
    found, rows = {}, {}
    for layer in discover_layers(encoder):
        for site in layer.sites:
            key, module = f"{layer.address}/{site.name}", encoder.get_submodule(site.path)
            if site.role == "weight":
                rows[key] = module.weight.detach().flatten(1)
            else:
                found[key] = []
                module.register_forward_hook(lambda m, i, out, key=key: found[key].append(out.clone()))
    with torch.inference_mode():
        for image in pictures(2):
            encoder(preprocess(image, 64))
    rows |= {key: torch.cat(seen).transpose(0, 1).flatten(1) for key, seen in found.items()}
    assert [meter.site for meter in any_look.seen.meters] == site_names(tiny, placement)
    assert any_look.truth.keys() == rows.keys() == any_look.summaries.keys()
    for key, values in rows.items():
        torch.testing.assert_close(any_look.truth[key], values, rtol=1e-3, atol=1e-4)


def test_every_site_has_numpys_histogram_of_every_channel(any_look):
    for meter in any_look.seen.meters:
        rows = any_look.truth[meter.site]
        assert meter.counts.shape == (len(rows), bins_for(len(rows)))
        for channel in range(0, len(rows), 1 + len(rows) // 8):
            top = 2.0 ** int(meter.histogram.exponents[channel])
            edges = np.linspace(-top, top, meter.counts.shape[1] + 1)  # powers of two over powers of two: exact
            expected, _ = np.histogram(rows[channel].double().numpy(), edges)
            assert meter.counts[channel].tolist() == expected.tolist()
            most = float(rows[channel].abs().max())
            assert (top / 2 if most else 0) <= most < top  # a channel may be all zeros
        low, high = meter.histogram.range()
        assert torch.equal(low, rows.amin(1))
        assert torch.equal(high, rows.amax(1))


def beyond(rows, site):
    """How many of (C, n) are further than half a step outside of the grid, from the definition and in float64."""
    fmt, scale = site.spec.fmt, site.params.scale.double().reshape(-1, 1)
    steps = rows.double() / scale
    if site.spec.quantizer == "log2":
        return ((steps > math.sqrt(2)) | (steps < -(2 ** -(2**fmt.num_bits - 0.5)))).sum(1)
    half = {"fp8_e4m3": 16, "fp8_e5m2": 4096}.get(fmt.name, 0.5) + (fmt.qmax - fmt.qmin) * 2**-22
    codes = steps + site.params.zero_point.reshape(-1, 1)
    return ((codes > fmt.qmax + half) | (codes < fmt.qmin - half)).sum(1)


def test_clipped_values_and_noise_are_those_counted_directly(any_look):
    meters = {meter.site: meter for meter in any_look.seen.meters}
    total = 0
    for site in any_look.plan.sites:
        rows, found = any_look.truth[site.key], any_look.summaries[site.key]
        clipped = beyond(rows, site)
        assert meters[site.key].clipped.tolist() == clipped.tolist(), site.key
        total += int(clipped.sum())
        assert found.clipped == pytest.approx(int(clipped.sum()) / rows.numel(), rel=1e-5)
        assert (found.format, found.per_channel) == (site.spec.format, site.spec.per_channel)
        params = QParams(site.params.scale, site.params.zero_point, None if site.params.axis is None else 0)
        noise = (fake_quantize(rows, site.spec, params).double() - rows.double()).square().sum()
        expected = 10 * math.log10(rows.double().square().sum() / noise)
        assert found.sqnr_db == pytest.approx(expected, rel=1e-4), site.key
        low, high = grid_range(site.spec, site.params)
        assert (found.grid_low, found.grid_high) == pytest.approx((low.min().item(), high.max().item()), rel=1e-5)
        for outlier in found.outliers:
            assert outlier.clipped == pytest.approx(int(clipped[outlier.index]) / rows.shape[1], rel=1e-5)
    assert total > 0, "else nothing was tested"


def test_what_a_scheme_leaves_in_float_is_seen_all_the_same(any_look):
    quantized = {site.key for site in any_look.plan.sites}
    left = [site for key, site in any_look.summaries.items() if key not in quantized]
    assert len(left) > 20
    for site in left:
        grid = (site.format, site.clipped, site.sqnr_db, site.grid_low, site.grid_high)
        assert grid == (None,) * 5
        assert not site.per_channel
        assert all(outlier.clipped is None for outlier in site.outliers)
        assert sum(site.bins.counts) == site.values > 0


def test_numbers_of_a_site_agree_with_each_other_and_with_its_values(any_look):
    for key, site in any_look.summaries.items():
        rows = any_look.truth[key]
        largest = rows.abs().amax(1).double().numpy()
        assert (site.site, site.layer) == (key, key.split("/")[0])
        assert (site.values, len(site.channel_lows), len(site.channel_highs)) == (rows.numel(), len(rows), len(rows))
        assert (site.low, site.high) == pytest.approx((rows.min().item(), rows.max().item()), rel=1e-5)
        np.testing.assert_allclose(site.channel_lows, rows.amin(1), rtol=6e-3)
        np.testing.assert_allclose(site.channel_highs, rows.amax(1), rtol=6e-3)
        ratios = largest / np.median(largest)
        assert [outlier.ratio for outlier in site.outliers] == pytest.approx(sorted(ratios)[:-5:-1], rel=1e-5)
        assert [outlier.ratio for outlier in site.outliers] == pytest.approx(
            [ratios[outlier.index] for outlier in site.outliers], rel=1e-5
        )
        assert site.outlier_ratio == site.outliers[0].ratio
        assert all(sum(outlier.bins.counts) == rows.shape[1] for outlier in site.outliers)


def filled(*batches, spec=None, params=None):
    meter = SiteMeter("stage0:0:0/act", "conv", "activation", spec, params)
    for batch in batches:
        meter.observe(batch)
    return meter


SPEC = TensorSpec("int8", "minmax", symmetric=True, per_channel=True)
GRID = QParams(torch.linspace(0.005, 0.02, 6), torch.zeros(6, dtype=torch.int32), 1)
STREAM = torch.randn(7, 6, 5, 4, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 7).reshape(
    7, 1, 1, 1
)


@pytest.mark.parametrize("sizes", [(7,), (1,) * 7, (3, 4), (1, 5, 1)])
def test_the_cut_into_batches_changes_nothing(sizes):
    once = filled(STREAM, spec=SPEC, params=GRID)
    cut = filled(*STREAM.split(sizes), spec=SPEC, params=GRID)
    assert torch.equal(once.counts, cut.counts)
    assert torch.equal(once.clipped, cut.clipped)
    assert int(once.clipped.sum()) > 0
    assert once.summary() == cut.summary()


@pytest.mark.parametrize("channels", [1, 6])
def test_compiled_and_plain_comparison_are_the_same(channels):
    rows = STREAM.transpose(0, 1).flatten(1)
    rounded, low, high = rows.round(), -torch.rand(channels), torch.rand(channels)
    sums, beyond = compare(rows, rounded, low, high)
    plain_sums, plain_beyond = compare(rows.double(), rounded.double(), low, high)  # the kernel takes float32 alone
    torch.testing.assert_close(sums, plain_sums, rtol=1e-6, atol=0)
    assert torch.equal(beyond, plain_beyond)
    assert 0 < int(beyond.sum()) < rows.numel()


def test_the_images_of_a_model_may_be_batched(tiny, mixed):
    images = pictures(3)
    single = observe_distributions(tiny, mixed.plan, images)
    batched = observe_distributions(tiny, mixed.plan, [torch.cat([preprocess(image, 64) for image in images])])
    assert single.images == batched.images == 3
    for one, other in zip(single.meters, batched.meters, strict=True):
        assert one.values == other.values
        for mine, its in zip(one.histogram.range(), other.histogram.range(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)


def test_the_tensors_histogram_is_the_sum_of_its_channels(mixed):
    for meter in mixed.seen.meters:
        values = mixed.truth[meter.site].double().numpy()
        whole = meter.histogram.total()
        edges = (np.arange(whole.counts.shape[1] + 1) - whole.counts.shape[1] // 2) * float(whole.bin_width())
        assert whole.counts[0].tolist() == np.histogram(values, edges)[0].tolist()
        shown = mixed.summaries[meter.site].bins
        assert 1 <= len(shown.counts) <= MOST_BINS
        edges = shown.start + shown.width * np.arange(len(shown.counts) + 1)
        assert list(shown.counts) == np.histogram(values, edges)[0].tolist()


def test_shown_bins_begin_and_end_filled_and_pairs_are_added_where_there_are_many():
    counts = torch.zeros(1024, dtype=torch.int64)
    counts[[512, 600, 700]] = torch.tensor([3, 1, 5])
    shown = shown_bins(counts, 0.5)
    assert (shown.start, shown.width) == (0.0, 1.0)  # 189 bins of 0.5 are too many
    assert [(i, n) for i, n in enumerate(shown.counts) if n] == [(0, 3), (44, 1), (94, 5)]
    counts[:] = 1
    assert shown_bins(counts, 0.5).counts == (8,) * 128
    alone = torch.tensor([0, 0, 0, 0, 0, 9, 0, 0])
    assert dataclasses.astuple(shown_bins(alone, 2.0)) == (2.0, 2.0, (9,))


def test_a_planted_outlier_channel_ranks_first(make_tiny):
    model = make_tiny(3)
    before = look(model).summaries
    model.float_encoder.get_submodule("backbone.stages.1.op_list.0.main.spatial_conv.norm").weight[5] *= 512
    after = look(model).summaries
    worst = max(after.values(), key=lambda site: site.outlier_ratio or 0)
    assert worst.layer == "stage1:0:0"
    assert worst.outliers[0].index == 5
    assert worst.outliers[0].ratio > 4 * worst.outliers[1].ratio
    assert worst.outlier_ratio > 50 * before[worst.site].outlier_ratio


def test_most_channels_dead_have_no_ratio():
    x = torch.zeros(1, 5, 4)
    x[0, 0] = 1
    found = filled(x).summary()
    assert (found.outlier_ratio, found.outliers) == (None, ())
    assert found.channel_highs == (1.0, 0.0, 0.0, 0.0, 0.0)


def test_what_rounding_does_not_change_has_no_sqnr():
    grid = QParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), None)
    spec = dataclasses.replace(SPEC, per_channel=False)
    on_grid = torch.tensor([[[0.5, -1.0, 3.0]]])
    assert filled(on_grid, spec=spec, params=grid).summary().sqnr_db is None
    assert filled(on_grid + 0.125, spec=spec, params=grid).summary().sqnr_db == pytest.approx(22.7, abs=1)


def test_memory_does_not_grow_with_the_images(tiny, mixed):
    many = observe_distributions(tiny, mixed.plan, pictures(6))
    assert many.images == 3 * mixed.seen.images
    assert many.state_bytes() == mixed.seen.state_bytes()
    least = sum(meter.counts.numel() * 8 for meter in many.meters)
    assert least < many.state_bytes() < 1.1 * least


def test_the_largest_model_fits_into_memory():
    with torch.device("meta"):
        encoder = ImageEncoder(get_variant("xl1")).eval()
        image = torch.empty(1, 3, 1024, 1024)
    channels = []
    for layer in discover_layers(encoder):
        for site in layer.sites:
            module = encoder.get_submodule(site.path)
            if site.role == "weight":
                channels.append(len(module.weight))
            else:
                module.register_forward_hook(lambda m, i, out: channels.append(out.shape[1]))
    encoder(image)
    assert len(channels) > 600
    assert 8 * sum(count * bins_for(count) for count in channels) < 0.6 * 2**30


def test_the_file_holds_every_channel(mixed, tmp_path):
    save_histograms(mixed.seen, tmp_path / "h.npz")
    with np.load(tmp_path / "h.npz", allow_pickle=False) as file:
        assert len(file.files) == 4 * len(mixed.seen.meters)
        for meter in mixed.seen.meters:
            low, high = meter.histogram.range()
            kept = {"counts": meter.counts, "exponents": meter.histogram.exponents, "lows": low, "highs": high}
            for name, tensor in kept.items():
                array = file[f"{meter.site}.{name}"]
                assert array.dtype == tensor.numpy().dtype
                assert np.array_equal(array, tensor.numpy())


def test_the_model_and_the_plan_are_left_alone_and_progress_is_told_the_number(tiny, mixed):
    told = []

    def progress(images, total):
        told.append(total)
        return images

    digest, keys, weights = mixed.plan.digest, list(tiny.state_dict()), tiny.weights_digest()
    observe_distributions(tiny, mixed.plan, pictures(2), progress=progress).summaries()
    observe_distributions(tiny, mixed.plan, iter(pictures(1)), progress=progress).summaries()
    assert told == [2, None]
    assert (mixed.plan.digest, list(tiny.state_dict()), tiny.weights_digest()) == (digest, keys, weights)


def refuses(error, words, model, plan, images):
    with pytest.raises(error, match=words) as caught:
        observe_distributions(model, plan, images).summaries()
    assert "\n" not in str(caught.value)


def test_plans_that_cannot_be_looked_at(tiny, make_tiny, mixed):
    bare = make_plan(tiny, "int8")
    refuses(PlanError, f"must be calibrated, got {len(bare.sites)} sites", tiny, bare, pictures(1))
    refuses(PlanError, "was made for encoder weights", make_tiny(8), mixed.plan, pictures(1))


def test_images_that_cannot_be_looked_at(tiny, tmp_path, mixed):
    plan = mixed.plan
    refuses(CalibrationError, "at least one image, got none: ", tiny, plan, [])
    refuses(InputError, r"got the single 'scenes:4': .*open_images", tiny, plan, "scenes:4")
    refuses(ImageError, "absent.png", tiny, plan, [tmp_path / "absent.png"])
    bad = torch.randn(1, 3, 64, 64)
    bad[0, 1, 3, 3] = float("nan")
    refuses(CalibrationError, "values of stage0:0:0/input must be finite, got nan .*images", tiny, plan, [bad])


def test_weights_that_are_not_finite_are_found_before_an_image_is_read(make_tiny):
    model = make_tiny(4)
    model.float_encoder.get_submodule("backbone.stages.0.op_list.0.conv").weight[0, 0, 0, 0] = float("inf")

    def images():
        pytest.fail("weights come first")
        yield

    plan = make_plan(model, "fp32")
    refuses(
        CalibrationError, "values of stage0:0:0/weight must be finite, got .* inf: the weights", model, plan, images()
    )


def test_positions_that_stand_out_are_told_of_the_worst_image():
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(3, 8, 16, 16, generator=generator) + 0.5
    images[1, 5, 4, 7] = 300.0
    meter = filled(images)
    reach = images[1].abs().amax(0)
    assert meter.summary().position_ratio == pytest.approx(float(reach.max() / reach.median()), rel=1e-5)
    assert meter.summary().position_ratio > 100
    assert filled(images[:1]).summary().position_ratio < 2
    assert filled(torch.zeros(1, 8, 4, 4)).summary().position_ratio is None


def test_weights_and_attention_have_no_positions(mixed):
    for site in mixed.summaries.values():
        told = site.role == "activation" and site.kind != "attention"
        assert (site.position_ratio is not None) == told, site.site
