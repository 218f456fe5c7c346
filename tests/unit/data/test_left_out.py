"""What is never scored is left out with a word, what would be scored silently wrong is told of; `strict` refuses."""

import json
import warnings

import pytest
from PIL import Image

from quantsam.data.box_check import wrong_boxes
from quantsam.data.coco import CocoDataset
from quantsam.data.lvis import LvisDataset
from quantsam.data.open import open_dataset
from quantsam.errors import DatasetError, ImageError
from quantsam.notices import Notice

WIDTH, HEIGHT = 120, 100


def polygon(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number, **changes):
    left, top = 10 + 3 * number, 60 + 2 * number
    fields = {
        "id": number,
        "image_id": 1 + number % 2,
        "category_id": 1,
        "bbox": [left, top, 30, 20],
        "area": 600,
        "iscrowd": 0,
        "segmentation": polygon(left, top, left + 30, top + 20),
    }
    return fields | changes


def make(root, annotations):
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images = []
    for image_id in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (image_id, 0, 0)).save(root / "val2017" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return root


GOOD = [annotation(number) for number in range(1, 5)]
NEVER_SCORED = {
    "an empty segmentation of area 0": (annotation(9, segmentation=[], area=0, bbox=[0, 0, 0, 0]), "an area below 1"),
    "no segmentation of area 0": (
        {k: v for k, v in annotation(9, area=0).items() if k != "segmentation"},
        "an area below 1",
    ),
    "a null segmentation": (annotation(9, area=0.0, segmentation=None), "an area below 1"),
    "a degenerate polygon": (annotation(9, area=0.5, segmentation=[[1, 2, 3, 4]]), "an area below 1"),
    "coordinates that are no numbers": (
        annotation(9, area=0, segmentation=[[1, 2, float("nan"), 4, 5, 6]]),
        "an area below 1",
    ),
    "a damaged RLE": (annotation(9, area=0, segmentation={"size": [HEIGHT, WIDTH], "counts": "o"}), "an area below 1"),
    "a box of three numbers": (annotation(9, area=0, bbox=[1, 2, 3]), "an area below 1"),
    "a negative area": (annotation(9, area=-5), "an area below 1"),
    "a repeated id": (annotation(1, area=0), "an area below 1"),
    "an image that is not listed": (annotation(9, image_id=99), "images that the file does not list"),
    "a malformed one of such an image": ({"image_id": 99}, "images that the file does not list"),
}


@pytest.mark.parametrize("what", NEVER_SCORED)
def test_what_is_never_scored_is_left_out_and_counted(tmp_path, what):
    entry, reason = NEVER_SCORED[what]
    folder = make(tmp_path / "set", [*GOOD, entry])
    with pytest.warns(
        Notice, match=rf"never scored is left out: .*{reason}: 1 \(the first: annotation .*--strict"
    ) as told:
        dataset = open_dataset(folder)
    assert len(told) == 1
    assert [a.id for i in dataset.image_ids for a in dataset.annotations(i)] == [2, 4, 1, 3]
    expected = open_dataset(make(tmp_path / "clean" / "set", GOOD))
    assert dataset.digest == expected.digest
    with pytest.raises(DatasetError, match=r"instances_val2017.json: annotation"):
        open_dataset(folder, strict=True)


def test_all_reasons_come_in_one_line(tmp_path):
    entries = [entry for entry, _ in NEVER_SCORED.values()]
    with pytest.warns(Notice) as told:
        open_dataset(make(tmp_path / "set", [*GOOD, *entries]))
    assert len(told) == 1
    assert "malformed annotations with an area below 1: 9" in str(told[0].message)
    assert "annotations of images that the file does not list: 2" in str(told[0].message)


@pytest.mark.parametrize(
    "changes", [{"segmentation": []}, {"segmentation": None}, {"area": None}, {"bbox": [1]}, {"image_id": "1"}]
)
def test_what_would_be_scored_is_still_refused(tmp_path, changes):
    with pytest.raises(DatasetError, match=r"instances_val2017.json: annotation"):
        open_dataset(make(tmp_path / "set", [*GOOD, annotation(9, **changes)]))


def test_parts_of_polygons_that_cover_no_pixel_are_left_out(tmp_path):
    entry = GOOD[0] | {"segmentation": [[1, 1, 5, 5], [], *GOOD[0]["segmentation"]]}
    folder = make(tmp_path / "set", [entry, *GOOD[1:]])
    with pytest.warns(
        Notice, match=r"parts of polygons with fewer than 3 points, in annotations: 1 \(the first: annotation 1"
    ):
        dataset = open_dataset(folder)
    assert dataset.digest == open_dataset(make(tmp_path / "clean" / "set", GOOD)).digest
    with pytest.raises(DatasetError, match=r"annotation 1 of image 2 has a polygon of fewer than 3 points"):
        open_dataset(folder, strict=True)


def test_no_crowd_and_no_categories_may_be_written_as_null(tmp_path):
    folder = make(tmp_path / "set", [entry | {"iscrowd": None} for entry in GOOD])
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": None}))
    dataset = open_dataset(folder, strict=True)
    assert not any(a.is_crowd for i in dataset.image_ids for a in dataset.annotations(i))


def test_a_good_annotation_below_an_area_of_1_stays(tmp_path):
    dataset = open_dataset(make(tmp_path / "set", [*GOOD, annotation(9, area=0.25)]), strict=True)
    assert sum(len(dataset.annotations(i)) for i in dataset.image_ids) == 5


def test_an_annotation_without_iscrowd_is_no_crowd(tmp_path):
    entry = annotation(9)
    del entry["iscrowd"]
    dataset = open_dataset(make(tmp_path / "set", [entry]), strict=True)
    assert [a.is_crowd for i in dataset.image_ids for a in dataset.annotations(i)] == [False]


def test_whole_numbers_may_be_written_as_floats_and_be_of_any_size(tmp_path):
    numbers = {"id": 9.0, "image_id": 2.0, "category_id": 1.0}
    dataset = open_dataset(make(tmp_path / "set", [annotation(9, **numbers), annotation(3, id=-(10**40))]))
    found = [a for i in dataset.image_ids for a in dataset.annotations(i)]
    assert [(a.id, a.image_id) for a in found] == [(-(10**40), 2), (9, 2)]
    assert {type(a.id) for a in found} == {int}


# boxes


def boxed(change):
    return [entry | {"bbox": change(*entry["bbox"])} for entry in GOOD]


ODD_BOXES = {
    "left, top, right, bottom": lambda x, y, w, h: [x, y, x + w, y + h],
    "centre x, centre y, width, height": lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
    "y, x, height, width": lambda x, y, w, h: [y, x, h, w],
    "top, left, bottom, right": lambda x, y, w, h: [y, x, y + h, x + w],
    "fractions of the image: x, y, width, height": lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT],
    "fractions of the image: left, top, right, bottom": lambda x, y, w, h: [
        *(x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT)
    ],
    "fractions of the image: centre x, centre y, width, height": lambda x, y, w, h: [
        *((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT)
    ],
    "4 of these reach outside the image": lambda x, y, w, h: [x + 900, y, w, h],
    "nor in any other order or unit that is usual": lambda x, y, w, h: [40, 2, 4, 4],
}


@pytest.mark.parametrize("kind", ODD_BOXES)
def test_boxes_of_another_order_or_unit_are_told_of(tmp_path, kind):
    folder = make(tmp_path / "set", boxed(ODD_BOXES[kind]))
    with pytest.warns(
        Notice, match=rf"4 of 4 boxes do not fit their own masks .*annotation 2 of image 1.*{kind}: correct"
    ):
        open_dataset(folder)
    with pytest.raises(DatasetError, match=r"4 of 4 boxes do not fit"):
        open_dataset(folder, strict=True)


def test_a_few_odd_boxes_and_loose_ones_are_nothing_to_tell(tmp_path):
    many = [annotation(number) for number in range(1, 13)]
    many[0]["bbox"] = [0, 0, 1, 1]
    many[1:] = [
        entry | {"bbox": [v + d for v, d in zip(entry["bbox"], (-2, -2, 4, 4), strict=True)]} for entry in many[1:]
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(make(tmp_path / "set", many))


def test_boxes_of_masks_as_rle(tmp_path):
    runs = [20 * HEIGHT, *[10, 20, HEIGHT - 30] * 30]
    flat = [runs[0] + 10, 20]
    for _ in range(29):
        flat += [HEIGHT - 20, 20]
    flat.append(HEIGHT * WIDTH - sum(flat))
    entry = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": flat}}
    good = [annotation(1, bbox=[20, 10, 30, 20], **entry)]
    assert open_dataset(make(tmp_path / "good", good), strict=True)
    with pytest.warns(Notice, match=r"1 of 1 boxes do not fit"):
        open_dataset(make(tmp_path / "bad", [annotation(1, bbox=[20, 10, 50, 30], **entry)]))


def test_the_real_samples_have_good_boxes(shared_data):
    coco = CocoDataset(shared_data / "coco")
    lvis = LvisDataset(
        shared_data / "lvis", annotations=shared_data / "lvis" / "annotations" / "lvis_v0.5_val_with_images.json"
    )
    for dataset in (coco, lvis):
        objects = {image_id: dataset.annotations(image_id) for image_id in dataset.image_ids}
        assert wrong_boxes(objects, dataset.image_hw) is None


# images


def test_images_of_another_size_or_kind_are_found_before_the_work(tmp_path):
    folder = make(tmp_path / "set", GOOD)
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "val2017" / "2.png")
    with pytest.raises(DatasetError, match=r"2.png is 100 x 120 pixels but .* says 120 x 100"):
        open_dataset(folder)
    (folder / "val2017" / "2.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"2.png is not an image"):
        open_dataset(folder)


def test_a_broken_image_without_objects_is_never_looked_at(tmp_path):
    folder = make(tmp_path / "set", [annotation(2)])
    (folder / "val2017" / "2.png").write_bytes(b"no picture")
    assert open_dataset(folder, strict=True).image(1).shape == (HEIGHT, WIDTH, 3)
