import pytest
import torch

from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.plans.prepare import prepare
from quantsam.plans.storage import load_plan, save_plan
from quantsam.quant.quantizers import quantize
from quantsam.quant.saturation import saturating_channels
from quantsam.schemes.load import parse_scheme


@pytest.fixture(scope="module")
def images(tiny):
    import torch

    return [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))]


def codes(plan, model):
    encoder = prepare(model, plan)
    for site in plan.sites:
        if site.role == "weight":
            weight = encoder.get_submodule(site.path).get_parameter("weight").detach()
            yield site, quantize(weight, site.spec, site.params)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_plan_is_exact_on_any_processor_unless_it_is_made_for_vnni(tiny, images, engine):
    safe = calibrate(tiny, make_plan(tiny, "int8", engine), images)
    full = calibrate(tiny, make_plan(tiny, "int8", f"{engine}+vnni"), images)
    assert (safe.processors, full.processors) == ("any", "vnni")
    assert safe.digest != full.digest
    assert not any(saturating_channels(found).any() for _, found in codes(safe, tiny))
    assert sum(bool(saturating_channels(found).any()) for _, found in codes(full, tiny)) > 30
    largest = [int(found.abs().max()) for site, found in codes(safe, tiny)]
    assert min(largest) > 64  # better than 7 bits, for every layer


def test_depthwise_weights_and_activations_keep_their_grids(tiny, images):
    safe = calibrate(tiny, make_plan(tiny, "int8", "onnxruntime"), images)
    full = calibrate(tiny, make_plan(tiny, "int8", "onnxruntime+vnni"), images)
    same = {s.key for s, t in zip(safe.sites, full.sites, strict=True) if s.params.scale.equal(t.params.scale)}
    assert {s.key for s in safe.sites if s.role == "activation"} <= same
    depthwise = {s.key for s in safe.sites if s.role == "weight" and "depthwise" in f"{s.kind} {s.name}"}
    convolutions = [m for m in tiny.float_encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(depthwise) == sum(conv.groups == conv.in_channels for conv in convolutions) > 0
    assert depthwise <= same
    assert len({s.key for s in safe.sites if s.role == "weight"} & same) == len(depthwise)


@pytest.mark.parametrize(("scheme", "placement", "processors"), [
    ("int8", "thesis", "any"),
    ("int8", "tensorrt", "any"),
    ("w4a8", "onnxruntime+vnni", "any"),
    ("w8a16", "openvino+vnni", "any"),
    ("fp32", "openvino+vnni", "any"),
    ("int8@stage3:0:1", "openvino+vnni", "any"),  # depthwise
    ("int8@stage3:0:0", "openvino+vnni", "vnni"),
])  # fmt: skip
def test_what_could_saturate(tiny, scheme, placement, processors):
    assert make_plan(tiny, scheme, placement).processors == processors


def test_weights_alone_cannot_saturate(tiny):
    assert make_plan(tiny, "int8", "openvino+vnni", activations=False).processors == "any"


@pytest.mark.parametrize(("weight", "onnxruntime", "openvino"), [
    ('{ format = "int8", symmetric = false }', "vnni", "any"),  # cannot be made safe; oneDNN adds them in 32
    ('{ format = "uint8", symmetric = false }', "any", "any"),  # unsigned products do not go through 16 bits
    ('"int8"', "any", "any"),
])  # fmt: skip
def test_weights_that_are_not_symmetric(tiny, weight, onnxruntime, openvino):
    scheme = parse_scheme(f'[[rules]]\nweight = {weight}\nactivation = "int8"', default_name="w")
    assert make_plan(tiny, scheme, "onnxruntime").processors == onnxruntime
    assert make_plan(tiny, scheme, "openvino").processors == openvino


def test_inputs_with_a_scale_a_channel_are_not_added_in_pairs(tiny):
    content = '[[rules]]\nweight = "int8"\nactivation = { format = "int8", per_channel = true }'
    assert make_plan(tiny, parse_scheme(content, default_name="w"), "openvino+vnni").processors == "any"


def test_a_saved_plan_keeps_its_processors(tiny, images, tmp_path):
    for placement in ("openvino", "openvino+vnni"):
        plan = calibrate(tiny, make_plan(tiny, "int8", placement), images)
        loaded = load_plan(save_plan(plan, tmp_path / placement), tiny)
        assert (loaded.processors, loaded.digest) == (plan.processors, plan.digest)
