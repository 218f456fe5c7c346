"""One image's activations: float beside quantized, site by site."""

import math

import numpy as np
import pytest
import torch

import quantsam as qs
from quantsam.diagnostics.activation_figure import draw_activations
from quantsam.diagnostics.activations import compare_activations, save_activations
from quantsam.errors import InputError, PlanError
from quantsam.plans.prepare import prepare
from quantsam.simulation.simulator import simulate


@pytest.fixture(scope="module")
def plan(tiny):
    return qs.calibrate(tiny, qs.make_plan(tiny, "int8@stage3"), qs.open_images("scenes:1:9"))


@pytest.fixture(scope="module")
def picture():
    return qs.open_dataset("scenes:1:3").image(1)


@pytest.fixture(scope="module")
def found(tiny, plan, picture):
    return compare_activations(tiny, plan, picture)


def test_every_activation_is_there_in_the_order_of_the_forward_pass(tiny, plan, found):
    names = [site.site for site in found]
    assert len(names) == len(set(names))
    quantized = {site.key for site in plan.sites if site.role == "activation"}
    assert {site.site for site in found if site.format == "int8"} == quantized
    assert names[0] == "stage0:0:0/input"
    stages = [name.partition(":")[0] for name in names]
    assert stages == sorted(stages, key=list(dict.fromkeys(stages)).index)


def test_float_is_the_float_encoder_and_quantized_the_simulation(tiny, plan, picture, found):
    from quantsam.prediction.transforms import preprocess

    x = preprocess(picture, tiny.variant.input_size)
    last = found[-1]
    path = next(site.path for site in qs.make_plan(tiny, "int8").sites if site.key == last.site)
    simulated = simulate(tiny, plan, fused=False).encoder
    for encoder, mine in ((prepare(tiny, plan), last.fp32), (simulated, last.quantized)):
        seen = []
        encoder.get_submodule(path).register_forward_hook(lambda m, i, o, seen=seen: seen.append(o[0].clone()))
        with torch.inference_mode():
            encoder(x)
        assert torch.equal(seen[0], mine)


def test_nothing_differs_before_the_first_rounding(found):
    before = [site for site in found if site.site.startswith(("stage0", "stage1"))]
    behind = [site for site in found if site.site.startswith("stage4")]
    assert before
    assert all(torch.equal(site.fp32, site.quantized) and site.sqnr_db == math.inf for site in before)
    assert behind
    assert all(0 < site.sqnr_db < 110 for site in behind)


def test_the_sqnr_is_that_of_the_definition(found):
    site = found[-1]
    fp32, noise = site.fp32.double().numpy(), (site.quantized - site.fp32).double().numpy()
    assert site.sqnr_db == pytest.approx(10 * np.log10((fp32**2).sum() / (noise**2).sum()))
    by_channel = (noise**2).reshape(len(noise), -1).sum(1)
    assert site.worst_channels[0] == by_channel.argmax()
    worst = site.worst_channels[0]
    power = (fp32[worst] ** 2).sum()
    assert site.channel_sqnr_db[worst] == pytest.approx(10 * np.log10(power / by_channel[worst]))


def test_a_file_holds_both(found, tmp_path):
    save_activations(found[:2], tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file.files) == {f"{s.site}.{name}" for s in found[:2] for name in ("fp32", "quantized")}
        assert np.array_equal(file[f"{found[1].site}.quantized"], found[1].quantized.numpy())


def test_a_picture_shows_the_channels_that_differ_most(found):
    drawn = draw_activations(found[-1:], channels=2)
    site = found[-1]
    plane = site.fp32[site.worst_channels[0]].numpy()
    cell = np.asarray(drawn)[12 + 27 : 12 + 27 + 160, 12 : 12 + 160, 0]
    brightest, darkest = (np.unravel_index(f(plane), plane.shape) for f in (np.argmax, np.argmin))
    scale = 160 / np.array(plane.shape)
    centre = lambda place: tuple(((np.array(place) + 0.5) * scale).astype(int))  # noqa: E731
    assert cell[centre(brightest)] == 255
    assert cell[centre(darkest)] == 0
    assert drawn.height == 12 + 2 * (160 + 34)


def test_what_cannot_be_compared(tiny, plan):
    with pytest.raises(PlanError, match="must be calibrated"):
        compare_activations(tiny, qs.make_plan(tiny, "int8"), torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="activations are of one image, got a batch of 2"):
        compare_activations(tiny, plan, torch.zeros(2, 3, 64, 64))
