import numpy as np
import pytest

from quantsam.data.scenes import SceneDataset
from quantsam.errors import InputError
from quantsam.evaluation.prompts import PROMPTS_A_BATCH, Prompt, answer_boxes, answers, parse_prompt
from quantsam.metrics.iou import mask_iou
from quantsam.models.zoo import load_model
from quantsam.prediction.predictor import Predictor

SCENES = SceneDataset(4, seed=5)


@pytest.mark.parametrize(
    ("text", "clicks", "name"),
    [
        ("box", 0, "box"),
        ("click", 1, "click"),
        ("clicks:1", 1, "click"),
        ("clicks:5", 5, "clicks:5"),
    ],
)
def test_kinds_of_prompts(text, clicks, name):
    assert parse_prompt(text) == Prompt(clicks)
    assert parse_prompt(text).name == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bx", "did you mean 'box'"),
        ("clicks", "did you mean 'click'"),
        ("clicks:0", "N from 1 to 100, got 'clicks:0'"),
        ("clicks:101", "N from 1 to 100"),
        ("clicks:x", "got 'clicks:x'"),
    ],
)
def test_an_unknown_kind_is_one_clear_line(text, says):
    with pytest.raises(InputError, match=says):
        parse_prompt(text)


@pytest.fixture(scope="module")
def nano():
    return load_model("nano")


def asked(predictor, image_id):
    predictor.set_image(SCENES.image(image_id))
    annotations = SCENES.annotations(image_id)
    return annotations, [SCENES.mask(a) for a in annotations]


def test_boxes_are_answered_in_order_however_many_there_are(nano):
    predictor = Predictor(nano)
    annotations, _ = asked(predictor, 1)
    boxes = [annotations[i % len(annotations)].box_xyxy for i in range(PROMPTS_A_BATCH + 3)]
    found = list(answer_boxes(predictor, boxes))
    assert len(found) == len(boxes)
    for box, answer in zip(boxes, found, strict=True):
        alone = predictor.predict(box=box)
        assert mask_iou(answer.mask, alone.masks[alone.predicted_iou.argmax()]) > 0.999
    assert list(answer_boxes(predictor, [])) == []


def test_each_object_is_clicked_as_if_it_were_alone(nano):
    predictor = Predictor(nano)
    annotations, truths = asked(predictor, 2)
    together = list(answers(predictor, Prompt(3), annotations, truths))
    for annotation, truth, answer in zip(annotations, truths, together, strict=True):
        (alone,) = answers(predictor, Prompt(3), [annotation], [truth])
        assert mask_iou(answer.mask, alone.mask) > 0.98
        assert answer.predicted_iou == pytest.approx(alone.predicted_iou, abs=1e-2)


def test_the_next_clicks_depend_on_the_answer_to_the_first(nano):
    predictor = Predictor(nano)
    better = []
    for image_id in SCENES.image_ids:
        annotations, truths = asked(predictor, image_id)
        one, five = (list(answers(predictor, Prompt(n), annotations, truths)) for n in (1, 5))
        better += [mask_iou(b.mask, t) - mask_iou(a.mask, t) for a, b, t in zip(one, five, truths, strict=True)]
    assert any(better)


def test_an_object_without_pixels_gets_no_click(nano):
    predictor = Predictor(nano)
    annotations, truths = asked(predictor, 1)
    empty = np.zeros_like(truths[0])
    (answer,) = answers(predictor, Prompt(2), annotations[:1], [empty])
    assert not answer.mask.any()
