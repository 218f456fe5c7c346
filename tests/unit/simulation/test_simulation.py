"""A plan run in PyTorch: exactly what it says, and nothing else."""

import dataclasses

import numpy as np
import pytest
import torch

from quantsam.errors import PlanError
from quantsam.plans.calibration import calibrate
from quantsam.plans.layers import discover_layers
from quantsam.plans.make import make_plan
from quantsam.quant.quantizers import fake_quantize
from quantsam.schemes.load import parse_scheme
from quantsam.simulation.fuse import LookUp
from quantsam.simulation.simulator import simulate
from quantsam.simulation.sites import FakeQuantize

RULES = {
    "int8": 'weight = "int8"\nactivation = "int8"',
    "w4a8": 'weight = "int4"\nactivation = "int8"',
    "affine": 'weight = "uint8"\nactivation = "uint8"',
    "symmetric unsigned": 'activation = { format = "uint8", symmetric = true }',
    "few levels": 'weight = "int4"\nactivation = "int3"',
    "int16": 'weight = "int8"\nactivation = "int16"',
    "fp8": 'weight = "fp8_e4m3"\nactivation = "fp8_e4m3"',
    "channels": 'weight = "int8"\nactivation = { format = "int8", per_channel = true }',
    "mixed": """activation = "int8"
        [rules.sites]
        input = { format = "uint8", per_channel = true }
        norm = { format = "int16" }
        act = { format = "uint4", quantizer = "log2" }
        [[rules]]
        select = { kind = ["mbc_depthwise", "resblock"] }
        activation = "float"
        [[rules]]
        select = { stage = "neck" }
        sites = { conv = "float", norm = "uint8" }""",
    "conv alone": 'sites = { conv = "int8" }',
}


def images(count):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def plans(tiny):
    made = {}

    def plan(name):
        if name not in made:
            scheme = parse_scheme(f"[[rules]]\n{RULES[name]}", name)
            made[name] = calibrate(tiny, make_plan(tiny, scheme), [images(2)])
        return made[name]

    return plan


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("batch", [1, 2])
def test_fused_and_unfused_agree_bit_for_bit(tiny, plans, name, batch):
    plan, x = plans(name), images(batch) * 1.5  # beyond the calibrated range: clamping counts too
    with torch.inference_mode():
        fused, unfused = (simulate(tiny, plan, fused=fused) for fused in (True, False))
        assert not [m for m in unfused.modules() if isinstance(m, LookUp)]
        assert torch.equal(fused(x), unfused(x))
        assert torch.equal(fused(x), fused(x))  # no state, and the input is not overwritten


def test_fusing_happens_where_8_bits_allow_it(tiny, plans):
    def lookups(name):
        return [m for m in simulate(tiny, plans(name)).modules() if isinstance(m, LookUp)]

    expected = sum(s.name == "norm" or (s.name == "act" and s.kind.startswith("mbc")) for s in plans("int8").sites)
    assert len(lookups("int8")) == expected
    kinds = [layer.kind for layer in discover_layers(tiny.float_encoder)]
    assert expected == sum(kind not in ("qkv", "attention", "neck_out") for kind in kinds)  # which round, and no more
    assert all(m.table.shape[1] == 256 for m in lookups("int8"))
    assert {m.table.shape[1] for m in lookups("few levels")} == {8}
    assert not lookups("int16") + lookups("fp8") + lookups("channels")


def test_gradients_pass_and_both_ways_agree_on_them(tiny, plans):
    x = images(1).requires_grad_()
    outputs = [simulate(tiny, plans("int8"), fused=fused)(x) for fused in (True, False)]
    assert torch.equal(*outputs)
    with torch.inference_mode():
        assert torch.equal(outputs[0], simulate(tiny, plans("int8"))(x))


@pytest.mark.parametrize("zero_point", [0, 17])
def test_look_up_without_the_compiled_kernel(monkeypatch, zero_point):
    table = torch.randn(5, 256)
    module = LookUp(0.1, zero_point, -128, table)
    x = torch.randn(2, 5, 7, 3) * 20
    plain = x.clone()
    with torch.inference_mode():
        expected = module(x.clone())
        monkeypatch.setattr("quantsam.quant.kernels.supports", lambda _: False)
        assert torch.equal(module(plain), expected)
    assert torch.equal(plain, x)
    code = int(torch.round(x[1, 2, 3, 0] / 0.1).clamp(-128 - zero_point, 127 - zero_point)) + zero_point
    assert expected[1, 2, 3, 0] == table[2, code + 128]


