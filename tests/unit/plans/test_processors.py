import pytest

from quantsam.plans.placements import get_placement
from quantsam.plans.plan import make_plan
from quantsam.plans.storage import load_plan, save_plan
from quantsam.quant.quantizers import quantize
from quantsam.quant.saturation import saturating_channels
from quantsam.schemes.load import parse_scheme


@pytest.fixture(scope="module")
def images(tiny):
    import torch

    return [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))]


def codes(plan, model):
    encoder = get_placement(plan.placement).prepare(model.float_encoder)
    for site in plan.sites:
        if site.role == "weight":
            weight = encoder.get_submodule(site.path).get_parameter("weight").detach()
            yield site, quantize(weight, site.spec, site.params)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_plan_is_exact_on_any_processor_unless_it_is_made_for_vnni(tiny, images, engine):
    safe = make_plan(tiny, "int8", engine).calibrate(images)
    full = make_plan(tiny, "int8", f"{engine}+vnni").calibrate(images)
    assert (safe.processors, full.processors) == ("any", "vnni")
    assert safe.digest != full.digest
    assert not any(saturating_channels(found).any() for _, found in codes(safe, tiny))
    assert sum(bool(saturating_channels(found).any()) for _, found in codes(full, tiny)) > 30
    largest = [int(found.abs().max()) for site, found in codes(safe, tiny)]
    assert min(largest) > 64  # better than 7 bits, for every layer


def test_depthwise_weights_and_activations_keep_their_grids(tiny, images):
    safe = make_plan(tiny, "int8", "onnxruntime").calibrate(images)
    full = make_plan(tiny, "int8", "onnxruntime+vnni").calibrate(images)
    same = {s.key for s, t in zip(safe.sites, full.sites, strict=True) if s.params.scale.equal(t.params.scale)}
    assert {s.key for s in safe.sites if s.role == "activation"} <= same
    depthwise = {s.key for s in safe.sites if s.role == "weight" and "depthwise" in f"{s.kind} {s.name}"}
    assert len(depthwise) == 8
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


def test_affine_weights_cannot_be_made_safe(tiny):
    scheme = parse_scheme(
        '[[rules]]\nweight = { format = "int8", symmetric = false }\nactivation = "int8"', default_name="affine"
    )
    assert make_plan(tiny, scheme, "onnxruntime").processors == "vnni"


def test_a_saved_plan_keeps_its_processors(tiny, images, tmp_path):
    for placement in ("openvino", "openvino+vnni"):
        plan = make_plan(tiny, "int8", placement).calibrate(images)
        loaded = load_plan(save_plan(plan, tmp_path / placement), tiny)
        assert (loaded.processors, loaded.digest) == (plan.processors, plan.digest)
