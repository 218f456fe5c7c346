"""Masks of one picture: what is said of them, and how two answers are compared."""

import json

import numpy as np
import pytest

from quantsam.data.coco_masks import encode_mask
from quantsam.metrics.iou import mask_iou
from quantsam.prediction.everything import FoundMask
from quantsam.prediction.regions import tight_box
from quantsam.runtime import picture
from quantsam.runtime.picture import PicturePrompts, agreements, matches, segment_picture

IMAGE = np.zeros((12, 16, 3), np.uint8)


def rectangle(left, top, right, bottom):
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[top:bottom, left:right] = True
    return mask


class Answers:
    """Answers with given masks whatever is asked."""

    def __init__(self, *masks):
        self.masks = masks

    def set_image(self, image):
        pass

    def best_masks(self, *, points=None, labels=None, boxes=None):
        return np.stack(self.masks), np.linspace(0.5, 0.75, len(self.masks), dtype=np.float32)

    def segment_everything(self, image, settings, progress, tally):
        asked = (1.0, 2.0), (0, 0, 16, 12)
        return [FoundMask(encode_mask(m), int(m.sum()), tight_box(m), 0.5, 0.75, *asked) for m in self.masks]


def found(*masks):
    return segment_picture(Answers(*masks), IMAGE, PicturePrompts())


def answered(*masks):
    return segment_picture(Answers(*masks), IMAGE, PicturePrompts(boxes_xyxy=((0.0, 0.0, 9.0, 9.0),) * len(masks)))


def test_a_prompted_mask_in_json():
    boxes = ((1.0, 2.0, 9.0, 9.0), (0.0, 0.0, 3.0, 3.0))
    masks = [rectangle(2, 3, 8, 9), rectangle(0, 0, 0, 0)]
    first, empty = segment_picture(Answers(*masks), IMAGE, PicturePrompts(boxes_xyxy=boxes))
    told = first.to_json_dict()
    assert list(told) == ["segmentation", "area", "bbox", "predicted_iou", "box_xyxy"]
    assert told == {
        "segmentation": encode_mask(masks[0]),
        "area": 36,
        "bbox": [2, 3, 6, 6],
        "predicted_iou": 0.5,
        "box_xyxy": [1.0, 2.0, 9.0, 9.0],
    }
    assert json.loads(json.dumps(told)) == told
    assert (empty.to_json_dict()["area"], empty.to_json_dict()["bbox"]) == (0, [0, 0, 0, 0])


def test_points_that_refine_a_box_in_json():
    prompts = PicturePrompts(((1.0, 2.0, 9.0, 9.0),), ((3.0, 4.0),), (1,))
    (mask,) = segment_picture(Answers(rectangle(2, 3, 8, 9)), IMAGE, prompts)
    asked = {"points_xy": [[3.0, 4.0]], "labels": [1], "box_xyxy": [1.0, 2.0, 9.0, 9.0]}
    assert list(mask.to_json_dict().items())[4:] == list(asked.items())


def test_a_found_mask_in_json_is_its_own():
    answers = Answers(rectangle(2, 3, 8, 9))
    (mask,) = found(*answers.masks)
    assert mask.to_json_dict() == answers.segment_everything(IMAGE, None, None, None)[0].to_json_dict()
    assert mask.mask.tolist() == answers.masks[0].tolist()


def test_a_mask_is_compressed_only_where_it_is_asked_for(monkeypatch):
    calls = []
    monkeypatch.setattr(picture, "encode_mask", lambda mask: calls.append(mask) or {})
    (mask,) = answered(rectangle(2, 3, 8, 9))
    assert (mask.area, mask.box_xyxy, mask.predicted_iou) == (36, (2, 3, 8, 9), 0.5)
    assert calls == []
    mask.to_json_dict()
    assert len(calls) == 1


def test_agreements_are_those_of_whole_masks():
    rng = np.random.default_rng(0)

    def some(count):
        for _ in range(count):
            (left, right), (top, bottom) = np.sort(rng.integers(0, 17, 2)), np.sort(rng.integers(0, 13, 2))
            yield rectangle(left, top, right + 1, bottom + 1) & (rng.random(IMAGE.shape[:2]) < 0.7)

    a, b = list(some(30)), list(some(30))
    a, b = [mask for mask in a if mask.any()], [mask for mask in b if mask.any()]
    whole = [[mask_iou(x, y) for y in b] for x in a]
    assert agreements(found(*a), found(*b), paired=False) == [max(row) for row in whole]
    count = min(len(a), len(b))
    paired = agreements(answered(*a[:count]), answered(*b[:count]), paired=True)
    assert paired == [whole[i][i] for i in range(count)]
    assert len(set(paired)) > 3


def test_empty_masks_agree_and_no_mask_agrees_with_nothing():
    nothing, something = rectangle(0, 0, 0, 0), rectangle(0, 0, 2, 2)
    assert agreements(answered(nothing, nothing), answered(nothing, something), paired=True) == [1.0, 0.0]
    assert agreements(found(something), [], paired=False) == [0.0]
    with pytest.raises(ValueError, match="shorter"):
        agreements(answered(something, something), answered(something), paired=True)


def test_only_masks_whose_boxes_overlap_are_compared(monkeypatch):
    compared = []
    monkeypatch.setattr(picture, "mask_iou", lambda a, b: compared.append(a.shape) or 0.5)
    tiles = [rectangle(x, 0, x + 4, 6) for x in (0, 4, 8, 12)]
    assert agreements(found(*tiles), found(*tiles), paired=False) == [0.5] * 4
    assert compared == [(6, 4)] * 4


def test_a_comparison_can_be_watched_and_ended():
    rows = []

    def progress(items, total):
        for item in items:
            rows.append(total)
            if len(rows) == 2:
                raise KeyboardInterrupt
            yield item

    tiles = [rectangle(x, 0, x + 4, 6) for x in (0, 4, 8)]
    with pytest.raises(KeyboardInterrupt):
        agreements(found(*tiles), found(*tiles), paired=False, progress=progress)
    assert rows == [3, 3]


def test_masks_of_one_object_have_one_number():
    left, right, small = rectangle(0, 0, 8, 12), rectangle(8, 0, 16, 12), rectangle(0, 0, 2, 2)
    nearly_left = rectangle(0, 0, 7, 12)
    assert matches(found(left, right), found(right, small, nearly_left)) == [1, 2, 0]
    assert matches(found(left), found(left, nearly_left)) == [0, 1]  # each is paired once
    assert matches([], found(left)) == [0]
    assert matches(found(left), []) == []
