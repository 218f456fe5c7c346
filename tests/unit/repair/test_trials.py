"""Trials: what the error of a convolution's output says of scales, shifts and positions."""

import pytest
import torch

import quantsam as qs
from quantsam.repair.extremes import ChannelRange
from quantsam.repair.trials import InputTrial, PositionWeights, ShiftTrial

CONV = "backbone.stages.3.op_list.1.main.inverted_conv.conv"


@pytest.fixture(scope="module")
def encoder(tiny):
    return tiny.float_encoder


def sites(tiny, scheme):
    plan = qs.make_plan(tiny, scheme, "openvino")
    return next(pair for pair in plan.quantized_convolutions() if pair[0].path == CONV)


def shown(conv, *, massive):
    """Return an input (1, in, 8, 8) with one massive position, and its channels' range."""
    x = torch.randn(1, conv.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, 0, 0] = massive
    return x, ChannelRange(x.amin((0, 2, 3)), x.amax((0, 2, 3)))


def test_an_error_counts_relative_to_its_position_and_the_median_one():
    true = torch.ones(1, 2, 4, 4)
    true[..., 0, 0] = 100
    weights = PositionWeights(true, torch.tensor([1.0, 3.0], dtype=torch.float64))
    usual, massive = true.clone(), true.clone()
    usual[..., 2, 2] += 0.1
    massive[..., 0, 0] += 0.1
    # energy 4 at the median position and at the usual one, 40,000 at the massive one
    torch.testing.assert_close(weights.errors(usual), torch.tensor([0.01, 0.03]).double() / 8)
    torch.testing.assert_close(weights.errors(massive), torch.tensor([0.01, 0.03]).double() / 40_004, rtol=1e-4, atol=0)


def test_a_scale_takes_an_outlier_channel_from_the_grid(tiny, encoder):
    conv = encoder.get_submodule(CONV)
    weight, x_site = sites(tiny, "int8")
    x, _ = shown(conv, massive=0.0)
    x[:, 0] *= 64
    seen = ChannelRange(x.amin((0, 2, 3)), x.amax((0, 2, 3)))
    exponents = torch.zeros(conv.in_channels, dtype=torch.int32)
    scaled = exponents.clone()
    scaled[0] = 6
    trial = InputTrial(encoder, weight, x_site, seen, torch.ones(conv.out_channels).double(), [exponents, scaled])
    with torch.inference_mode():
        trial.look(x)
    assert trial.positions == 64
    assert trial.errors[1] < 0.3 * trial.errors[0]


def test_a_shift_far_from_the_values_costs_coarse_weights_more_than_it_saves(tiny, encoder):
    conv = encoder.get_submodule(CONV)
    x, seen = shown(conv, massive=-60.0)  # the middle of the range is where no value is
    shifts = (torch.zeros(conv.in_channels), (seen.low + seen.high) / 2)
    errors = {}
    for scheme in ("int8", "w4a8"):
        trial = ShiftTrial(encoder, *sites(tiny, scheme), seen, torch.ones(conv.out_channels).double(), shifts)
        with torch.inference_mode():
            trial.look(x)
        errors[scheme] = trial.errors / trial.positions
    assert errors["w4a8"][1] > 2 * errors["w4a8"][0]
    assert errors["w4a8"][1] > 10 * errors["int8"][1]


def test_padding_has_no_say_in_what_is_usual_and_images_none_in_each_other():
    true = torch.ones(2, 1, 4, 4)
    true[0, :, 1:] = 0  # three quarters of the first picture are padding
    true[1] = 3
    weights = PositionWeights(true, torch.ones(1, dtype=torch.float64))
    for image, energy in ((0, 1.0), (1, 9.0)):
        y = true.clone()
        y[image, :, 0, 0] += 0.1
        torch.testing.assert_close(weights.errors(y), torch.tensor([0.01 / (2 * energy)]).double())
    nothing = PositionWeights(torch.zeros(1, 1, 2, 2), torch.ones(1, dtype=torch.float64))
    assert nothing.errors(torch.zeros(1, 1, 2, 2)) == 0
