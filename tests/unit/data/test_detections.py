import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsam.data.detections import Detection, load_detections
from quantsam.errors import DatasetError, InputError

IMAGE_HW = {30: (100, 200), 10: (80, 60), 20: (50, 50)}
CATEGORIES = (1, 5)


def entry(**changes):
    return {"image_id": 10, "category_id": 5, "bbox": [4, 2.5, 10, 20], "score": 0.5} | changes


def write(folder, content):
    path = folder / "detections.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def load(path, **more):
    return load_detections(path, image_hw=IMAGE_HW, category_ids=CATEGORIES, **more)


def loaded(folder, content, **more):
    return load(write(folder, content), **more)


# what a good file gives


def test_an_image_gets_its_detections_in_the_order_of_the_file(tmp_path):
    found = loaded(
        tmp_path,
        [entry(image_id=30, score=0.25), entry(), entry(image_id=30, category_id=1, bbox=[-5, -5, 300, 300], score=1)],
    )
    assert len(found) == 3
    assert found.detections(30) == (
        Detection(image_id=30, category_id=5, box_xyxy=(4.0, 2.5, 14.0, 22.5), score=0.25),
        Detection(image_id=30, category_id=1, box_xyxy=(-5.0, -5.0, 295.0, 295.0), score=1.0),
    )
    assert [each.image_id for each in found.detections(10)] == [10]
    assert found.detections(20) == ()
    (first, _) = found.detections(30)
    assert {type(first.image_id), type(first.category_id)} == {int}
    assert {type(edge) for edge in first.box_xyxy} == {float}


def test_an_image_that_is_not_of_the_dataset_is_refused(tmp_path):
    found = loaded(tmp_path, [entry()])
    with pytest.raises(InputError, match=r"image id 11 is not one of the 3 images that .*detections\.json was checked"):
        found.detections(11)


def test_other_keys_are_ignored(tmp_path):
    more = {"segmentation": {"size": [80, 60], "counts": "abc"}, "id": 7, "nested": [{"image_id": 1, "bbox": []}]}
    found = loaded(tmp_path, [entry(**more)])
    assert found.detections(10) == loaded(tmp_path, [entry()]).detections(10)
    assert found.digest == loaded(tmp_path, [entry()]).digest


def test_an_entry_within_an_entry_is_not_one(tmp_path):
    assert len(loaded(tmp_path, [entry(parent=entry(image_id=20))])) == 1


def test_per_image_keeps_the_highest_scores_in_the_order_of_the_file(tmp_path):
    scores = [0.1, 0.9, 0.5, 0.9, 0.5]
    content = [entry(score=score, bbox=[index, 0, 9, 9]) for index, score in enumerate(scores)]
    content[2:2] = [entry(image_id=30, score=0.05)]
    found = loaded(tmp_path, content, per_image=3)
    assert [(each.box_xyxy[0], each.score) for each in found.detections(10)] == [(1, 0.9), (2, 0.5), (3, 0.9)]
    assert len(found.detections(30)) == 1
    assert len(found) == 4
    assert loaded(tmp_path, content, per_image=5).digest == loaded(tmp_path, content).digest


