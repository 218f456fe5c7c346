import pytest
import torch

from quantsam.diagnostics.audit import LARGEST_FP16, audit_half_precision, conclusion
from quantsam.errors import CalibrationError
from quantsam.plans.layers import discover_layers


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_every_site_weight_and_sum_is_measured(tiny, image):
    found = {entry.name: entry for entry in audit_half_precision(tiny.float_encoder, [image])}
    sites = {f"{layer.address}/{site.name}" for layer in discover_layers(tiny.float_encoder) for site in layer.sites}
    assert sites < found.keys()
    assert {"neck", "embedding", "backbone.stages.3.op_list.1"} < found.keys()
    with torch.inference_mode():
        assert found["embedding"].largest == pytest.approx(float(tiny.image_encoder(image).abs().max()))
        assert found["stage0:0:0/input"].largest == pytest.approx(float(image.abs().max()))
    weight = tiny.float_encoder.get_submodule("backbone.stages.0.op_list.0.conv").weight
    assert found["stage0:0:0/weight"].largest == float(weight.abs().max())


def test_the_largest_of_all_images_counts_and_comes_first(tiny, image):
    alone = audit_half_precision(tiny.float_encoder, [image])
    both = audit_half_precision(tiny.float_encoder, [image, 3 * image, image])
    assert [e.largest for e in both] == sorted((e.largest for e in both), reverse=True)
    named = {e.name: e.largest for e in both}
    assert named["stage0:0:0/input"] == pytest.approx(3 * {e.name: e.largest for e in alone}["stage0:0:0/input"])


def test_what_would_overflow_is_named_and_does(make_tiny, image):
    model = make_tiny(1)
    layer = model.float_encoder.get_submodule("backbone.stages.1.op_list.1.main.point_conv")
    layer.norm.weight.mul_(1e6)
    entries = audit_half_precision(model.float_encoder, [image])
    over = [entry for entry in entries if entry.overflows]
    assert "stage1:1:1/norm" in [entry.name for entry in over]
    assert all(entry.largest > LARGEST_FP16 and entry.headroom < 1 for entry in over)
    seen = {}
    layer.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
    with torch.inference_mode():
        model.image_encoder(image)
    assert torch.isfinite(seen["y"]).all()
    assert torch.isinf(seen["y"].half()).any()
    assert f"FP16 would overflow at {len(over)} tensors (" in conclusion(entries)


def test_the_squares_of_a_layer_norm_are_measured(make_tiny, image):
    model = make_tiny(1)
    last = model.float_encoder.neck.output_ops[0].op_list[0].conv
    before = model.image_encoder(image)
    entries = audit_half_precision(model.float_encoder, [image])
    seen = {}
    model.float_encoder.norm.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0]))
    model.image_encoder(image)
    deviations = seen["x"] - seen["x"].mean(1, keepdim=True)
    (found,) = [entry for entry in entries if entry.name == "norm/layernorm_squares"]
    assert found.largest == pytest.approx(float(deviations.square().max()))

    factor = 300 / float(deviations.abs().max())  # 300² is beyond float16, 300 is not; LayerNorm takes the factor out
    last.weight.mul_(factor)
    last.bias.mul_(factor)
    torch.testing.assert_close(model.image_encoder(image), before, atol=1e-3, rtol=1e-3)
    entries = audit_half_precision(model.float_encoder, [image])
    assert [entry.name for entry in entries if entry.overflows] == ["norm/layernorm_squares"]
    assert "overflow at 1 tensors (norm/layernorm_squares)" in conclusion(entries)
    half = seen["x"].half() - seen["x"].half().mean(1, keepdim=True)
    assert torch.isinf(half * half).any()


def test_a_safe_encoder(tiny, image):
    entries = [e for e in audit_half_precision(tiny.float_encoder, [image]) if not e.overflows]
    assert conclusion(entries).startswith("FP16 is safe here: the largest value is ")


def test_no_images(tiny):
    with pytest.raises(CalibrationError, match="an audit needs at least one image, got none"):
        audit_half_precision(tiny.float_encoder, [])
