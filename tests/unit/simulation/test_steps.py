"""Encoders as chains of steps."""

import dataclasses

import pytest
import torch

import quantsam as qs
from quantsam.plans.prepare import prepare
from quantsam.sensitivity.rows import make_rows
from quantsam.simulation.simulator import assemble
from quantsam.simulation.steps import SharedEncoders, State, encoder_steps, run_steps


@pytest.fixture(scope="module")
def model(tiny):
    return tiny


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_steps_compute_what_the_encoder_does(model, image):
    with torch.inference_mode():
        assert torch.equal(run_steps(encoder_steps(model.float_encoder), State(image)).x, model.float_encoder(image))


def test_there_is_one_step_a_layer_and_every_weight_is_in_one(model):
    steps = encoder_steps(model.float_encoder)
    convolutions = [name for name, module in model.float_encoder.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert [sum(step.owns(name) for step in steps) for name in convolutions] == [1] * len(convolutions)
    assert len(steps) > 30


@pytest.mark.parametrize("placement", ["thesis", "openvino", "onnxruntime+additions"])
@pytest.mark.parametrize("mode", ["in", "out"])
def test_a_variant_gives_what_its_own_encoder_gives(model, image, placement, mode):
    plan = qs.calibrate(model, qs.make_plan(model, "int8", placement), qs.open_images("scenes:2:1"))
    rows = make_rows(plan, mode=mode)[::5]
    prepared = prepare(model, plan)
    base = dataclasses.replace(plan, sites=() if mode == "in" else plan.sites)
    variants = [(assemble(prepared, row.plan), row.paths) for row in rows]
    with torch.inference_mode():
        shared = SharedEncoders(assemble(prepared, base), variants)
        found = {index: task() for index, task in shared.tasks(image, range(len(rows)))}
        assert found.keys() == {*range(len(rows)), -1}
        for index, row in enumerate(rows):
            assert torch.equal(found[index], qs.simulate(model, row.plan)(image)), row.name
