"""Transforms of a plan: applied once, saved with it, part of its digest."""

import dataclasses
import gc
import json
import weakref
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from quantsam.diagnostics.observed import observe_distributions
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.errors import PlanError
from quantsam.models.graph import copy_encoder, set_parameter
from quantsam.models.scale import LARGEST_EXPONENT
from quantsam.plans import prepare as preparing
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.plans.prepare import prepare, rounded_weight, weight_codes
from quantsam.plans.storage import load_plan, save_plan
from quantsam.plans.transforms import TRANSFORMS, FoldNorms, Transform, transforms_digest
from quantsam.quant.quantizers import fake_quantize
from quantsam.simulation.simulator import simulate

FIRST = "backbone.stages.0.op_list.0.conv"


@dataclass(frozen=True, slots=True, eq=False)
class Gain(Transform):
    """Each output channel of the first convolution is multiplied; for these tests."""

    name: ClassVar[str] = "gain"
    gains: Tensor
    power: int = 1

    def apply(self, encoder):
        changed = copy_encoder(encoder).eval()
        gains = self.gains.reshape(-1, 1, 1, 1) ** self.power
        set_parameter(changed, f"{FIRST}.weight", encoder.get_submodule(FIRST).weight.detach() * gains)
        return changed

    def settings(self):
        return {"power": self.power}

    def tensors(self):
        return {"gains": self.gains}

    @classmethod
    def restore(cls, settings, tensors):
        return cls(tensors["gains"], int(settings["power"] or 0))


@pytest.fixture
def image():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def gained(tiny, monkeypatch, image):
    monkeypatch.setitem(TRANSFORMS, "gain", Gain)
    bare = make_plan(tiny, "int8", "openvino")
    out = tiny.float_encoder.get_submodule(FIRST).out_channels
    plan = dataclasses.replace(bare, transforms=(*bare.transforms, Gain(torch.linspace(0.5, 2, out), 2)))
    return calibrate(tiny, plan, [image])


def test_a_placement_says_which_transforms_a_plan_begins_with(tiny):
    assert make_plan(tiny, "int8", "thesis").transforms == ()
    assert [type(t) for t in make_plan(tiny, "int8", "openvino").transforms] == [FoldNorms]
    assert [type(t) for t in make_plan(tiny, "int8", "thesis+fold").transforms] == [FoldNorms]


def test_everything_sees_the_transformed_encoder(tiny, gained, image):
    plain = calibrate(tiny, make_plan(tiny, "int8", "openvino"), [image])
    changed, before = prepare(tiny, gained), prepare(tiny, plain)
    gains = torch.linspace(0.5, 2, changed.get_submodule(FIRST).out_channels) ** 2
    torch.testing.assert_close(
        changed.get_submodule(FIRST).weight, before.get_submodule(FIRST).weight * gains.reshape(-1, 1, 1, 1)
    )
    first = {plan: next(s for s in plan.sites if s.key == "stage0:0:0/weight") for plan in (plain, gained)}
    torch.testing.assert_close(first[gained].grid.scale, first[plain].grid.scale * gains)  # calibrated on it
    rounded = simulate(tiny, gained).encoder.get_submodule(FIRST).weight
    assert torch.equal(rounded, rounded_weight(changed, first[gained]))  # and simulated
    codes = weight_codes(changed, first[gained])
    exact = simulate(tiny, gained, exact=True).encoder.get_submodule(FIRST).get_buffer("codes")
    assert torch.equal(exact, codes.float())
    exported = {t.name: onnx.numpy_helper.to_array(t) for t in encoder_to_onnx(tiny, gained).graph.initializer}
    np.testing.assert_array_equal(exported["stage0:0:0/weight:codes"], codes.numpy())
    seen = {site.site: site for site in observe_distributions(tiny, gained, [image]).summaries()}
    highest = float(changed.get_submodule(FIRST).weight.max())
    assert seen["stage0:0:0/weight"].high == pytest.approx(highest, rel=1e-5)  # it is told to six digits
    assert gained.encoder_digest == plain.encoder_digest
    assert gained.digest != plain.digest


def test_transforms_are_saved_with_their_tensors(tiny, gained, tmp_path, image):
    loaded = load_plan(save_plan(gained, tmp_path / "plan"), tiny)
    assert loaded.digest == gained.digest
    assert [t.name for t in loaded.transforms] == ["fold_norms", "gain"]
    assert loaded.transforms[1].settings() == {"power": 2}
    assert torch.equal(loaded.transforms[1].tensors()["gains"], gained.transforms[1].tensors()["gains"])
    with torch.inference_mode():
        assert torch.equal(simulate(tiny, loaded)(image), simulate(tiny, gained)(image))


