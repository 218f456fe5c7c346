"""Segment everything: filters, duplicates, crops and the form of the result, with models whose answers are known."""

import functools
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_api

from quantsam.errors import DatasetError, InputError
from quantsam.prediction import automatic
from quantsam.prediction.automatic import FoundMask, GridSettings, segment_everything
from quantsam.prediction.predictor import Predictor
from quantsam.prediction.transforms import MaskResize

SIDE = 64  # of `tiny`'s prompt frame and of its masks: those of a 64 x 64 picture are up-sampled by nothing
PICTURE = np.zeros((SIDE, SIDE, 3), np.uint8)
ALL = GridSettings(points_per_side=2, iou_threshold=0.0, stability_threshold=0.0)


def settings(**changes):
    return GridSettings(**{"points_per_side": 2, "iou_threshold": 0.0, "stability_threshold": 0.0} | changes)


def rectangle(x0, y0, x1, y1, inside=10.0):
    logits = torch.full((SIDE, SIDE), -10.0)
    logits[y0:y1, x0:x1] = inside
    return logits


NOTHING = rectangle(0, 0, 0, 0)
SQUARES = [rectangle(x, y, x + 10, y + 10) for y in (4, 40) for x in (4, 40)]  # apart, as the points of a 2 x 2 grid


def answer_with(model, decode):
    """Let `decode(embedding, points=..., multimask=..., low_hw=...)` answer a model's prompts."""
    cpu = torch.device("cpu")
    model.image_decoder = lambda embedding: SimpleNamespace(
        decode=functools.partial(decode, embedding), device=cpu, low_size=SIDE
    )


def scripted(tiny, *answers):
    """Return a model that answers the points of each encoded crop, in order, with lists of (logits, predicted IoU)."""
    calls = itertools.count()
    left = []

    def encode(x):
        assert x.shape == (1, 3, SIDE, SIDE)
        left[:] = answers[next(calls) % len(answers)]
        return torch.zeros(1, 64, 16, 16)

    def decode(embedding, *, points, multimask, low_hw):
        xy, labels = points
        assert multimask
        assert labels.tolist() == [[1]] * len(xy)
        batch, left[:] = left[: len(xy)], left[len(xy) :]
        batch = [one + [(NOTHING, 0.99)] * (3 - len(one)) for one in batch]
        return (
            torch.stack([torch.stack([logits for logits, _ in one]) for one in batch]),
            torch.tensor([[iou for _, iou in one] for one in batch]),
        )

    model = tiny.with_encoder(encode)
    answer_with(model, decode)
    return model


def one_each(masks, iou=0.9):
    return [[(mask, iou)] for mask in masks]


def boxes(found):
    return [mask.box_xyxy for mask in found]


def test_masks_are_found_as_they_are(tiny):
    found = segment_everything(scripted(tiny, one_each(SQUARES)), PICTURE, ALL)
    assert boxes(found) == [(4, 4, 14, 14), (40, 4, 50, 14), (4, 40, 14, 50), (40, 40, 50, 50)]
    assert [mask.point_xy for mask in found] == [(16, 16), (48, 16), (16, 48), (48, 48)]
    for mask, logits in zip(found, SQUARES, strict=True):
        np.testing.assert_array_equal(mask.mask(), logits.numpy() > 0)
        assert (mask.area, mask.stability, mask.crop_box_xyxy) == (100, 1.0, (0, 0, 64, 64))
        assert mask.predicted_iou == pytest.approx(0.9)


