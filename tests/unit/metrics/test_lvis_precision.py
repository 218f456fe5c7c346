import pytest

from quantsam.errors import DatasetError, InputError
from quantsam.metrics.lvis_precision import lvis_precision

NAMES = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap_rare", "ap_common", "ap_frequent"]
NAMES += ["ar300", "ar300_small", "ar300_medium", "ar300_large"]
PRESENT, ABSENT, NOT_LOOKED_FOR = 1, 2, 3


def box(image_id, x, category_id=PRESENT, side=40, **more):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, 10, side, side],
        "area": side * side,
        **more,
    }


def truth(*annotations, not_exhaustive=(), frequencies="frc"):
    """Two images, known to be without category 2 unless it is annotated, and three categories."""
    return {
        "images": [
            {
                "id": image_id,
                "height": 100,
                "width": 100,
                "neg_category_ids": [ABSENT],
                "not_exhaustive_category_ids": list(not_exhaustive),
            }
            for image_id in (7, 3)
        ],
        "categories": [{"id": index, "frequency": letter} for index, letter in enumerate(frequencies, start=1)],
        "annotations": list(annotations),
    }


def scored(annotation, score):
    return annotation | {"score": score}


def test_perfect_results_give_100_and_what_has_no_objects_none():
    objects = [box(7, 0), box(3, 0), box(3, 50, ABSENT)]
    found = lvis_precision(truth(*objects), [scored(each, 0.5) for each in objects], "bbox")
    assert list(found) == NAMES
    without = {"ap_small", "ap_large", "ar300_small", "ar300_large", "ap_common"}
    assert found == {name: None if name in without else 100.0 for name in NAMES}


def test_no_results_give_0():
    found = lvis_precision(truth(box(7, 0)), [], "bbox")
    assert (found["ap"], found["ar300"], found["ap_frequent"], found["ap_rare"]) == (0.0, 0.0, 0.0, None)


def test_without_objects_all_is_none():
    assert lvis_precision(truth(), [box(7, 0, score=0.5)], "bbox") == dict.fromkeys(NAMES)


@pytest.mark.parametrize(("letter", "name"), [("r", "ap_rare"), ("c", "ap_common"), ("f", "ap_frequent")])
def test_a_category_counts_for_its_frequency(letter, name):
    objects = [box(7, 0), box(7, 0, NOT_LOOKED_FOR)]
    others = {"r": "ffc", "c": "ffr", "f": "rrc"}[letter]
    found = lvis_precision(truth(*objects, frequencies=letter + others[1:]), [scored(objects[0], 0.5)], "bbox")
    assert found[name] == 100.0
    assert found["ap"] == 50.0


def test_a_result_counts_only_where_its_category_was_looked_for():
    here, there = box(7, 0, NOT_LOOKED_FOR), box(7, 0, ABSENT)
    objects = [here, there]  # image 3 has neither, and is annotated for ABSENT only
    results = [
        scored(here, 0.5),
        scored(there, 0.5),
        box(3, 0, NOT_LOOKED_FOR, score=0.9),
        box(3, 0, ABSENT, score=0.9),
    ]
    found = lvis_precision(truth(*objects, frequencies="frc"), results, "bbox")
    assert found["ap_common"] == 100.0  # not looked for in image 3: ignored
    assert found["ap_rare"] == pytest.approx(50.0)  # known to be absent from image 3: a false positive


def test_a_second_result_is_no_false_positive_where_not_all_objects_are_annotated():
    objects = [box(7, 0)]
    results = [scored(objects[0], 0.5), box(7, 55, score=0.9)]
    assert lvis_precision(truth(*objects), results, "bbox")["ap"] == pytest.approx(50.0)
    assert lvis_precision(truth(*objects, not_exhaustive=(PRESENT,)), results, "bbox")["ap"] == 100.0
    assert lvis_precision(truth(*objects, not_exhaustive=(ABSENT,)), results, "bbox")["ap"] == pytest.approx(50.0)


@pytest.mark.parametrize("category_id", [PRESENT, ABSENT, NOT_LOOKED_FOR])
def test_of_one_image_300_results_count_over_all_categories(category_id):
    objects = [box(7, 0)]
    others = [box(7, 55, category_id, score=0.9) for _ in range(300)]
    right = scored(objects[0], 0.5)
    assert lvis_precision(truth(*objects), [*others, right], "bbox")["ar300"] == 0.0
    assert lvis_precision(truth(*objects), [*others[1:], right], "bbox")["ar300"] == 100.0


def test_of_equal_scores_the_earlier_counts():
    objects = [box(7, 0)]
    others = [box(7, 55, NOT_LOOKED_FOR, score=0.5) for _ in range(300)]
    right = scored(objects[0], 0.5)
    assert lvis_precision(truth(*objects), [right, *others], "bbox")["ar300"] == 100.0
    assert lvis_precision(truth(*objects), [*others, right], "bbox")["ar300"] == 0.0


def test_the_limit_is_of_each_image():
    objects = [box(7, 0), box(3, 0)]
    others = [box(7, 55, NOT_LOOKED_FOR, score=0.9) for _ in range(300)]
    results = [*others, *(scored(each, 0.5) for each in objects)]
    assert lvis_precision(truth(*objects), results, "bbox")["ar300"] == 50.0


def test_what_has_no_area_does_not_count():
    objects = [box(7, 0), box(3, 0, NOT_LOOKED_FOR) | {"area": 0}]
    results = [scored(objects[0], 0.5), box(7, 70, side=0, score=0.9), box(3, 50, NOT_LOOKED_FOR, score=0.9)]
    found = lvis_precision(truth(*objects), results, "bbox")
    assert (found["ap"], found["ap_common"]) == (100.0, None)


def test_empty_masks_do_not_count():
    rle = {"size": [100, 100], "counts": [100, 50, 9850]}
    thing = box(7, 0) | {"segmentation": rle}
    empty = box(7, 0, score=0.9) | {"segmentation": {"size": [100, 100], "counts": [10000]}}
    assert lvis_precision(truth(thing), [scored(thing, 0.5), empty], "segm")["ap"] == 100.0


def test_there_are_no_crowds():
    crowd = box(7, 0, iscrowd=1)
    assert lvis_precision(truth(crowd), [scored(crowd, 0.5)], "bbox")["ap"] == 100.0


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_images_must_say_what_they_are_annotated_for(key, value):
    document = truth(box(7, 0))
    document["images"][0][key] = value
    with pytest.raises(DatasetError, match=rf"image 7 .* `{key}` must be a list of category ids, got .*score as COCO"):
        lvis_precision(document, [], "bbox")


@pytest.mark.parametrize("value", [None, "x", ["r"]])
def test_categories_must_say_how_frequent_they_are(value):
    document = truth(box(7, 0))
    document["categories"][1]["frequency"] = value
    with pytest.raises(DatasetError, match=r"category 2 .* `frequency` must be 'r', 'c' or 'f', got"):
        lvis_precision(document, [], "bbox")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, r"results\[0\] is for image 8, which is not one of the 2 images"),
        ({"category_id": 9}, r"results\[0\] is of category 9, which is not one of the 3 categories"),
        ({"score": None}, r"results\[0\]: `score` must be a finite number, got None"),
    ],
)
def test_bad_results_are_refused(change, message):
    with pytest.raises(DatasetError, match=message):
        lvis_precision(truth(box(7, 0)), [box(7, 0, score=0.5) | change], "bbox")


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="got 'boundary'"):
        lvis_precision(truth(), [], "boundary")  # type: ignore[arg-type]
