"""Repair `rounding`: codes that make up for each other's errors, the same in simulation and engines."""

import dataclasses

import pytest
import torch

import quantsam as qs
from quantsam.engines.encoder import make_engine_encoder
from quantsam.errors import InputError, PlanError
from quantsam.models.rounding import with_code_offsets
from quantsam.notices import Notice
from quantsam.plans.prepare import prepare, weight_codes
from quantsam.plans.storage import load_plan, save_plan
from quantsam.plans.transforms import RoundWeights
from quantsam.prediction.transforms import preprocess
from quantsam.repair.repair import repair_plan
from quantsam.repair.rounding import best_codes, compensated
from quantsam.search.palette import check_repairs
from quantsam.simulation.simulator import simulate


@pytest.fixture(scope="module")
def images():
    return qs.open_images("scenes:3:1")


@pytest.fixture(scope="module")
def plans(tiny, images):
    """By placement, before and after."""
    bare = {name: qs.make_plan(tiny, "w4a8", name) for name in ("onnxruntime", "openvino")}
    return {
        name: (qs.calibrate(tiny, plan, images), repair_plan(tiny, plan, images, "rounding"))
        for name, plan in bare.items()
    }


def test_compensated_codes_lose_less_where_inputs_go_together():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 12, generator=generator, dtype=torch.float64)
    inputs = inputs + 2 * inputs[:, :1]  # what one column loses, the others can give back
    target = 5 * torch.randn(1, 40, 12, generator=generator, dtype=torch.float64)
    low, high = torch.full((1, 40), -7.0).double(), torch.full((1, 40), 7.0).double()
    codes = compensated(target, (inputs.T @ inputs)[None], low, high)
    nearest = target.round().clamp(-7, 7)
    lost = [((values - target) @ inputs.T).square().sum() for values in (codes, nearest)]
    assert lost[0] < 0.3 * lost[1]
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= 7


def test_columns_without_anything_in_common_are_rounded_to_the_nearest():
    target = torch.linspace(-6, 6, 300, dtype=torch.float64).view(2, 5, 30)
    codes = compensated(
        target, torch.eye(30).double().expand(2, 30, 30), torch.full((2, 5), -7.0), torch.full((2, 5), 7.0)
    )
    assert torch.equal(codes, target.round())