def test_the_form_of_the_result(tiny):
    answers = [[(rectangle(3, 5, 7, 6), 0.5)], [], [], []]
    picture = np.zeros((64, 32, 3), np.uint8)
    (found,) = segment_everything(scripted(tiny, answers), picture, ALL)
    form = json.loads(json.dumps(found.to_json_dict()))
    rle = form.pop("segmentation")
    assert form == {
        "area": 4,
        "bbox": [3, 5, 4, 1],
        "predicted_iou": 0.5,
        "point_coords": [[8.0, 16.0]],
        "stability_score": 1.0,
        "crop_box": [0, 0, 32, 64],
    }
    expected = np.zeros((64, 32), bool)
    expected[5, 3:7] = True
    np.testing.assert_array_equal(coco_api.decode(rle), expected)
    assert found.mask().dtype == np.bool_
    assert coco_api.toBbox(rle).tolist() == [3, 5, 4, 1]
    assert rle == found.rle
    assert found.to_json_dict()["segmentation"] is not found.rle


def test_a_damaged_mask_is_said_to_be_so():
    broken = FoundMask({"size": [4, 4], "counts": "0"}, 1, (0, 0, 1, 1), 0.9, 1.0, (0, 0), (0, 0, 4, 4))
    with pytest.raises(DatasetError, match="the found mask: the RLE's runs do not fill"):
        broken.mask()


def test_the_best_come_first_and_equals_in_the_order_of_points(tiny):
    a, b, c, d = SQUARES
    e = rectangle(24, 24, 34, 34)
    answers = [[(a, 0.5), (e, 0.75)], [(b, 0.25)], [(c, 0.75)], [(d, 0.5)]]
    for count in (1, 3, 64):
        found = segment_everything(scripted(tiny, answers), PICTURE, settings(points_per_batch=count))
        assert [mask.predicted_iou for mask in found] == [0.75, 0.75, 0.5, 0.5, 0.25]
        assert [box[:2] for box in boxes(found)] == [(24, 24), (4, 40), (4, 4), (40, 40), (40, 4)]
        assert [mask.point_xy for mask in found] == [(16, 16), (16, 48), (16, 16), (48, 48), (48, 16)]


def test_masks_of_low_predicted_iou_are_dropped(tiny):
    answers = [[(mask, iou)] for mask, iou in zip(SQUARES, (0.5, 0.25, -0.25, 0.75), strict=True)]
    for threshold, kept in ((0.5, [0.75]), (0.49, [0.75, 0.5]), (0.0, [0.75, 0.5, 0.25, -0.25]), (1.0, [])):
        found = segment_everything(scripted(tiny, answers), PICTURE, settings(iou_threshold=threshold))
        assert [mask.predicted_iou for mask in found] == kept


def test_a_predicted_iou_that_is_no_number_is_dropped(tiny):
    answers = [*one_each(SQUARES[:3]), [(SQUARES[3], float("nan"))]]
    assert len(segment_everything(scripted(tiny, answers), PICTURE, ALL)) == 3


def test_masks_that_are_not_stable_are_dropped(tiny):
    core, inner, outer = rectangle(10, 10, 20, 16), rectangle(10, 10, 20, 18, 0.5), rectangle(10, 10, 20, 20, -0.5)
    answers = [[(torch.stack([core, inner, outer]).amax(0), 0.9)], [], [], []]  # 60 px, 80 over 0, 100 over -1

    def found(**changes):
        return segment_everything(scripted(tiny, answers), PICTURE, settings(**changes))

    (mask,) = found()
    assert (mask.area, mask.stability) == (80, 0.6)
    assert len(found(stability_threshold=0.6)) == 1
    assert not found(stability_threshold=0.61)
    assert found(stability_threshold=0.61, stability_offset=0.4)[0].stability == 1.0


def test_empty_masks_are_never_found(tiny):
    below = torch.full((SIDE, SIDE), -0.5)  # over the lowered threshold, but nowhere over 0
    padding = rectangle(0, 40, 64, 64)  # only where a wide picture has none
    answers = [[(below, 0.9)], [(padding, 0.9)], [(NOTHING, 0.9)], []]
    assert segment_everything(scripted(tiny, answers), PICTURE[:32], ALL) == []


