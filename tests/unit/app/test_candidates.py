"""The local page's server: the three masks of a prompt."""

import json

import numpy as np
import pytest
import torch

from quantsam.app import pictures, segmenting
from quantsam.app.candidates import ObjectMasks, iou_table, packed
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


def test_candidates_of_a_large_picture_are_compared_at_its_own_size(served, noise, monkeypatch):
    monkeypatch.setattr(pictures, "VIEW_SIDE", 16)
    token = served.upload(noise())
    fp32, int8, _ = served.ask(token)
    assert sum(fp32["masks"][0]["others"][0]["runs"]) == 12 * 16
    monkeypatch.undo()
    again = served.ask(served.upload(noise()))
    assert int8["iou_tables"] == again[1]["iou_tables"]
    assert [c["area"] for c in in_order(fp32["masks"][0])] == [c["area"] for c in in_order(again[0]["masks"][0])]


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
    one = ObjectMasks(tuple(packed(mask, iou) for mask, iou in zip(masks, (0.1, 0.9, 0.3), strict=True)))
    assert one.best == 1
    for candidate, mask in zip(one.candidates, masks, strict=True):
        assert (candidate.mask() == mask).all()
        assert candidate.area == mask.sum()
    assert iou_table(one, one) == [[1.0, 0.0, 0.0], [0.0, 1.0, 3 / 23], [0.0, 3 / 23, 1.0]]
