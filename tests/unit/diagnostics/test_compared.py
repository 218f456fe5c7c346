"""The record of one picture's activations: what it holds, how small it is, when it is found again."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import quantsam as qs
from quantsam.diagnostics import compared
from quantsam.diagnostics.activation_maps import paired_bins, thinned
from quantsam.diagnostics.activations import SiteActivations, compare_activations, worst_sites
from quantsam.diagnostics.compared import measure_activations
from quantsam.errors import CalibrationError, InputError, PlanError
from quantsam.results.store import ResultStore


@pytest.fixture(scope="module")
def plan(tiny):
    return qs.calibrate(tiny, qs.make_plan(tiny, "int8@stage3"), qs.open_images("scenes:1:9"))


@pytest.fixture(scope="module")
def picture():
    return qs.open_dataset("scenes:1:3").image(1)


@pytest.fixture(scope="module")
def found(tiny, plan, picture):
    return compare_activations(tiny, plan, picture)


@pytest.fixture(scope="module")
def record(tiny, plan, picture):
    return measure_activations(tiny, plan, picture, "dog.png", notes={"seed": 7})


def test_a_record_says_what_was_compared_on_what(tiny, plan, record, found):
    assert (record.kind, record.model, record.prompt, record.engine) == ("activations", "nano", None, "pytorch")
    assert (record.dataset, record.calibration_digest) == ("dog.png", plan.calibration.digest)
    assert (record.scheme, record.plan_digest, record.placement) == ("int8@stage3", plan.digest, "thesis")
    assert (record.settings["seed"], record.settings["activations"]) == (7, True)
    assert record.figures["sites"] == len(record.sites) == len(found)
    assert record.figures["lowest_sqnr_db"] == pytest.approx(min(site.sqnr_db for site in found), rel=1e-5)


def test_sites_are_those_of_the_activations(record, found):
    for kept, site in zip(record.sites, found, strict=True):
        assert (kept.site, kept.kind, kept.format) == (site.site, site.kind, site.format)
        assert kept.shape == tuple(site.fp32.shape)
        assert kept.largest == pytest.approx(float(site.fp32.abs().max()), rel=1e-5)
        assert kept.largest_difference == pytest.approx(float((site.quantized - site.fp32).abs().max()), rel=1e-5)
        assert kept.sqnr_db == (None if site.sqnr_db == math.inf else pytest.approx(site.sqnr_db, rel=1e-5))
        assert list(kept.worst_channels) == site.worst_channels[:3]
    exact = [site for site in record.sites if site.rank == math.inf]
    assert exact  # stages before the third, in float
    assert all(not site.channels for site in exact)


def test_the_sites_that_differ_most_are_drawn_and_each_tensor_once(record, found):
    drawn = [site.site for site in record.worst_first if site.channels]
    worst = worst_sites(found, 6)
    assert sorted(drawn) == sorted(site.site for site in worst)
    assert [len(site.channels) for site in record.sites if site.channels] == [4] * 6
    values = {tuple(site.quantized.flatten().tolist()) for site in worst}
    assert len(values) == 6
    others = [site for site in found if site.site not in drawn]
    limit = max(site.sqnr_db for site in worst)
    assert all(s.sqnr_db >= limit or any(_same(s, w) for w in worst) for s in others)


def _same(one, other):
    return torch.equal(one.quantized.flatten(), other.quantized.flatten())


def test_of_sites_with_the_same_values_the_last_is_drawn():
    x = torch.randn(4, 2, 8)
    rounded = x.round()
    given = SiteActivations("stage1:0:0/out", "attention", None, x, rounded)
    taken = SiteActivations("stage1:0:1/input", "conv", None, x.reshape(8, 2, 4), rounded.reshape(8, 2, 4))
    better = SiteActivations("stage2:0:0/input", "conv", None, x, x + 0.001)
    assert [site.site for site in worst_sites([given, taken, better], 2)] == [taken.site, better.site]
    assert [site.site for site in worst_sites([given, taken, better], 1)] == [taken.site]


def test_maps_and_histograms_are_those_of_the_channel(record, found):
    by_name = {site.site: site for site in found}
    for kept in record.sites:
        for channel in kept.channels:
            site = by_name[kept.site]
            fp32, quantized = (x[channel.index].double().numpy() for x in (site.fp32, site.quantized))
            if fp32.ndim != 2:
                fp32, quantized = fp32.reshape(1, -1), quantized.reshape(1, -1)
            assert max(fp32.shape) <= 64  # as they are
            extent, largest = float(np.ptp(fp32)), float(np.abs(quantized - fp32).max())
            assert (channel.fp32.low, channel.fp32.high) == (fp32.min(), fp32.max())
            assert channel.difference.high == pytest.approx(largest)
            assert np.abs(channel.fp32.values - fp32).max() <= extent / 500
            assert np.abs(channel.difference.values - (quantized - fp32)).max() <= largest / 250
            inside = quantized.clip(fp32.min(), fp32.max())
            assert np.abs(channel.quantized.values - inside).max() <= extent / 200 + largest / 250
            assert channel.sqnr_db == pytest.approx(site.channel_sqnr_db[channel.index], rel=1e-5)
            assert sum(channel.bins.fp32) == sum(channel.bins.quantized) == fp32.size
            edges = channel.bins.start + channel.bins.width * np.arange(len(channel.bins.fp32) + 1)
            assert list(channel.bins.quantized) == np.histogram(quantized, edges)[0].tolist()
        assert [c.index for c in kept.channels] == by_name[kept.site].worst_channels[: len(kept.channels)]


def test_large_maps_are_thinned_to_the_places_that_differ_most():
    values, difference = np.arange(35.0).reshape(5, 7), np.zeros((5, 7))
    difference[0, 1], difference[3, 6], difference[4, 0] = 0.5, -2.0, 1.0
    small, change = thinned(values, difference, 3)
    assert small.shape == change.shape == (3, 3)
    assert (small[0, 0], change[0, 0]) == (values[0, 1], 0.5)
    assert (small[1, 2], change[1, 2]) == (values[3, 6], -2.0)
    assert (small[2, 0], change[2, 0]) == (values[4, 0], 1.0)
    assert small[2, 2] == values[4, 6]  # not what lies beyond the edge
    assert thinned(values, difference, 7)[0] is values


def test_bins_of_a_constant_are_bins():
    for value in (0.0, 5.0, -1e20, 1e-30):
        constant = np.full((2, 3), value, np.float32)
        bins = paired_bins(constant, np.nextafter(constant, np.float32(np.inf)))
        assert bins.width > 0
        assert sum(bins.fp32) == sum(bins.quantized) == 6


def test_a_record_is_small(tiny, plan, record, picture, monkeypatch):
    assert len(json.dumps(record.to_json_dict())) < 300_000
    rng = np.random.default_rng(0)
    noise = []
    for number in range(24):
        fp32, change = (torch.from_numpy(rng.normal(size=(16, 128, 128)).astype(np.float32)) for _ in range(2))
        noise.append(SiteActivations(f"stage3:0:{number}/input", "conv", "int8", fp32, fp32 + change))
    monkeypatch.setattr(compared, "compare_activations", lambda *args: noise)
    for drawn, channels, side in ((6, 4, 64), (6, 8, 32), (24, 9, 16)):
        kept = measure_activations(tiny, plan, picture, "noise", drawn=drawn, channels=channels)
        shapes = {c.fp32.codes.shape for site in kept.sites for c in site.channels}
        assert shapes == {(side, side)}
        assert [len(site.channels) for site in kept.sites if site.channels] == [min(channels, 96 // drawn)] * drawn
        assert len(json.dumps(kept.to_json_dict())) < 302_000


def test_what_the_store_holds_is_not_computed_again_unless_asked_for(tiny, plan, picture, tmp_path, monkeypatch):
    store, runs = ResultStore(tmp_path / "r.sqlite"), []

    def counted(*args):
        runs.append(args)
        return compare_activations(*args)

    monkeypatch.setattr(compared, "compare_activations", counted)
    given = (tiny, plan, picture, "dog.png")
    first = measure_activations(*given, store=store)
    assert measure_activations(*given, store=store) == first
    assert len(runs) == 1
    used = []
    again = measure_activations(*given, store=store, use=used.extend)
    assert len(runs) == 2
    assert again.id == first.id
    assert again.results == first.results
    assert [site.site for site in used] == [site.site for site in first.sites]
    assert len(store.records()) == 1
    other = picture.copy()
    other[0, 0] ^= 1
    changed = [
        measure_activations(tiny, plan, other, "dog.png", store=store),
        measure_activations(tiny, plan, picture, "cat.png", store=store),
        measure_activations(*given, store=store, drawn=1),
        measure_activations(*given, store=store, channels=1),
        measure_activations(*given, store=store, wanted=lambda site: site.startswith("stage3")),
    ]
    assert len({first.id, *(record.id for record in changed)}) == 6
    assert len(store.records()) == 6
    assert {site.site.partition(":")[0] for site in changed[-1].sites} == {"stage3"}


def test_a_model_in_float_has_nothing_to_draw(tiny, picture):
    plan = qs.calibrate(tiny, qs.make_plan(tiny, "fp32"), qs.open_images("scenes:1:9"))
    record = measure_activations(tiny, plan, picture, "dog.png")
    assert record.figures["lowest_sqnr_db"] is None
    assert {(site.format, site.sqnr_db, site.channels) for site in record.sites} == {(None, None, ())}


def test_what_cannot_be_compared(tiny, plan, picture, found, monkeypatch):
    with pytest.raises(PlanError, match="must be calibrated"):
        measure_activations(tiny, qs.make_plan(tiny, "int8"), picture, "p")
    with pytest.raises(InputError, match="image must be an array of shape"):
        measure_activations(tiny, plan, picture[..., 0], "p")
    with pytest.raises(InputError, match="0 to 24 sites can be drawn, of 1 channel or more, got 25 of 4"):
        measure_activations(tiny, plan, picture, "p", drawn=25)
    with pytest.raises(InputError, match="got 6 of 0"):
        measure_activations(tiny, plan, picture, "p", channels=0)
    with pytest.raises(InputError, match="at least one site must be wanted, got none of nano"):
        measure_activations(tiny, plan, picture, "p", wanted=lambda site: False)
    endless = dataclasses.replace(found[0], fp32=torch.full_like(found[0].fp32, math.inf))
    monkeypatch.setattr(compared, "compare_activations", lambda *args: [endless])
    with pytest.raises(CalibrationError, match=r"values of stage0:0:0/input must be finite, got inf to inf"):
        measure_activations(tiny, plan, picture, "p", use=lambda found: pytest.fail("this is to be said first"))