def test_duplicates_of_a_crop_are_dropped(tiny):
    first, larger = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 14)  # IoU of the boxes 100 / 140
    answers = [[(first, 0.5)], [(larger, 0.75)], [], []]

    def found(threshold):
        return boxes(segment_everything(scripted(tiny, answers), PICTURE, settings(box_nms_threshold=threshold)))

    assert found(0.7) == [(0, 0, 10, 14)]
    assert found(0.72) == [(0, 0, 10, 14), (0, 0, 10, 10)]


def test_only_candidates_are_upsampled_and_few_at_a_time(tiny, monkeypatch):
    upsampled = []

    def spy(resize, masks):
        upsampled.append(len(masks))
        return original(resize, masks)

    original = MaskResize.__call__
    monkeypatch.setattr(MaskResize, "__call__", spy)
    answers = [[(SQUARES[0], 0.9), (SQUARES[1], 0.1)], [(SQUARES[2], 0.9)], [(SQUARES[3], 0.9)], []]
    strict = settings(iou_threshold=0.5)
    at_once = segment_everything(scripted(tiny, answers), PICTURE, strict)
    assert upsampled == [3]
    monkeypatch.setattr(automatic, "_LOGITS_AT_ONCE", 2 * SIDE * SIDE)
    in_parts = segment_everything(scripted(tiny, answers), PICTURE, strict)
    assert upsampled == [3, 2, 1]
    monkeypatch.setattr(automatic, "_LOGITS_AT_ONCE", 1)
    one_by_one = segment_everything(scripted(tiny, answers), PICTURE, strict)
    assert upsampled == [3, 2, 1, 1, 1, 1]
    for found in (in_parts, one_by_one):
        assert [mask.to_json_dict() for mask in found] == [mask.to_json_dict() for mask in at_once]


def test_progress_sees_every_batch(tiny):
    seen = []

    def progress(batches, total):
        seen.append(total)
        for batch in batches:
            seen.append("batch")
            yield batch

    picture = np.zeros((128, 128, 3), np.uint8)
    grid = settings(points_per_side=4, points_per_batch=3, crop_layers=1, crop_points_downscale=2)
    # 16 points in batches of 3, then four crops with 4 points each
    segment_everything(scripted(tiny, [[]] * 16, *[[[]] * 4] * 4), picture, grid, progress)
    assert seen == [6 + 4 * 2] + ["batch"] * 14


CROPS = settings(points_per_side=1, crop_layers=1, crop_overlap_ratio=0.0)  # four crops of 64 x 64 of 128 x 128
LARGE = np.zeros((128, 128, 3), np.uint8)


@pytest.mark.parametrize(
    ("crop", "inside", "cut"),
    [
        (1, (0, 0, 43, 43), [(0, 0, 44, 43), (0, 0, 43, 44), (0, 0, 64, 64)]),  # top left
        (2, (0, 21, 43, 64), [(0, 20, 43, 64), (0, 21, 44, 64)]),  # bottom left: column by column
        (3, (21, 0, 64, 43), [(20, 0, 64, 43), (21, 0, 64, 44)]),
        (4, (21, 21, 64, 64), [(20, 21, 64, 64), (21, 20, 64, 64)]),
    ],
)
def test_masks_cut_by_a_crop_are_dropped_and_others_mapped_back(tiny, crop, inside, cut):
    x, y = [(0, 0), (0, 0), (0, 64), (64, 0), (64, 64)][crop]
    answers = [[[]] for _ in range(5)]
    answers[crop] = [[(rectangle(*inside), 0.9), *((rectangle(*box), 0.95) for box in cut[:2])]]
    (found,) = segment_everything(scripted(tiny, *answers), LARGE, CROPS)
    x0, y0, x1, y1 = inside
    assert found.box_xyxy == (x0 + x, y0 + y, x1 + x, y1 + y)
    assert found.crop_box_xyxy == (x, y, x + 64, y + 64)
    assert found.point_xy == (x + 32, y + 32)
    expected = np.zeros((128, 128), bool)
    expected[y0 + y : y1 + y, x0 + x : x1 + x] = True
    np.testing.assert_array_equal(found.mask(), expected)
    answers[crop] = [[(rectangle(*box), 0.95) for box in cut]]
    assert segment_everything(scripted(tiny, *answers), LARGE, CROPS) == []


