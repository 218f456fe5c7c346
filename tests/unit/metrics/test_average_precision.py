import copy
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_api
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsam.errors import DatasetError, InputError
from quantsam.metrics.average_precision import coco_precision

NAMES = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
NAMES += ["ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]
WIDTH, HEIGHT = 200, 150


def square(image_id, x, side=40, category_id=1, **more):
    """An object or a result with its box, its mask and its area."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10 : 10 + int(side), max(0, int(x)) : max(0, int(x + side))] = 1
    rle = coco_api.encode(np.asfortranarray(mask))
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, 10, side, side],
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()},
        "area": side * side,
        **more,
    }


def truth(*annotations):
    """Three images, three categories and these objects."""
    return {
        "images": [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in (30, 10, 20)],
        "categories": [{"id": category_id, "name": str(category_id)} for category_id in (5, 1, 2)],
        "annotations": [{"id": index, **annotation} for index, annotation in enumerate(annotations)],
    }


def scored(annotation, score):
    return annotation | {"score": score}


KINDS = pytest.mark.parametrize("kind", ["bbox", "segm"])


@KINDS
def test_perfect_results_give_100_and_sizes_without_objects_none(kind):
    objects = [square(10, 0), square(10, 60), square(20, 0, category_id=5), square(30, 5, 20)]
    found = coco_precision(truth(*objects), [scored(each, 0.5) for each in objects], kind)
    assert list(found) == NAMES
    without_large = {name: value for name, value in found.items() if "large" not in name}
    ar1 = without_large.pop("ar1")
    assert without_large == dict.fromkeys(without_large, 100.0)
    assert ar1 == pytest.approx((100 * 2 / 3 + 100) / 2)  # one of image 10's two squares is left out
    assert found["ap_large"] is None
    assert found["ar_large"] is None


@KINDS
def test_no_results_give_0(kind):
    found = coco_precision(truth(square(10, 0), square(20, 0, 120)), [], kind)
    assert found == {name: None if "small" in name else 0.0 for name in NAMES}


@KINDS
def test_without_objects_all_is_none(kind):
    assert coco_precision(truth(), [square(10, 0, score=0.5)], kind) == dict.fromkeys(NAMES)


@KINDS
def test_a_category_without_objects_is_left_out_of_the_mean(kind):
    objects = [square(10, 0)]
    results = [scored(objects[0], 0.5), square(10, 0, category_id=2, score=0.9)]
    assert coco_precision(truth(*objects), results, kind)["ap"] == 100.0


@KINDS
def test_a_higher_scored_false_positive_halves_the_precision(kind):
    objects = [square(10, 0)]
    results = [scored(objects[0], 0.5), square(20, 100, score=0.9)]
    assert coco_precision(truth(*objects), results, kind)["ap"] == pytest.approx(50.0)
    results[1]["score"] = 0.1
    assert coco_precision(truth(*objects), results, kind)["ap"] == 100.0


@KINDS
def test_an_iou_of_0_6_counts_at_the_thresholds_up_to_it(kind):
    objects = [square(10, 0)]
    found = coco_precision(truth(*objects), [square(10, 10, score=0.5)], kind)  # 30 of 50 columns in common
    assert (found["ap"], found["ap50"], found["ap75"]) == (pytest.approx(30.0), 100.0, 0.0)  # 0.5, 0.55, 0.6


@KINDS
def test_what_lies_on_a_crowd_is_no_false_positive(kind):
    objects = [square(10, 0), square(10, 100, 80, iscrowd=1)]
    inside = square(10, 110, 30, score=0.9)
    results = [scored(objects[0], 0.5), inside, inside]
    assert coco_precision(truth(*objects), results, kind)["ap"] == 100.0


@KINDS
def test_of_one_category_in_one_image_100_results_count(kind):
    objects = [square(10, 0)]
    wrong = [square(10, 100, score=0.9) for _ in range(100)]
    assert coco_precision(truth(*objects), [*wrong, scored(objects[0], 0.5)], kind)["ap"] == 0.0
    assert coco_precision(truth(*objects), [*wrong[1:], scored(objects[0], 0.5)], kind)["ap"] == pytest.approx(1.0)


def test_a_mask_is_of_its_own_size_even_if_a_large_box_comes_with_it():
    objects = [square(10, 0, 20)]
    stray = square(20, 100, 20, score=0.9) | {"bbox": [0, 0, 150, 150]}
    found = coco_precision(truth(*objects), [scored(objects[0], 0.5), stray], "segm")
    assert found["ap_small"] == pytest.approx(50.0)


@KINDS
def test_ids_of_any_size_and_annotations_without_an_id_are_fine(kind):
    ids = [2**52, 2**52 + 1, -3]
    objects = [square(image_id, 0, category_id=-7) for image_id in ids]
    document = truth(*objects) | {
        "images": [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in ids],
        "categories": [{"id": -7}],
        "annotations": objects,
    }
    results = [scored(each, np.float32(0.5)) for each in objects]
    assert coco_precision(document, results, kind)["ap"] == 100.0


def test_polygons_and_both_forms_of_rle_are_the_same_mask():
    compressed = square(10, 20)
    counts = [20 * HEIGHT + 10, *[40, HEIGHT - 40] * 40]
    counts[-1] += HEIGHT * (WIDTH - 60) - 10
    runs = compressed | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
    polygon = compressed | {"segmentation": [[20, 10, 60, 10, 60, 50, 20, 50]]}
    for annotation in (compressed, runs, polygon):
        assert coco_precision(truth(annotation), [scored(compressed, 0.5)], "segm")["ap"] == 100.0


@KINDS
def test_nothing_is_printed_logged_or_changed(kind, capfd, caplog):
    document, results = truth(square(10, 0)), [square(10, 2, score=0.5)]
    before = copy.deepcopy((document, results))
    with caplog.at_level(logging.DEBUG):
        coco_precision(document, results, kind)
    assert (document, results) == before
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_torch_is_not_loaded():
    code = "import sys, quantsam.metrics.lvis_precision; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


BOX = st.tuples(
    st.integers(0, 9), st.integers(1, 2), st.sampled_from([10, 32, 40, 96]), st.sampled_from([0.1, 0.5, 0.9])
)


@settings(max_examples=25)
@given(st.lists(BOX, min_size=1, max_size=8), st.lists(BOX, max_size=12), st.randoms(use_true_random=False))
def test_numbers_are_percents_and_the_order_of_images_and_objects_is_none_of_theirs(objects, results, random):
    document = truth(*(square(10, 10 * x, side, category) for x, category, side, _ in objects))
    found = [
        square(20 if score < 0.5 else 10, 10 * x, side, category, score=score) for x, category, side, score in results
    ]
    scores = coco_precision(document, found, "bbox")
    assert all(value is None or 0 <= value <= 100 for value in scores.values())
    random.shuffle(document["images"])
    random.shuffle(document["categories"])
    assert coco_precision(document, found, "bbox") == scores


# bad input


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"image_id": 11}, "bbox", r"results\[1\] is for image 11, which is not one of the 3 images"),
        ({"image_id": [1]}, "bbox", r"results\[1\] is for image \[1\], which is not one of"),
        ({"category_id": 3}, "bbox", r"results\[1\] is of category 3, which is not one of the 3 categories"),
        ({"category_id": "1"}, "segm", r"results\[1\] is of category '1', which is not one of"),
        ({"score": float("nan")}, "segm", r"results\[1\]: `score` must be a finite number, got nan"),
        ({"score": True}, "segm", r"`score` must be a finite number, got True"),
        ({"score": 10**400}, "segm", r"`score` must be a finite number"),
        ({"bbox": [0, 0, 1]}, "bbox", r"results\[1\]: `bbox` must be 4 finite numbers .* got \[0, 0, 1\]"),
        ({"bbox": [0, 0, -1, 1]}, "bbox", r"width >= 0, height >= 0, got \[0, 0, -1, 1\]"),
        ({"bbox": [0, 0, float("inf"), 1]}, "bbox", r"`bbox` must be 4 finite numbers"),
        ({"bbox": 4}, "bbox", r"`bbox` must be 4 finite numbers .* got 4"),
        ({"segmentation": [[0, 0, 5, 0, 5, 5]]}, "segm", r"results\[1\]: `segmentation` must be an RLE"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, "segm", r"\[height, width\] = \[150, 200\], got \[5, 5\]"),
    ],
)
def test_bad_results_are_refused_with_one_line(change, kind, message):
    good = square(10, 0, score=0.5)
    with pytest.raises(DatasetError, match=message) as caught:
        coco_precision(truth(square(10, 0)), [good, good | change], kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox"])
def test_a_result_without_a_field_is_refused(key):
    result = square(10, 0, score=0.5)
    del result[key]
    with pytest.raises(DatasetError, match=rf"results\[0\] has no `{key}`"):
        coco_precision(truth(square(10, 0)), [result], "bbox")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "the ground truth has no list `images`"),
        (
            {"categories": [{"id": 1}, {"id": 1}]},
            r"categories\[1\] .* `id` must be a whole number that no other has, got 1",
        ),
        ({"images": [{"id": "a"}]}, r"images\[0\] .* got 'a'"),
        (
            {"images": [{"id": 10}], "annotations": [square(10, 0)]},
            r"must have `height` and `width` > 0 for masks, got",
        ),
        ({"annotations": [square(99, 0)]}, r"annotations\[0\] of the ground truth is for image 99"),
        ({"annotations": [square(10, 0, category_id=9)]}, r"annotations\[0\] of the ground truth is of category 9"),
        ({"annotations": [square(10, 0, iscrowd=2)]}, "`iscrowd` must be 0 or 1, got 2"),
        ({"annotations": [square(10, 0) | {"area": -1}]}, "`area` must be >= 0, got -1"),
        (
            {"annotations": [square(10, 0) | {"segmentation": []}]},
            r"`segmentation` must be an RLE or polygons, got \[\]",
        ),
    ],
)
def test_bad_ground_truth_is_refused_with_one_line(change, message):
    with pytest.raises(DatasetError, match=message) as caught:
        coco_precision(truth() | change, [], "segm")
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="kind must be 'bbox' for boxes or 'segm' for masks, got 'keypoints'"):
        coco_precision(truth(), [], "keypoints")  # type: ignore[arg-type]


def test_results_may_come_from_json():
    objects = [square(10, 0)]
    document, results = json.loads(json.dumps((truth(*objects), [scored(objects[0], 1)])))
    assert coco_precision(document, results, "segm")["ap"] == 100.0