def test_weights_are_rounded_once_and_for_all(tiny, plans):
    plan = plans("w4a8")
    encoder = simulate(tiny, plan).encoder
    for site in plan.sites:
        if site.role == "weight":
            original = tiny.float_encoder.get_submodule(site.path).weight
            rounded = encoder.get_submodule(site.path).weight
            assert torch.equal(rounded, fake_quantize(original, site.spec, site.params))
            assert not torch.equal(rounded, original)
            assert all(len(channel.unique()) <= 16 for channel in rounded)
            assert not rounded.requires_grad


def test_every_activation_site_is_on_its_grid(tiny, plans):
    plan = plans("int8")
    encoder = simulate(tiny, plan, fused=False).encoder
    seen, x = {}, images(1)
    for site in plan.sites:
        if site.role == "activation":
            module = encoder.get_submodule(site.path)
            assert isinstance(module, FakeQuantize)
            module.register_forward_hook(lambda _m, _i, out, key=site.key: seen.update({key: out}))
    with torch.inference_mode():
        encoder(x)
    for site in plan.sites:
        if site.role == "activation":
            codes = seen[site.key] / site.params.scale
            torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
            assert codes.min() >= -128.01
            assert codes.max() <= 127.01


def test_the_model_is_unchanged_and_shares_what_is_not_quantized(tiny, plans):
    digest, keys = tiny.weights_digest(), list(tiny.state_dict())
    with torch.inference_mode():
        before = tiny.image_encoder(images(1))
        encoder = simulate(tiny, plans("int8")).encoder
        encoder(images(1))
        assert torch.equal(tiny.image_encoder(images(1)), before)
    assert (tiny.weights_digest(), list(tiny.state_dict())) == (digest, keys)
    assert not [m for m in tiny.modules() if isinstance(m, (FakeQuantize, LookUp))]
    quantized = {f"{site.path}.weight" for site in plans("int8").sites if site.role == "weight"}
    unfused = simulate(tiny, plans("int8"), fused=False).encoder.state_dict()
    assert list(unfused) == list(tiny.float_encoder.state_dict())  # grids are the plan's, not the state's
    for name, value in tiny.float_encoder.state_dict().items():
        assert (unfused[name].data_ptr() == value.data_ptr()) == (name not in quantized), name


@pytest.mark.parametrize("fused", [True, False])
def test_a_plan_in_float_is_the_float_model(tiny, fused):
    with torch.inference_mode():
        simulated = simulate(tiny, make_plan(tiny, "fp32"), fused=fused)
        assert torch.equal(simulated(images(2)), tiny.image_encoder(images(2)))


def test_a_finer_grid_is_nearer_to_float(tiny, plans):
    x = images(1)
    with torch.inference_mode():
        exact = tiny.image_encoder(x)
        errors = [(simulate(tiny, plans(name))(x) - exact).norm().item() for name in ("int16", "int8", "w4a8")]
    assert errors[0] < errors[1] < errors[2]


def test_a_simulation_of_a_simulation_starts_from_float(tiny, plans):
    plan = plans("int8")
    quantized = tiny.with_encoder(simulate(tiny, plan))
    with torch.inference_mode():
        again = simulate(quantized, plan)
        assert torch.equal(again(images(1)), quantized.image_encoder(images(1)))
    assert make_plan(quantized, "int8").digest == make_plan(tiny, "int8").digest


def test_a_model_in_training_mode_is_simulated_as_it_is_deployed(make_tiny, plans):
    model = make_tiny().train()
    digest = model.weights_digest()
    with torch.inference_mode():
        expected = simulate(make_tiny(), plans("int8"))(images(1))
        assert torch.equal(simulate(model, plans("int8"))(images(1)), expected)
    assert model.training
    assert model.weights_digest() == digest


def test_pictures_go_through_a_simulated_model(tiny, plans):
    from quantsam.prediction.predictor import Predictor

    predictor = Predictor(tiny.with_encoder(simulate(tiny, plans("int8"))))
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    assert predictor.predict(box=[1, 2, 30, 20]).masks.shape == (3, 30, 50)


def refused(model, plan, words):
    with pytest.raises(PlanError, match=words) as caught:
        simulate(model, plan)
    assert "\n" not in str(caught.value)


def test_plans_that_do_not_fit(tiny, make_tiny, plans):
    bare = make_plan(tiny, "int8")
    refused(tiny, bare, rf"plan must be calibrated, got {len(bare.sites)} sites without a scale: quantsam\.calibrate")
    half = dataclasses.replace(bare, sites=(*plans("int8").sites[:-1], bare.sites[-1]))
    refused(tiny, half, "got 1 sites without a scale")
    refused(make_tiny(3), plans("int8"), "made for encoder weights .* or calibrate again")
    refused(tiny, dataclasses.replace(plans("int8"), model="l1"), "made for model 'l1', got 'nano'")