def test_of_duplicates_between_crops_the_one_of_the_smaller_stays(tiny):
    whole = [[(rectangle(5, 5, 20, 20), 0.9)]]  # 30 x 30 px of the image
    crop = [[(rectangle(10, 10, 40, 40), 0.5)]]
    (found,) = segment_everything(scripted(tiny, whole, crop, [[]], [[]], [[]]), LARGE, CROPS)
    assert (found.predicted_iou, found.crop_box_xyxy) == (0.5, (0, 0, 64, 64))
    both = settings(points_per_side=1, crop_layers=1, crop_overlap_ratio=0.0, crop_nms_threshold=1.0)
    found = segment_everything(scripted(tiny, whole, crop, [[]], [[]], [[]]), LARGE, both)
    assert [mask.predicted_iou for mask in found] == pytest.approx([0.9, 0.5])


def test_each_crop_is_what_the_encoder_sees(tiny):
    """A model that finds what is bright finds it where it is."""
    model = tiny.with_encoder(lambda x: x.mean(1, keepdim=True))

    def decode(embedding, *, points, multimask, low_hw):
        return embedding.expand(len(points[0]), 3, -1, -1), torch.full((len(points[0]), 3), 0.9)

    answer_with(model, decode)
    picture = np.zeros((200, 260, 3), np.uint8)
    picture[24:60, 196:228] = 255
    (found,) = segment_everything(model, picture, settings(crop_layers=1))
    assert found.crop_box_xyxy == (96, 0, 260, 134)
    np.testing.assert_allclose(found.box_xyxy, (196, 24, 228, 60), atol=2)
    picture[24:60, 60:228] = 255  # now every crop's border cuts it
    (found,) = segment_everything(model, picture, settings(crop_layers=1))
    assert found.crop_box_xyxy == (0, 0, 260, 200)
    np.testing.assert_allclose(found.box_xyxy, (60, 24, 228, 60), atol=4)


def test_points_reach_the_decoder_in_the_prompt_frame_of_their_crop(tiny):
    asked = []

    def decode(embedding, *, points, multimask, low_hw):
        asked.append(points[0][:, 0].tolist())
        return NOTHING.expand(len(points[0]), 3, -1, -1), torch.zeros(len(points[0]), 3)

    model = tiny.with_encoder(lambda x: torch.zeros(1, 64, 16, 16))
    answer_with(model, decode)
    wide = np.zeros((128, 256, 3), np.uint8)  # its prompt frame is 64 wide and 32 high, as its crops'
    segment_everything(model, wide, settings(crop_layers=1, crop_overlap_ratio=0.0))
    assert asked == [[[16.0, 8.0], [48.0, 8.0], [16.0, 24.0], [48.0, 24.0]]] * 5


def with_flaws():
    logits = rectangle(4, 4, 24, 24)
    logits[10:12, 10:12] = -10  # a hole of 4 px
    logits[40, 40:43] = 10  # an island of 3
    return logits


def test_small_regions_are_removed(tiny):
    def found(area):
        answers = [[(with_flaws(), 0.9)], [], [], []]
        return segment_everything(scripted(tiny, answers), PICTURE, settings(min_region_area=area))[0]

    assert (found(0).area, found(0).box_xyxy) == (399, (4, 4, 43, 41))
    assert (found(4).area, found(4).box_xyxy) == (396, (4, 4, 24, 24))
    assert (found(5).area, found(5).box_xyxy) == (400, (4, 4, 24, 24))
    np.testing.assert_array_equal(found(5).mask(), rectangle(4, 4, 24, 24).numpy() > 0)
    assert found(5).predicted_iou == pytest.approx(0.9)


