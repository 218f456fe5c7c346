"""Repair `reflect`: massive positions come to lie in one channel, and the float model stays the same."""

import dataclasses

import pytest
import torch

import quantsam as qs
from quantsam.engines.encoder import make_engine_encoder
from quantsam.errors import PlanError
from quantsam.models.massive import with_massive_positions
from quantsam.models.reflect import reflect_streams
from quantsam.notices import Notice
from quantsam.plans.prepare import prepare
from quantsam.plans.storage import load_plan, save_plan
from quantsam.plans.transforms import ReflectStreams
from quantsam.prediction.transforms import preprocess
from quantsam.repair.reflect import reflection_of_streams
from quantsam.repair.repair import repair_plan
from quantsam.simulation.simulator import simulate

ENGINES = ("onnxruntime", "openvino", "tensorrt")


@pytest.fixture(scope="module")
def images():
    return qs.open_images("scenes:4:1")


@pytest.fixture(scope="module")
def nano():
    return qs.load_model("nano")


@pytest.fixture(scope="module")
def seen(nano, images):
    return torch.cat([preprocess(image, nano.variant.input_size) for image in images])


@pytest.fixture(scope="module")
def massive(nano, seen):
    return with_massive_positions(nano, seen, ratio=200)


@pytest.fixture(scope="module")
def image(nano):
    return preprocess(qs.open_images("scenes:1:7")[0], nano.variant.input_size)


@pytest.fixture(scope="module")
def plans(massive, images):
    """By engine and repairs."""
    bare = {engine: qs.make_plan(massive, "int8", engine) for engine in ENGINES}
    asked = {"plain": None, "streams": ("streams",), "reflected": ("reflect", "streams")}
    return {
        (engine, name): qs.calibrate(massive, plan, images)
        if some is None
        else repair_plan(massive, plan, images, some)
        for engine, plan in bare.items()
        for name, some in asked.items()
    }


def damage(model, plan, image):
    with torch.inference_mode():
        true, found = model.image_encoder(image), simulate(model, plan)(image)
    return float((found - true).square().mean() / true.var())


def test_the_float_model_stays_the_same(massive, plans, image):
    plan = plans["onnxruntime", "reflected"]
    assert plan.repairs == ("reflect", "streams")
    assert set(plan.transforms[1].values) >= {"stage1", "stage2", "stage3", "stage4"}
    with torch.inference_mode():
        true, found = massive.image_encoder(image), prepare(massive, plan)(image)
    assert float((found - true).abs().max() / true.abs().max()) < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_rounding_loses_little_only_where_streams_are_reflected(massive, plans, image, engine):
    plain, scaled, reflected = (
        damage(massive, plans[engine, name], image) for name in ("plain", "streams", "reflected")
    )
    assert reflected < 0.03 * plain
    assert scaled > 0.3 * plain  # no scale per channel does it


def test_the_massive_positions_lie_in_one_channel(massive, plans, image):
    encoder = prepare(massive, plans["openvino", "reflected"])
    reader = encoder.get_submodule("backbone.stages.3.op_list.1.main.inverted_conv.conv")
    found = []
    reader.register_forward_pre_hook(lambda _, x: found.append(x[0].flatten(2)[0]))
    with torch.inference_mode():
        encoder(image)
    outstanding = found[0].abs().amax(1) / found[0].square().mean(1).sqrt()
    assert int((outstanding > 12).sum()) == 1
    assert int((outstanding > 8).sum()) == 1


def test_onnxruntime_computes_what_the_simulation_does(massive, plans, image):
    pytest.importorskip("onnxruntime")
    plan = plans["onnxruntime", "reflected"]
    found = make_engine_encoder(massive, plan, "onnxruntime")(image)
    with torch.inference_mode():
        exact, true = simulate(massive, plan, exact=True)(image), massive.image_encoder(image)
    assert (found - exact).square().mean() < 0.01 * (exact - true).square().mean()


def test_streams_without_massive_positions_stay_as_they_are(nano, images):
    for model in (nano, qs.load_model("nano-outlier")):  # the outliers of the second are channels already
        plan = qs.make_plan(model, "int8", "openvino")
        assert reflection_of_streams(prepare(model, plan), plan, images) is None


def test_a_placement_that_keeps_batchnorm_is_told(massive, images):
    plan = qs.make_plan(massive, "int8", "thesis")
    with pytest.warns(Notice, match="repair reflect needs BatchNorm folded, which placement thesis does not do"):
        assert repair_plan(massive, plan, images, "reflect").repairs == ()


def test_a_plan_whose_streams_are_scaled_is_reflected_first(massive, plans, images):
    again = repair_plan(massive, plans["openvino", "streams"], images, ("reflect",))
    assert again.digest == plans["openvino", "reflected"].digest


def test_it_is_saved_and_damaged_files_are_refused(massive, plans, tmp_path):
    plan = plans["openvino", "reflected"]
    assert load_plan(save_plan(plan, tmp_path / "plan"), massive).digest == plan.digest
    good = plan.transforms[1].values["stage1"]
    for values, message in (
        ({"stage9": good}, "a reflected stream must be one of stage1, .*got 'stage9'"),
        ({"stage1": good[:, :5]}, r"stage1 has 32 channels, got mirrors \(2, 5\)"),
        ({"stage1": 2 * good}, "the mirror of stage1 must be its own inverse"),
    ):
        odd = dataclasses.replace(plan, transforms=(plan.transforms[0], ReflectStreams(values)))
        with pytest.raises(PlanError, match=message):
            prepare(massive, odd)


def test_a_reflection_is_its_own_inverse(massive, plans, image):
    plan = plans["openvino", "plain"]
    mirrors = plans["openvino", "reflected"].transforms[1].values
    folded = prepare(massive, plan)
    with torch.inference_mode():
        torch.testing.assert_close(
            reflect_streams(reflect_streams(folded, mirrors), mirrors)(image), folded(image), rtol=1e-3, atol=1e-4
        )
