"""From an image and prompts to masks."""

import numpy as np
import pytest
import torch

from quantsam.errors import InputError
from quantsam.prediction.predictor import Predictor

BOX = [10.0, 8.0, 70.0, 50.0]
POINTS, LABELS = [[20.0, 30.0], [60.0, 10.0]], [1, 0]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def predictor(tiny):
    predictor = Predictor(tiny)
    predictor.set_image(picture(60, 90))
    return predictor


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    "prompt",
    [{"box": BOX}, {"points": POINTS, "labels": LABELS}, {"points": POINTS, "labels": LABELS, "box": BOX}],
    ids=["box", "points", "both"],
)
def test_shapes_and_types(predictor, prompt, multimask):
    count = 3 if multimask else 1
    result = predictor.predict(**prompt, multimask=multimask)
    assert (result.masks.shape, result.masks.dtype) == ((count, 60, 90), np.bool_)
    assert (result.predicted_iou.shape, result.predicted_iou.dtype) == ((count,), np.float32)
    assert (result.low_res_logits.shape, result.low_res_logits.dtype) == ((count, 64, 64), np.float32)
    logits = predictor.predict(**prompt, multimask=multimask, logits=True)
    assert logits.masks.dtype == np.float32
    np.testing.assert_array_equal(logits.masks > 0, result.masks)


def test_every_kind_of_prompt_matters(predictor):
    def logits(**prompt):
        return predictor.predict(**prompt, logits=True).masks

    box = logits(box=BOX)
    assert not np.allclose(box, logits(box=[10, 8, 70, 51]))
    points = logits(points=POINTS, labels=LABELS)
    assert not np.allclose(points, logits(points=POINTS, labels=[1, 1]))
    assert not np.allclose(points, logits(points=POINTS, labels=LABELS, box=BOX))
    mask = np.full((1, 64, 64), 5.0)
    assert not np.allclose(box, logits(box=BOX, mask_input=mask))
    padded = logits(points=[*POINTS, [3, 4]], labels=[*LABELS, -1])
    np.testing.assert_allclose(padded, logits(points=[*POINTS, [9, 9]], labels=[*LABELS, -1]), rtol=1e-5, atol=1e-6)


def test_candidates_are_the_masks_of_a_batch_one_at_a_time(predictor):
    boxes = torch.tensor([BOX, [0.0, 0.0, 90.0, 60.0]])
    masks, iou, _ = predictor.predict_batch(boxes=boxes)
    candidates = predictor.candidates(boxes=boxes)
    np.testing.assert_allclose(candidates.predicted_iou, iou, rtol=1e-5)
    rows, columns = np.array([0, 30, 59]), np.arange(1, 90, 7)
    sampled = candidates.sampled(rows, columns)
    for prompt in range(2):
        for number in range(3):
            expected = masks[prompt, number].numpy()
            assert candidates.mask(prompt, number).dtype == np.bool_
            np.testing.assert_array_equal(candidates.mask(prompt, number), expected)
            np.testing.assert_array_equal(sampled.mask(prompt, number), expected[rows][:, columns])


def test_a_prediction_is_refined_with_its_own_logits(predictor):
    first = predictor.predict(box=BOX, multimask=False)
    again = predictor.predict(box=BOX, mask_input=first.low_res_logits, multimask=False)
    assert again.masks.shape == first.masks.shape


def test_a_batch_is_predicted_as_its_prompts_one_by_one(predictor):
    boxes = torch.tensor([BOX, [0.0, 0.0, 89.0, 59.0], [5.0, 5.0, 6.0, 6.0]])
    points, labels = torch.tensor([POINTS] * 3) + torch.arange(3)[:, None, None], torch.tensor([LABELS] * 3)
    masks = torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    batch = predictor.predict_batch(points=points, labels=labels, boxes=boxes, mask_input=masks, logits=True)
    for i in range(3):
        one = predictor.predict(
            points=points[i], labels=labels[i], box=boxes[i], mask_input=masks[i].numpy(), logits=True
        )
        for found, expected in zip(batch, (one.masks, one.predicted_iou, one.low_res_logits), strict=True):
            np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hw", [(60, 90), (90, 60), (64, 64), (5, 80)])
def test_best_masks_are_those_of_highest_predicted_iou(tiny, hw):
    predictor = Predictor(tiny)
    predictor.set_image(picture(*hw))
    boxes = torch.rand(8, 4, generator=torch.Generator().manual_seed(2)) * 50
    masks, iou, _ = predictor.predict_batch(boxes=boxes)
    best_masks, best_iou = predictor.best_masks(boxes=boxes)
    rows, best = torch.arange(8), iou.argmax(1)
    assert best_masks.shape == (8, *hw)
    assert best_masks.dtype == torch.bool
    assert torch.equal(best_iou, iou[rows, best])
    assert (best_masks != masks[rows, best]).float().mean() < 1e-3  # rounding at the threshold


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (64, 64), (33, 200)])
def test_pictures_of_any_shape(tiny, size):
    predictor = Predictor(tiny)
    predictor.set_image(picture(*size))
    masks = predictor.predict(points=[[0, 0]], labels=[1], logits=True).masks
    assert masks.shape == (3, *size)
    assert np.isfinite(masks).all()


