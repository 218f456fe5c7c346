"""Calibration end to end on a tiny model."""

import numpy as np
import pytest
import torch
from PIL import Image

from quantsam.errors import CalibrationError, ImageError, InputError
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.prediction.transforms import preprocess
from quantsam.repair.repair import repair_plan
from quantsam.schemes.load import load_scheme, parse_scheme
from quantsam.simulation.simulator import simulate


def pictures(count, hw=(40, 64)):
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for _ in range(count)]


def grids(plan):
    return {site.key: (site.params.scale, site.params.zero_point) for site in plan.sites}


def assert_same_grids(a, b, rtol=0.0):
    first, second = grids(a), grids(b)
    assert first.keys() == second.keys()
    for key, (scale, zero_point) in first.items():
        torch.testing.assert_close(scale, second[key][0], rtol=rtol, atol=0, msg=key)
        torch.testing.assert_close(zero_point, second[key][1], rtol=0, atol=0, msg=key)


def test_files_arrays_and_tensors_are_the_same_images(tiny, tmp_path):
    arrays = pictures(3)
    files = []
    for index, array in enumerate(arrays):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(array).save(files[-1])
    plan = make_plan(tiny, "int8")
    from_arrays = calibrate(tiny, plan, arrays)
    assert from_arrays.calibration.count == 3
    assert_same_grids(from_arrays, calibrate(tiny, plan, files))
    assert_same_grids(from_arrays, calibrate(tiny, plan, (str(file) for file in files)))  # a stream, read once
    assert_same_grids(from_arrays, calibrate(tiny, plan, (preprocess(array, 64) for array in arrays)))
    assert not plan.is_calibrated  # the plan itself is a value


def test_the_batch_size_does_not_matter(tiny):
    images = torch.cat([preprocess(array, 64) for array in pictures(6)])
    plan = make_plan(tiny, "int8")
    single = calibrate(tiny, plan, images.split(1))
    for size in (2, 4, 6):
        batched = calibrate(tiny, plan, images.split(size))
        assert batched.calibration.count == 6
        assert_same_grids(single, batched, rtol=1e-4)


def test_one_pass_measures_every_site_in_float(tiny):
    calls = []
    hook = tiny.float_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        calibrate(tiny, make_plan(tiny, "int8"), pictures(2))
    finally:
        hook.remove()
    assert len(calls) == 2  # hooks are copied with the encoder: one run an image
    whole = grids(calibrate(tiny, make_plan(tiny, "int8"), pictures(2)))
    alone = grids(calibrate(tiny, make_plan(tiny, "int8@neck"), pictures(2)))
    for key, (scale, _) in alone.items():  # quantizing less does not move a range: each is measured in float
        assert torch.equal(scale, whole[key][0])


def test_ranges_by_hand(tiny):
    image = preprocess(pictures(1)[0], 64)
    found = grids(calibrate(tiny, make_plan(tiny, "int8"), [image]))
    assert found["stage0:0:0/input"][0].item() == pytest.approx(image.abs().max().item() / 127.5)
    weight = tiny.float_encoder.get_submodule("backbone.stages.0.op_list.0.conv").weight
    torch.testing.assert_close(found["stage0:0:0/weight"][0], weight.abs().amax((1, 2, 3)) / 127.5)
    scale, zero_point = found["stage0:0:0/act"]
    assert (scale.shape, scale.dtype, zero_point.dtype) == ((), torch.float32, torch.int32)
    assert not scale.is_inference()


def test_calibration_leaves_the_model_alone(tiny):
    digest, keys = tiny.weights_digest(), list(tiny.state_dict())
    calibrate(tiny, make_plan(tiny, "int8"), pictures(1))
    assert (tiny.weights_digest(), list(tiny.state_dict())) == (digest, keys)


def test_weights_alone_need_no_images(tiny):
    plan = calibrate(tiny, make_plan(tiny, "int8", activations=False))
    assert plan.is_calibrated
    assert plan.calibration is None


def test_progress_is_told_the_number_where_it_is_known(tiny):
    told = []

    def progress(images, total):
        told.append(total)
        return images

    plan = make_plan(tiny, "int8@stage0:0:0")
    calibrate(tiny, plan, pictures(2), progress=progress)
    calibrate(tiny, plan, iter(pictures(2)), progress=progress)
    assert told == [2, None]


RULES = {
    "w4a8": 'weight = "int4"\nactivation = "int8"',
    "w8a16": 'weight = "int8"\nactivation = "int16"',
    "affine": 'weight = "uint8"\nactivation = "uint8"',
    "fp8": 'weight = "fp8_e4m3"\nactivation = "fp8_e5m2"',
    "log2": 'weight = "int8"\nactivation = { format = "uint4", quantizer = "log2" }',
    "channels": 'activation = { format = "int8", per_channel = true }\nweight = { format = "int8" }',
    **{name: f'activation = {{ format = "int8", observer = "{name}" }}' for name in ("minmax", "percentile", "omse")},
    **{  # searches over every channel take their time: two small layers will do
        f"{name} of channels": 'select = { stage = ["stage0", "stage3"], block = 0, layer = 0 }\n'
        f'weight = {{ format = "int8", observer = "{name}" }}\n'
        f'activation = {{ format = "int8", observer = "{name}", per_channel = true }}'
        for name in ("minmax", "percentile", "omse", "ptf")
    },
}