def test_more_columns_than_a_block_are_compensated_alike(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(400, 40, generator=generator, dtype=torch.float64).cumsum(1)
    target = 4 * torch.randn(1, 6, 40, generator=generator, dtype=torch.float64)
    given = (target, (inputs.T @ inputs)[None], torch.full((1, 6), -7.0), torch.full((1, 6), 7.0))
    whole = compensated(*given)
    monkeypatch.setattr("quantsam.repair.rounding.BLOCK", 7)
    assert torch.equal(compensated(*given), whole)


def _spread_rows():
    """Rows with one weight far larger than the others: a smaller step clips it and is finer for all others."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(300, 24, generator=generator, dtype=torch.float64)
    target = 0.4 * torch.randn(1, 8, 24, generator=generator, dtype=torch.float64)
    target[..., 0] = 7
    inputs[:, 0] *= 0.01  # it matters little
    return target, (inputs.T @ inputs)[None], torch.full((1, 8), -7.0).double(), torch.full((1, 8), 7.0).double()


def test_a_smaller_step_is_taken_where_it_loses_less():
    target, moments, low, high = _spread_rows()
    codes, shares = best_codes(target, moments, low, high, alone=True)
    error = ((codes * shares[..., None] - target) @ moments * (codes * shares[..., None] - target)).sum(-1)
    whole = compensated(target, moments, low, high) - target
    assert (error < 0.5 * (whole @ moments * whole).sum(-1)).all()
    assert shares.max() < 1
    assert codes.abs().max() <= 7


def test_rows_of_one_grid_share_their_step():
    target, moments, low, high = _spread_rows()
    target[:, :4] = (10 * target[:, :4]).round().clamp(-7, 7)  # codes already
    assert len(best_codes(target, moments, low, high, alone=True)[1].unique()) > 1
    assert len(best_codes(target, moments, low, high, alone=False)[1].unique()) == 1


def test_weights_that_are_codes_already_stay_exact():
    moments = torch.eye(15).double()[None] + 0.5
    target = torch.arange(-7, 8).double().expand(1, 3, 15).contiguous()
    codes, shares = best_codes(target, moments, torch.full((1, 3), -7.0), torch.full((1, 3), 7.0), alone=True)
    assert torch.equal(codes, target)
    assert (shares == 1).all()


@pytest.mark.parametrize("placement", ["onnxruntime", "openvino"])
def test_less_is_lost_and_only_weights_change(tiny, plans, images, placement):
    plain, plan = plans[placement]
    assert plan.repairs == ("rounding",)
    for one, other in zip(plain.sites, plan.sites, strict=True):
        if one.role == "activation":
            assert torch.equal(one.grid.scale, other.grid.scale)
        else:
            assert (other.grid.scale <= 1.0001 * one.grid.scale).all()
            assert (other.grid.scale >= 0.4999 * one.grid.scale).all()
    image = preprocess(qs.open_images("scenes:1:7")[0], tiny.variant.input_size)
    with torch.inference_mode():
        true = tiny.image_encoder(image)
        assert torch.equal(prepare(tiny, plan)(image), prepare(tiny, plain)(image))
        lost = [float((simulate(tiny, one)(image) - true).square().mean()) for one in (plain, plan)]
    assert lost[1] < 0.7 * lost[0]
    weights = [site for site in plan.sites if site.role == "weight"]
    for site in weights:
        codes = weight_codes(prepare(tiny, plan), site)
        assert codes.min() >= -7
        assert codes.max() <= 7
    assert any(not torch.equal(*(weight_codes(prepare(tiny, p), site) for p in (plain, plan))) for site in weights)


@pytest.mark.parametrize("placement", ["onnxruntime", "openvino"])
def test_engines_compute_what_is_simulated(tiny, plans, placement):
    pytest.importorskip(placement)
    plan = plans[placement][1]
    engine, exact, gaps = make_engine_encoder(tiny, plan, placement), simulate(tiny, plan, exact=True), []
    for picture in qs.open_images("scenes:10:70"):
        image = preprocess(picture, tiny.variant.input_size)
        with torch.inference_mode():
            lost = (exact(image) - tiny.image_encoder(image)).square().mean()
            gaps.append(float((engine(image) - exact(image)).square().mean() / lost))
    # in units of what rounding loses; an engine with the nearest codes is off by five and more
    assert max(gaps) < (1 if placement == "openvino" else 0.01)
    assert min(gaps) < 1e-6  # on OpenVINO a value next to a tie may fall to either side, and all that follows differs


def test_a_saved_plan_is_the_same(tiny, plans, tmp_path):
    plan = plans["openvino"][1]
    save_plan(plan, tmp_path / "plan")
    read = load_plan(tmp_path / "plan", tiny)
    assert read.digest == plan.digest
    offsets, same = plan.transforms[-1].values, read.transforms[-1].values
    assert offsets.keys() == same.keys()
    assert all(torch.equal(offset, same[path]) for path, offset in offsets.items())


def test_weights_of_eight_bits_are_left_alone(tiny, images):
    with pytest.warns(Notice, match="weights below 8 bits, of which the plan has none: nothing changes"):
        plan = repair_plan(tiny, qs.make_plan(tiny, "int8", "openvino"), images, "rounding")
    assert plan.repairs == ()
    site = next(site for site in plan.sites if site.role == "weight")
    conv = prepare(tiny, plan).get_submodule(site.path)
    shifted = with_code_offsets(prepare(tiny, plan), {site.path: torch.ones_like(conv.weight, dtype=torch.int8)})
    assert torch.equal(weight_codes(shifted, site), weight_codes(prepare(tiny, plan), site))  # they could saturate


def test_offsets_of_another_encoder_and_searches_are_refused(tiny, plans):
    plan = plans["openvino"][1]
    (path, offset), *_ = plan.transforms[-1].values.items()
    other = dataclasses.replace(plan, transforms=(RoundWeights({path: offset[:1]}),))
    with pytest.raises(PlanError, match=r"rounding must be of its encoder's weights, got .*: repair the plan again"):
        prepare(tiny, other)
    with pytest.raises(InputError, match="a search cannot repair rounding and bias, which belongs to the rounding of"):
        check_repairs(("rounding", "bias"))
