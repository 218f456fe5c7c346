"""Repair `ranges`: what the grids of activations span."""

import torch

import quantsam as qs
from quantsam.plans.prepare import prepare
from quantsam.repair.ranges import choose_ranges


def test_the_bits_of_weights_do_not_make_activations_clip(tiny):
    """The error of a coarse weight grows with its input, so a clipped input would seem to mend it."""
    images, found = qs.open_images("scenes:3:1"), {}
    for scheme in ("w4a8", "w16a8"):
        plan = qs.calibrate(tiny, qs.make_plan(tiny, scheme, "openvino"), images)
        ranges = choose_ranges(prepare(tiny, plan), plan, images)
        found[scheme] = {} if ranges is None else ranges.values
    coarse, fine = found["w4a8"], found["w16a8"]
    same = [key for key in coarse.keys() & fine.keys() if torch.allclose(coarse[key], fine[key], rtol=1e-4)]
    assert fine
    assert len(same) >= 0.9 * len(coarse.keys() | fine.keys())
