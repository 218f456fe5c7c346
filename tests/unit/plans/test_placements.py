import pytest
import torch

from quantsam.errors import InputError
from quantsam.models.fold import fold_norms
from quantsam.models.structure import structure_of
from quantsam.plans.biases import integer_biases
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.plans.placements import PLACEMENTS, get_placement
from quantsam.quant.params import TensorSpec
from quantsam.quant.quantizers import params_from_range
from quantsam.schemes.load import parse_scheme
from quantsam.simulation.simulator import simulate


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def specs(model, placement, scheme="int8"):
    return {site.key: site.spec for site in make_plan(model, scheme, placement).sites}


def test_folding_changes_nothing_but_the_last_bits(tiny, image):
    folded = fold_norms(tiny.float_encoder)
    with torch.inference_mode():
        expected, found = tiny.image_encoder(image), folded(image)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in tiny.float_encoder.modules())


def test_folding_is_made_in_float64(tiny):
    path = "backbone.stages.0.op_list.0"
    layer, folded = tiny.float_encoder.get_submodule(path), fold_norms(tiny.float_encoder).get_submodule(path)
    gain = layer.norm.weight.double() / (layer.norm.running_var.double() + layer.norm.eps).sqrt()
    assert torch.equal(folded.conv.weight, (layer.conv.weight.double() * gain.reshape(-1, 1, 1, 1)).float())
    assert torch.equal(folded.conv.bias, (layer.norm.bias.double() - layer.norm.running_mean.double() * gain).float())


@pytest.mark.parametrize(
    ("placement", "names"),
    [
        ("onnxruntime", {"input", "weight", "conv"}),
        ("openvino", {"input", "weight"}),
        ("tensorrt", {"input", "weight"}),
    ],
)
def test_where_engines_quantize(tiny, convolutions, placement, names):
    plan = make_plan(tiny, "int8", placement)
    assert {site.name.rsplit(".", 1)[-1] for site in plan.sites} == names
    assert len(plan.sites) == convolutions * len(names)
    assert not any(site.kind == "attention" for site in plan.sites)


def test_additions_round_the_input_of_every_residual_block(tiny, image):
    plan = make_plan(tiny, "int8", "onnxruntime+additions")
    added = [site for site in plan.sites if site.name == "shortcut"]
    parts = [part for block in structure_of(tiny.float_encoder).blocks for part in block.parts if part.shortcut]
    assert [site.path for site in added] == [part.shortcut_site for part in parts]
    assert len(plan.sites) == len(make_plan(tiny, "int8", "onnxruntime").sites) + len(parts)
    plan = calibrate(tiny, plan, [image])
    grids = {site.key: site.grid for site in plan.sites}
    for site in added:  # of the same tensor as the first convolution's input, so on the same grid
        found, other = grids[site.key], grids[f"{site.layer}/input"]
        assert torch.equal(found.scale, other.scale)
        assert torch.equal(found.zero_point, other.zero_point)


def test_by_which_conventions(tiny):
    narrow = TensorSpec("int8", "minmax", True, True, narrow=True)
    affine = TensorSpec("uint8", "minmax", False, False)
    assert specs(tiny, "onnxruntime")["stage3:1:1/input"] == affine
    assert specs(tiny, "onnxruntime")["stage3:1:1/weight"] == narrow
    assert specs(tiny, "openvino")["stage3:1:1/input"] == TensorSpec("uint8", "minmax", False, True)
    assert specs(tiny, "openvino")["stage4:1:0/depthwise0.input"].per_channel
    assert specs(tiny, "openvino")["stage3:1:2/input"] == affine
    assert specs(tiny, "tensorrt")["stage3:1:1/input"] == TensorSpec("int8", "minmax", True, False, narrow=True)
    assert specs(tiny, "thesis")["stage3:1:1/input"] == TensorSpec("int8", "ema", True, False)


def test_what_a_scheme_says_goes_before_the_placement(tiny):
    scheme = parse_scheme(
        '[[rules]]\nactivation = { format = "int8", observer = "omse", symmetric = true, per_channel = false }', "mine"
    )
    found = specs(tiny, "openvino", scheme)["stage3:1:1/input"]
    assert found == TensorSpec("uint8", "omse", True, False)


def test_a_narrow_grid_divides_by_127():
    one = torch.tensor(1.0)
    wide = params_from_range(-one, one, TensorSpec("int8", "minmax", True, False), None)
    narrow = params_from_range(-one, one, TensorSpec("int8", "minmax", True, False, narrow=True), None)
    assert float(1 / wide.scale) == pytest.approx(127.5)
    assert float(1 / narrow.scale) == pytest.approx(127)


def test_changes_of_a_placement(tiny):
    walked = get_placement("thesis+fold+inputs+float-attention+minmax+narrow+affine+per-channel-depthwise")
    goal = PLACEMENTS["openvino"]
    for name in ("places", "folds_norm", "observer", "unsigned", "narrow", "per_channel_depthwise"):
        assert getattr(walked, name) == getattr(goal, name), name
    assert specs(tiny, "thesis+minmax")["stage0:0:0/input"].observer == "minmax"


def test_an_unknown_change():
    with pytest.raises(InputError, match=r"what follows '\+' must be one of fold, .*, got 'folt': did you mean 'fold'"):
        get_placement("thesis+folt")


def test_integer_biases_are_of_the_accumulators_scale(tiny, image, convolutions):
    plan = calibrate(tiny, make_plan(tiny, "int8", "onnxruntime"), [image])
    folded = fold_norms(tiny.float_encoder)
    biases = integer_biases(plan, folded)
    attentions = tiny.variant.depths[-1]
    assert len(biases) == convolutions - 3 * attentions  # the three that make q, k and v have none
    sites = {site.key: site for site in plan.sites}
    path = sites["stage1:0:1/weight"].path
    scale = sites["stage1:0:1/input"].params.scale * sites["stage1:0:1/weight"].params.scale
    assert torch.equal(biases[path].scale, scale)
    bias = folded.get_submodule(path).bias
    assert ((biases[path].values - bias).abs() <= 0.51 * scale).all()
    assert torch.equal(simulate(tiny, plan).encoder.get_submodule(path).bias, biases[path].values)
    assert integer_biases(calibrate(tiny, make_plan(tiny, "int8", "openvino"), [image]), folded) == {}