def test_a_second_picture_replaces_the_first(tiny, predictor):
    fresh = Predictor(tiny)
    for one in (predictor, fresh):
        one.set_image(picture(30, 40, seed=5))
    assert predictor.image_hw == (30, 40)
    np.testing.assert_array_equal(*(one.predict(box=BOX, logits=True).masks for one in (predictor, fresh)))


def test_a_refused_picture_leaves_the_last_one_in_place(predictor):
    before = predictor.predict(box=BOX, logits=True).masks
    with pytest.raises(InputError, match="got shape \\(60, 90\\)"):
        predictor.set_image(picture(60, 90)[..., 0])
    np.testing.assert_array_equal(predictor.predict(box=BOX, logits=True).masks, before)


def test_any_encoder_will_do(tiny):
    embedding = torch.zeros(1, tiny.variant.embed_dim, 16, 16)
    predictor = Predictor(tiny.with_encoder(lambda x: embedding))
    predictor.set_image(picture(20, 20))
    assert predictor.predict(box=[1, 2, 3, 4]).masks.shape == (3, 20, 20)


def test_prompts_before_a_picture_are_refused(tiny):
    with pytest.raises(InputError, match=r"^a predictor needs an image before prompts.*set_image\(image\)"):
        Predictor(tiny).predict(box=BOX)


NAN = float("nan")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({}, "needs points or boxes, got neither"),
        ({"mask_input": np.zeros((1, 64, 64))}, "needs points or boxes, got neither"),
        ({"points": POINTS}, "points and labels must be given together"),
        ({"labels": LABELS, "box": BOX}, "points and labels must be given together"),
        ({"points": POINTS, "labels": [1]}, r"points must be \(N, 2\) with \(N,\) labels.* got \(2, 2\) and \(1,\): "),
        ({"points": [1.0, 2.0], "labels": [1]}, r"points must be \(N, 2\).* got \(2,\) and \(1,\): "),
        ({"points": [], "labels": []}, r"points must be \(N, 2\).* got \(0,\) and \(0,\)"),
        ({"points": np.zeros((0, 2)), "labels": []}, "N at least 1"),
        ({"points": [[1, 2]], "labels": [7]}, "a label must be 1 .* got 7: "),
        ({"points": [[1, 2]], "labels": [-2]}, "a label must be 1 .* got -2: "),
        ({"points": [[1, 2]], "labels": [0.5]}, "a label must be 1 .* got 0.5: "),
        ({"points": [[1, NAN]], "labels": [1]}, "points must be finite"),
        ({"points": [[1, 2], [3]], "labels": [1, 1]}, "points must be an array of numbers"),
        ({"points": POINTS, "labels": ["on", "off"]}, "labels must be an array of numbers"),
        ({"box": [1, 2, 3]}, r"a box must be 4 numbers x0 y0 x1 y1 in pixels.*shape \(1, 3\)"),
        ({"box": [BOX, BOX]}, r"a box must be 4 numbers.*shape \(1, 2, 4\): .*several to predict_batch"),
        ({"box": [0, 0, NAN, 5]}, "boxes must be finite"),
        ({"box": [0, 0, float("inf"), 5]}, "boxes must be finite"),
        ({"box": BOX, "mask_input": np.zeros((64, 64))}, r"mask_input must be \(1, 64, 64\).*got .* \(1, 64, 64\)"),
        ({"box": BOX, "mask_input": np.zeros((1, 256, 256))}, r"mask_input must be .*low_res_logits"),
        ({"box": BOX, "mask_input": np.full((1, 64, 64), NAN)}, "mask_input must be finite"),
    ],
)
def test_prompts_that_cannot_be_right(predictor, prompt, words):
    with pytest.raises(InputError, match=words) as caught:
        predictor.predict(**prompt)
    assert "\n" not in str(caught.value)


def test_batches_that_cannot_be_right(predictor):
    with pytest.raises(InputError, match="one box for each set of points, got 2 boxes and 1 sets: "):
        predictor.predict_batch(
            points=torch.tensor([POINTS]), labels=torch.tensor([LABELS]), boxes=torch.tensor([BOX] * 2)
        )
    with pytest.raises(InputError, match=r"shape \(4,\)"):
        predictor.predict_batch(boxes=torch.tensor(BOX))
    with pytest.raises(InputError, match=r"shape \(0, 4\)"):
        predictor.predict_batch(boxes=torch.zeros(0, 4))
    with pytest.raises(InputError, match="for each of 2 prompts"):
        predictor.predict_batch(boxes=torch.tensor([BOX] * 2), mask_input=torch.zeros(1, 1, 64, 64))