@pytest.mark.parametrize("name", RULES)
def test_every_format_and_observer_works_end_to_end(tiny, name):
    images = pictures(2)
    plan = calibrate(tiny, make_plan(tiny, parse_scheme(f"[[rules]]\n{RULES[name]}", name)), images)
    assert plan.is_calibrated
    for site in plan.sites:
        assert (site.params.scale > 0).all()
        assert site.params.axis == ((0 if site.role == "weight" else 1) if site.spec.per_channel else None)
    x = preprocess(images[0], 64)
    with torch.inference_mode():
        exact, rounded = tiny.float_encoder(x), simulate(tiny, plan)(x)
    error = ((rounded - exact).norm() / exact.norm()).item()
    limit = {"w8a16": 0.02, "w4a8": 0.6, "fp8": 0.6, "log2": 2.0}.get(name, 0.15)
    assert 0 < error < limit


def one_line(images, error, words, model, scheme="int8"):
    with pytest.raises(error, match=words) as caught:
        calibrate(model, make_plan(model, scheme), images)
    assert "\n" not in str(caught.value)


def test_images_that_give_no_ranges(tiny):
    one_line([], CalibrationError, "at least one image, got none: ", tiny)
    one_line([np.full((20, 30, 3), 9, np.uint8)] * 2, CalibrationError, "got 2 of a single colour: ", tiny)
    one_line([torch.zeros(1, 3, 64, 64)], CalibrationError, "single colour", tiny)
    black = [np.zeros((20, 30, 3), np.uint8), *pictures(1)]
    assert calibrate(
        tiny, make_plan(tiny, "int8"), black
    ).is_calibrated  # one black picture among others is none of our business


def test_images_that_are_not_finite(tiny):
    bad = torch.randn(1, 3, 64, 64)
    bad[0, 1, 3, 3] = float("nan")
    words = "values of stage0:0:0/input must be finite, got nan to nan: check the calibration images and the weights"
    one_line([torch.randn(1, 3, 64, 64), bad], CalibrationError, words, tiny)
    for observer in ("omse", "percentile", "minmax"):
        text = f'[[rules]]\nactivation = {{ format = "int8", observer = "{observer}" }}'
        one_line([bad], CalibrationError, words, tiny, parse_scheme(text, observer))


def test_weights_that_are_not_finite(make_tiny):
    model = make_tiny(4)
    conv = model.float_encoder.get_submodule("backbone.stages.0.op_list.0.conv")
    conv.weight[0, 0, 0, 0] = float("inf")
    for observer in ("minmax", "omse"):
        text = f'[[rules]]\nweight = {{ format = "int8", observer = "{observer}" }}'
        one_line((), CalibrationError, "values of stage0:0:0/weight must be finite", model, parse_scheme(text, "w"))


def test_a_site_that_never_varies_is_named(make_tiny):
    model = make_tiny(5)
    norm = model.float_encoder.get_submodule("backbone.stages.0.op_list.0.norm")
    norm.weight.zero_()
    norm.bias.zero_()
    words = "values of stage0:0:0/norm must vary, got the constant 0 in all 2 calibration images: .* in float"
    one_line(pictures(2), CalibrationError, words, model)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(3, 64, 64), r"must be float \(N, 3, 64, 64\), got float32 \(3, 64, 64\): give the uint8 image"),
        (torch.zeros(1, 3, 32, 64), r"got float32 \(1, 3, 32, 64\)"),
        (torch.zeros(0, 3, 64, 64), r"got float32 \(0, 3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "got uint8"),
        (np.zeros((8, 8), np.uint8), r"got shape \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), "dtype float32"),
    ],
)
def test_images_of_the_wrong_form(tiny, image, words):
    one_line([image], InputError, words, tiny)


def test_files_that_are_no_pictures(tiny, tmp_path):
    (tmp_path / "a.png").write_text("hello")
    one_line([tmp_path / "a.png"], ImageError, "is not an image", tiny)
    one_line([tmp_path / "absent.png"], ImageError, "absent.png", tiny)
    one_line("scenes:4", InputError, r"got the single 'scenes:4': .*open_images", tiny)
    one_line(tmp_path, InputError, "got the single", tiny)


def test_a_plan_prints_as_one_line(tiny):
    bare = make_plan(tiny, load_scheme("int8"), "openvino")
    start = f"<Plan: int8 of {tiny.name}, placement openvino, {len(bare.sites)} quantized tensors"
    assert repr(bare) == f"{start}, not calibrated>"
    repaired = repair_plan(tiny, bare, [preprocess(image, 64) for image in pictures(2)], "streams")
    assert repr(repaired) == f"{start}, repaired by streams, calibrated on 2 images>"