def test_an_unknown_transform_is_refused_by_name(tiny, gained, tmp_path, monkeypatch):
    folder = save_plan(gained, tmp_path / "plan")
    monkeypatch.delitem(TRANSFORMS, "gain")
    with pytest.raises(PlanError, match=r"transforms must be of fold_norms, reflect_streams, .*, got 'gain'") as caught:
        load_plan(folder, tiny)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"power": 3}, {"gains": 1}])
def test_the_digest_sees_settings_and_tensors(gained, change):
    gain = gained.transforms[1]
    other = dataclasses.replace(gain, **{k: gain.gains + 1 if k == "gains" else v for k, v in change.items()})
    assert transforms_digest((gain,)) != transforms_digest((other,))
    assert transforms_digest((gain, FoldNorms())) != transforms_digest((FoldNorms(), gain))


def test_settings_that_a_transform_lacks(tiny, tmp_path):
    folder = save_plan(make_plan(tiny, "int8", "openvino"), tmp_path / "plan")
    document = json.loads((folder / "plan.json").read_text())
    document["transforms"][0]["settings"] = {"strength": 3}
    (folder / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match=r"is damaged .*transform fold_norms has no settings"):
        load_plan(folder, tiny)


def test_an_encoder_is_prepared_once_and_forgotten_with_its_model(make_tiny):
    model = make_tiny(5)
    plans = [make_plan(model, scheme, "openvino") for scheme in ("int8", "mix-dwsc")]
    assert prepare(model, plans[0]) is prepare(model, plans[1])
    assert prepare(model, make_plan(model, "int8", "thesis")) is model.float_encoder
    prepared = weakref.ref(prepare(model, plans[0]))
    del model
    gc.collect()
    assert prepared() is None


def test_one_prepared_encoder_of_a_model_is_kept(gained, tiny):
    plain = make_plan(tiny, "int8", "openvino")
    first = prepare(tiny, plain)
    prepare(tiny, gained)
    assert len(preparing._prepared[tiny.float_encoder]) == 1
    assert prepare(tiny, plain) is not first


def test_an_encoder_whose_weights_changed_is_prepared_anew(make_tiny):
    model = make_tiny(5)
    before = prepare(model, make_plan(model, "int8", "openvino"))
    with torch.no_grad():
        model.float_encoder.get_submodule(FIRST).weight.mul_(2)
    after = prepare(model, make_plan(model, "int8", "openvino"))
    torch.testing.assert_close(after.get_submodule(FIRST).weight, 2 * before.get_submodule(FIRST).weight)


@pytest.mark.parametrize("spec", ["int8", "int4", "fp8_e4m3"])
def test_the_codes_of_a_weight_stand_for_its_rounded_values(tiny, spec):
    from quantsam.schemes.load import parse_scheme

    plan = calibrate(tiny, make_plan(tiny, parse_scheme(f'[[rules]]\nweight = "{spec}"', "w"), "thesis"))
    for site in plan.sites[:6]:
        weight = tiny.float_encoder.get_submodule(site.path).weight.detach()
        assert torch.equal(rounded_weight(tiny.float_encoder, site), fake_quantize(weight, site.spec, site.grid))
        assert weight_codes(tiny.float_encoder, site).shape == weight.shape


@pytest.mark.parametrize(
    ("name", "tensor", "contents"),
    [
        ("scale_streams", torch.tensor([LARGEST_EXPONENT + 1], dtype=torch.int32), "exponents"),
        ("scale_inputs", torch.tensor([torch.iinfo(torch.int32).min], dtype=torch.int32), "exponents"),
        ("scale_outputs", torch.ones(2, dtype=torch.bool), "exponents"),
        ("shift_streams", torch.tensor([1.0, torch.nan]), "values"),
        ("reflect_streams", torch.ones(4), "values"),
        ("correct_biases", torch.tensor([torch.inf]), "values"),
        ("round_weights", torch.zeros(2, 2, 1, 1), "offsets"),
    ],
)
def test_tensors_that_a_transform_cannot_have_are_refused(name, tensor, contents):
    with pytest.raises(ValueError, match=f"{name} has {contents} of somewhere that are none"):
        TRANSFORMS[name].restore({}, {"somewhere": tensor})
    with pytest.raises(ValueError, match=f"{name} has no settings, but {contents}"):
        TRANSFORMS[name].restore({}, {})