SCORED = st.tuples(st.sampled_from(sorted(IMAGE_HW)), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@given(st.lists(SCORED, min_size=1, max_size=30), st.integers(1, 6))
def test_per_image_is_a_stable_sort(tmp_path_factory, scored, per_image):
    content = [entry(image_id=key, score=score, bbox=[0, 0, 1 + i, 1]) for i, (key, score) in enumerate(scored)]
    found = loaded(tmp_path_factory.mktemp("files"), content, per_image=per_image)
    for image_id in IMAGE_HW:
        mine = [(index, score) for index, (key, score) in enumerate(scored) if key == image_id]
        best = sorted(sorted(mine, key=lambda pair: -pair[1])[:per_image])
        assert [(each.box_xyxy[2] - 1, each.score) for each in found.detections(image_id)] == best


def test_the_digest_is_of_what_is_used(tmp_path):
    content = [entry(), entry(image_id=20), entry(score=0.25)]
    digest = loaded(tmp_path, content).digest
    assert len(digest) == 64
    assert loaded(tmp_path, [content[1], content[0], content[2]]).digest == digest  # the order of images
    assert loaded(tmp_path, json.dumps(content, indent=4)).digest == digest
    for change in ({"image_id": 30}, {"category_id": 1}, {"bbox": [4, 2.5, 10, 21]}, {"score": 0.75}):
        assert loaded(tmp_path, [entry(**change), *content[1:]]).digest != digest
    assert loaded(tmp_path, content[:2]).digest != digest
    assert loaded(tmp_path, content[::-1]).digest != digest  # the order within an image decides between equal scores


# bad input


def refused(folder, content):
    path = write(folder, content)
    with pytest.raises(DatasetError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("per_image", [0, -1])
def test_per_image_must_be_positive(tmp_path, per_image):
    with pytest.raises(InputError, match=rf"per_image must be at least 1 .* got {per_image}"):
        loaded(tmp_path, [entry()], per_image=per_image)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"absent\.json does not exist: check the path"):
        load(tmp_path / "absent.json")
    with pytest.raises(DatasetError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not valid JSON: Expecting value at line 1, column 1"),
        ("[{]", "is not valid JSON: Expecting property name"),
        ("[" * 200_000, "is not valid JSON: maximum recursion depth"),
        ("[" + "1" * 5000 + "]", "is not valid JSON: Exceeds the limit"),
        ("[]", "is an empty list: there is nothing to prompt with; run the detector again"),
        (
            "3",
            "is not a detections file: it must hold a list of objects with image_id, .* and score, got int",
        ),
        ({"a": 1}, "is not a detections file: it must hold a list .* got a single object"),
        (entry(), "is not a detections file: it must hold a list .* got a single object"),
        ({"images": [], "annotations": [entry()]}, "is an annotation file, not detections: give the list"),
    ],
)
def test_what_is_no_list_of_detections_is_refused(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(DatasetError, match=rf"detections\.json {message}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "detections.json"
    path.write_bytes(b'[{"image_id": \xff')
    with pytest.raises(DatasetError, match="is not valid JSON: it is no text at byte 14"):
        load(path)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_missing_key_is_refused(tmp_path, key):
    bad = entry()
    del bad[key]
    assert f"detections[1] has no `{key}`: a detection has image_id," in refused(tmp_path, [entry(), bad])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (7, "detections[1] must be an object, got 7"),
        ([4, 2, 1, 1], "detections[1] must be an object, got [4, 2, 1, 1]"),
        (entry(image_id="000010"), "detections[1]: `image_id` must be a whole number, got '000010'"),
        (entry(category_id=5.5), "detections[1]: `category_id` must be a whole number, got 5.5"),
        (entry(image_id=2**70), "detections[1] is for image 1180591620717411303424, which the annotation file does"),
        (entry(category_id=2**70), "is of category 1180591620717411303424, which the annotation file does not"),
        (entry(bbox=[1, 2, 3]), "`bbox` must be 4 numbers x, y, width, height, got [1, 2, 3]"),
        (entry(bbox=[1, 2, 3, None]), "`bbox` must be 4 numbers x, y, width, height, got [1, 2, 3, None]"),
        (entry(bbox="1234"), "`bbox` must be 4 numbers x, y, width, height, got '1234'"),
        (entry(bbox=None), "`bbox` must be 4 numbers x, y, width, height, got None"),
        (entry(bbox=[1, 2, 3, 10**400]), "`bbox` must be 4 numbers x, y, width, height, got [1, 2, 3, 1000"),
        (entry(score="0.5"), "`score` must be a number, got '0.5'"),
        (entry(score=None), "`score` must be a number, got None"),
        (entry(score=float("nan")), "detections[1] must have a finite `score`, got nan"),
        (entry(score=float("inf")), "detections[1] must have a finite `score`, got inf"),
        (entry(bbox=[1, 2, float("nan"), 4]), "must have a finite `bbox`, got [1.0, 2.0, nan, 4.0]"),
        (entry(bbox=[1, 2, 1e308, 4]), "must have a finite `bbox`, got [1.0, 2.0, 1e+308, 4.0]"),
        (entry(image_id=11), "detections[1] is for image 11, which the annotation file does not list: give the"),
        (entry(category_id=0), "detections[1] is of category 0, which the annotation file does not list: give"),
        (entry(bbox=[4, 2, 0, 4]), "detections[1] must have a `bbox` with width and height > 0, got [4.0, 2.0, 0.0"),
        (entry(bbox=[4, 2, 4, -4]), "detections[1] must have a `bbox` with width and height > 0, got"),
        (entry(bbox=[4, 2, 1e-20, 4]), "detections[1] must have a `bbox` with width and height > 0, got"),
        (entry(bbox=[60, 2, 4, 4]), "detections[1] has a `bbox` wholly outside image 10, got [60.0, 2.0, 4.0, 4.0]"),
        (entry(bbox=[4, 80, 4, 4]), "detections[1] has a `bbox` wholly outside image 10"),
        (entry(bbox=[-4, 2, 4, 4]), "detections[1] has a `bbox` wholly outside image 10"),
        (entry(bbox=[4, -4.5, 4, 4]), "detections[1] has a `bbox` wholly outside image 10"),
    ],
)
def test_a_bad_entry_is_named_with_its_rule_and_value(tmp_path, bad, message):
    assert message in refused(tmp_path, [entry(), bad, entry()])


def test_more_of_the_same_are_counted(tmp_path):
    bad = entry(category_id=80)
    assert "detections[1] (and 2 more like it) is of category 80" in refused(tmp_path, [entry(), bad, bad, bad])


@pytest.mark.parametrize("box", [[59, 2, 4, 4], [4, 79.5, 4, 4], [-3, -3, 4, 4], [-10, -10, 500, 500]])
def test_a_box_partly_outside_is_kept_as_it_is(tmp_path, box):
    x, y, width, height = box
    (found,) = loaded(tmp_path, [entry(bbox=box)]).detections(10)
    assert found.box_xyxy == (x, y, x + width, y + height)


def test_ids_of_any_size_may_be_known(tmp_path):
    path = write(tmp_path, [entry()])
    found = load_detections(path, image_hw=IMAGE_HW | {2**80: (5, 5)}, category_ids=[5, 2**80])
    assert found.detections(2**80) == ()