def test_of_masks_that_became_duplicates_the_unchanged_one_stays(tiny):
    answers = [[(with_flaws(), 0.9)], [(rectangle(4, 4, 24, 23), 0.5)], [(SQUARES[3], 0.75)], []]
    assert len(segment_everything(scripted(tiny, answers), PICTURE, ALL)) == 3
    found = segment_everything(scripted(tiny, answers), PICTURE, settings(min_region_area=5))
    assert [mask.predicted_iou for mask in found] == [0.75, 0.5]
    strict = settings(min_region_area=5, crop_nms_threshold=0.96)  # the boxes' IoU is 0.95
    found = segment_everything(scripted(tiny, answers), PICTURE, strict)
    assert [mask.predicted_iou for mask in found] == pytest.approx([0.9, 0.75, 0.5])


def naive(model, picture, grid):
    """Return what a plain loop over all masks finds, duplicates and all: (predicted IoU, stability, mask, point)."""
    predictor = Predictor(model)
    predictor.set_image(picture)
    height, width = picture.shape[:2]
    cells = [(i + 0.5) / grid.points_per_side for i in range(grid.points_per_side)]
    found = []
    for y, x in itertools.product(cells, cells):
        point = (x * width, y * height)
        one = predictor.predict(points=[point], labels=[1], logits=True)
        for logits, iou in zip(one.masks, one.predicted_iou, strict=True):
            stability = (logits > grid.stability_offset).sum() / max(1, (logits > -grid.stability_offset).sum())
            if iou > grid.iou_threshold and stability >= grid.stability_threshold:
                found.append((float(iou), float(stability), logits > 0, point))
    return sorted(found, key=lambda item: -item[0])


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def untrained(make_tiny):
    """Return a `tiny` with logits and predicted IoU far apart, so that the thresholds below are near none of them."""
    model = make_tiny(5)
    with torch.no_grad():
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight *= 300
        model.mask_decoder.iou_prediction_head.layers[-1].weight *= 10
    return model


def test_a_real_decoder_gives_what_a_plain_loop_does(make_tiny, picture):
    model = untrained(make_tiny)
    grid = settings(
        points_per_side=4, points_per_batch=5, iou_threshold=0.3, stability_threshold=0.508, box_nms_threshold=1.0
    )
    found, expected = segment_everything(model, picture, grid), naive(model, picture, grid)
    assert len(found) == len(expected) > 20
    for mask, (iou, stability, pixels, point) in zip(found, expected, strict=True):
        assert mask.predicted_iou == pytest.approx(iou, abs=1e-4)
        assert mask.stability == pytest.approx(stability, abs=0.005)
        assert (mask.mask() != pixels).mean() < 0.005
        assert mask.area == mask.mask().sum()
        assert mask.point_xy == pytest.approx(point)


def test_it_is_deterministic_and_changes_nothing(make_tiny, picture):
    model, before = untrained(make_tiny), picture.copy()
    grid = settings(points_per_side=3, crop_layers=1, min_region_area=4, box_nms_threshold=0.95)
    first, second = (segment_everything(model, picture, grid) for _ in range(2))
    assert first
    assert [mask.to_json_dict() for mask in first] == [mask.to_json_dict() for mask in second]
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5)])
def test_pictures_of_any_shape(tiny, size):
    picture = np.full((*size, 3), 99, np.uint8)
    found = segment_everything(tiny, picture, settings(crop_layers=2, min_region_area=2))
    assert found
    for mask in found:
        assert mask.mask().shape == size
        assert mask.mask().sum() == mask.area > 0


def test_what_is_no_picture_is_refused(tiny):
    with pytest.raises(InputError, match=r"image must be .*got shape \(64, 64\)"):
        segment_everything(tiny, PICTURE[..., 0])
    with pytest.raises(InputError, match="got list"):
        segment_everything(tiny, [[0]])
