"""The local page's server: the three masks of a prompt."""

import json

import numpy as np
import pytest
import torch

from quantsam.app import pictures, segmenting
from quantsam.app.candidates import ObjectMasks, iou_table, packed
from quantsam.app.pictures import make_picture
from quantsam.metrics.iou import mask_iou
from quantsam.prediction.predictor import Predictor

BOXES = [[4, 4, 40, 40], [10, 10, 60, 44]]


def in_order(mask):
    return sorted([mask, *mask["others"]], key=lambda candidate: candidate["number"])


def pixels(candidate, shape=(48, 64)):
    return np.repeat(np.arange(len(candidate["runs"])) % 2 == 1, candidate["runs"]).reshape(shape)


def test_a_prompt_has_the_models_three_masks_and_the_best_one_comes_first(served, tiny, noise):
    predictor = Predictor(tiny)
    predictor.set_image(noise())
    expected, iou, _ = predictor.predict_batch(boxes=torch.tensor(BOXES, dtype=torch.float32))
    fp32, *_ = served.ask(served.upload(noise()), boxes=BOXES, schemes=[])
    for mask, masks, ious in zip(fp32["masks"], expected.numpy(), iou.tolist(), strict=True):
        assert mask["number"] == int(np.argmax(ious))
        candidates = in_order(mask)
        assert [candidate["number"] for candidate in candidates] == [0, 1, 2]
        assert [candidate["predicted_iou"] for candidate in candidates] == pytest.approx(ious, rel=1e-4)
        assert [candidate["area"] for candidate in candidates] == [mask.sum() for mask in masks]
        assert all((pixels(candidate) == mask).all() for candidate, mask in zip(candidates, masks, strict=True))
    assert len({json.dumps(candidate["runs"]) for candidate in in_order(fp32["masks"][0])}) == 3


def test_every_mask_is_compared_with_every_one_of_fp32(served, noise):
    fp32, int8, _ = served.ask(served.upload(noise()), boxes=BOXES)
    assert fp32["iou_tables"] is None
    assert len(int8["iou_tables"]) == 2
    for table, a, b, best in zip(int8["iou_tables"], fp32["masks"], int8["masks"], int8["ious"], strict=True):
        expected = [[mask_iou(pixels(x), pixels(y)) for y in in_order(b)] for x in in_order(a)]
        assert table == expected
        assert best == table[a["number"]][b["number"]]


def test_of_a_large_picture_the_best_masks_are_compared_at_its_own_size_the_others_as_shown(served, noise, monkeypatch):
    whole = served.ask(served.upload(noise()))
    monkeypatch.setattr(pictures, "VIEW_SIDE", 16)
    fp32, int8, _ = served.ask(served.upload(noise()))
    view = make_picture(noise())
    assert view.view_hw == (12, 16)
    for small, large in zip((fp32, int8), whole, strict=False):
        for found, full in zip(in_order(small["masks"][0]), in_order(large["masks"][0]), strict=True):
            assert (pixels(found, (12, 16)) == view.to_view(pixels(full))).all()
            assert found["predicted_iou"] == full["predicted_iou"]
        assert small["masks"][0]["area"] == large["masks"][0]["area"]
        for other in small["masks"][0]["others"]:
            assert other["area"] == 16 * pixels(other, (12, 16)).sum()
    best = fp32["masks"][0]["number"], int8["masks"][0]["number"]
    assert int8["ious"] == whole[1]["ious"]
    for row, mine in enumerate(in_order(fp32["masks"][0])):
        for column, theirs in enumerate(in_order(int8["masks"][0])):
            expected = mask_iou(pixels(mine, (12, 16)), pixels(theirs, (12, 16)))
            expected = int8["ious"][0] if (row, column) == best else expected
            assert int8["iou_tables"][0][row][column] == expected


def test_what_was_found_has_no_candidates(served, noise, five_found):
    fp32, int8, _ = served.ask(served.upload(noise()), everything=True)
    assert [set(mask) for mask in fp32["masks"]] == [{"runs", "area", "predicted_iou"}] * 5
    assert int8["iou_tables"] is None


def test_everything_is_looked_for_once(served, noise, monkeypatch):
    calls = []
    found = segmenting.ModelSegmenter.segment_everything
    monkeypatch.setattr(
        segmenting.ModelSegmenter, "segment_everything", lambda *args: calls.append(args) or found(*args)
    )
    token, grid = served.upload(noise()), {"points_per_side": 2, "min_iou": 0, "min_stability": 0}
    first = served.ask(token, everything=True, grid=grid)
    assert len(calls) == 2
    assert served.ask(token, everything=True, grid=grid) == first
    assert served.save(token, everything=True, grid=grid, kind="coco").status_code == 200
    assert len(calls) == 2
    served.ask(token, everything=True, grid=grid | {"points_per_side": 3}, schemes=[])
    assert len(calls) == 3


def test_masks_are_packed_and_compared_as_they_are():
    masks = [np.zeros((5, 7), bool), np.zeros((5, 7), bool), np.eye(5, 7, dtype=bool)]
    masks[1][1:4] = True
    small = tuple(packed(mask, 0.5) for mask in masks)
    for candidate, mask in zip(small, masks, strict=True):
        assert (candidate.mask() == mask).all()
        assert candidate.area == mask.sum()
    one = ObjectMasks(small, 1, packed(np.eye(20, dtype=bool), 0.5))
    two = ObjectMasks(small, 1, packed(np.ones((20, 20), bool), 0.5))
    assert iou_table(one, two) == [[1.0, 0.0, 0.0], [0.0, 20 / 400, 3 / 23], [0.0, 3 / 23, 1.0]]
