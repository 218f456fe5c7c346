"""Folders as annotation tools export them, and the names that they give to images."""

import gzip
import json
import os
import threading
import unicodedata

import pytest
from PIL import Image

from quantsam.data.coco import CocoDataset
from quantsam.data.open import open_dataset, open_images
from quantsam.errors import DatasetError

ANNOTATION = {
    "category_id": 1,
    "bbox": [1, 1, 3, 2],
    "area": 6.0,
    "iscrowd": 0,
    "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]],
}


def document(*names):
    images = [{"id": i, "file_name": name, "height": 4, "width": 6} for i, name in enumerate(names, start=1)]
    annotations = [ANNOTATION | {"id": 10 + image["id"], "image_id": image["id"]} for image in images]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def pictures(folder, *names):
    for number, name in enumerate(names, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (40 * number, 0, 0)).save(folder / name)


def red(dataset):
    """Which pictures were found, in the order of the images."""
    return [int(dataset.image(image_id)[0, 0, 0]) for image_id in dataset.image_ids]


LAYOUTS = {  # annotation file, image folder, part
    "CVAT": ("annotations/instances_default.json", "images/default", "default"),
    "CVAT, older": ("annotations/instances_default.json", "images", "default"),
    "CVAT with subsets": ("annotations/instances_Test.json", "images/Test", "Test"),
    "Roboflow": ("valid/_annotations.coco.json", "valid", "valid"),
    "Label Studio": ("result.json", "images", "result"),
    "FiftyOne": ("labels.json", "data", "labels"),
    "labelme": ("annotations.json", "JPEGImages", "annotations"),
    "Ultralytics": ("annotations/instances_val2017.json", "images/val2017", "val2017"),
    "COCO 2014": ("annotations/instances_val2014.json", "val2014", "val2014"),
    "a name of one's own": ("annotations/my_labels.json", "my_labels", "my_labels"),
    "beside one another": ("export.json", ".", "export"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exports_are_found(tmp_path, layout):
    file, folder, part = LAYOUTS[layout]
    root = tmp_path / "set"
    write(root / file, document("b.png", "a.png"))
    pictures(root / folder, "b.png", "a.png")
    dataset = open_dataset(root)
    assert isinstance(dataset, CocoDataset)
    assert (dataset.name, red(dataset)) == (f"set:{part}", [40, 80])
    assert red(open_dataset(root, annotations=root / file)) == [40, 80]


@pytest.mark.parametrize("prefix", ["images/", "images\\", "\\images\\", "C:\\data\\images\\", "/label-studio/images/"])
def test_names_with_folders_in_front_and_backslashes(tmp_path, prefix):
    write(tmp_path / "result.json", document(f"{prefix}b.png", f"{prefix}a.png"))
    pictures(tmp_path / "images", "b.png", "a.png")
    assert red(open_dataset(tmp_path)) == [40, 80]
    assert red(open_dataset(tmp_path, image_root=tmp_path / "images")) == [40, 80]


def test_a_file_whose_name_has_a_backslash_goes_before(tmp_path):
    write(tmp_path / "result.json", document("images\\b.png"))
    pictures(tmp_path, "images/b.png", "images\\b.png")
    assert red(open_dataset(tmp_path)) == [80]


def test_letters_composed_in_another_way_and_other_case(tmp_path):
    write(tmp_path / "result.json", document(unicodedata.normalize("NFC", "é.PNG")))
    pictures(tmp_path / "images", unicodedata.normalize("NFD", "é.png"))
    assert red(open_dataset(tmp_path)) == [40]


def test_no_two_images_come_to_one_file(tmp_path):
    write(tmp_path / "result.json", document("x/a.png", "y/a.png"))
    pictures(tmp_path / "images", "a.png")
    with pytest.raises(DatasetError, match=r"2 of the 2 images are not in .*--image-root"):
        open_dataset(tmp_path)


def test_folders_in_front_are_not_left_out_where_others_are_there_as_written(tmp_path):
    write(tmp_path / "result.json", document("a.png", "gone/b.png"))
    pictures(tmp_path / "images", "a.png", "b.png")
    with pytest.raises(DatasetError, match=r"1 of the 2 images are not in .*images, the first is 'gone/b.png'"):
        open_dataset(tmp_path)


def test_of_several_files_the_validation_split_is_taken(tmp_path):
    for number, split in enumerate(("test", "train", "valid"), start=1):
        write(tmp_path / split / "_annotations.coco.json", document("a.png"))
        pictures(tmp_path / split, *["b.png"] * (number - 1), "a.png")
    dataset = open_dataset(tmp_path)
    assert dataset.name.endswith(":valid")
    assert open_images(tmp_path).name.endswith(":train")


def test_of_several_files_that_are_alike_all_are_named(tmp_path):
    for split in ("one", "two"):
        write(tmp_path / "annotations" / f"instances_{split}.json", document("a.png"))
    with pytest.raises(
        DatasetError, match=r"2 annotation files, annotations/instances_one.json, .*two.json: .*--annot"
    ):
        open_dataset(tmp_path)


def test_files_of_other_tasks_are_no_candidates(tmp_path):
    for task in ("captions", "person_keypoints", "panoptic", "image_info"):
        write(tmp_path / "annotations" / f"{task}_val2017.json", document("a.png"))
    (tmp_path / "package.json").write_text('{"name": "viewer"}')
    with pytest.raises(
        DatasetError, match=r"has no annotation file that quantsam knows .*it holds annotations/, package"
    ):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["Annotations/1.xml", "JPEGImages/1.jpg"], "Pascal VOC, which must be converted"),
        (["annotations.xml"], "CVAT's own XML: export it as COCO 1.0"),
        (["data.yaml", "train/labels/1.txt"], "labels of YOLO, it seems"),
    ],
)
def test_other_kinds_of_annotations_are_recognised(tmp_path, files, hint):
    for file in files:
        write(tmp_path / file, "x")
    with pytest.raises(DatasetError, match=rf"it holds .*{hint}.*--annotations.*--image-root"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("packing", [".gz", ".zip", ".bz2", ".xz"])
def test_an_official_file_may_be_packed(tmp_path, packing):
    pictures(tmp_path / "val2017", "a.png")
    path = tmp_path / "annotations" / f"instances_val2017.json{packing}"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(json.dumps(document("a.png")).encode()))  # content counts, not the name
    assert open_dataset(tmp_path).name.endswith(":val2017")


def test_pictures_of_exports(tmp_path):
    write(tmp_path / "cvat" / "annotations" / "instances_default.json", document("a.png"))
    pictures(tmp_path / "cvat" / "images" / "default", "a.png")
    assert open_images(tmp_path / "cvat").name == "cvat:images/default"
    pictures(tmp_path / "plain", "train/a.png", "other/b.png")  # no data set: all of it
    assert len(open_images(tmp_path / "plain")) == 2


def test_a_name_of_several_lines_is_shown_in_one(tmp_path):
    root = tmp_path / "two\nlines \x1b[31m"
    write(root / "mine.json", document("a.png"))
    pictures(root, "a.png")
    assert open_dataset(root).name == "two\\nlines \\x1b[31m:mine"
    assert open_images(root).name == "two\\nlines \\x1b[31m"


def test_a_folder_that_is_called_like_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "~" / "set" / "mine.json", document("a.png"))
    pictures(tmp_path / "~" / "set", "a.png")
    assert red(open_dataset("./~/set")) == [40]
    assert len(open_images("./~/set")) == 1


def test_a_pipe_is_read_once(tmp_path):
    """As a shell makes it of `--annotations <(zcat a.json.gz)`."""
    write(tmp_path / "set" / "mine.json", document("a.png"))
    pictures(tmp_path / "set", "a.png")
    os.mkfifo(tmp_path / "pipe")
    content = json.dumps(document("a.png"))
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(content,), daemon=True)
    writer.start()
    assert red(open_dataset(tmp_path / "set", annotations=tmp_path / "pipe")) == [40]
    writer.join(10)


def test_a_home_folder_is_known_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "set" / "mine.json", document("a.png"))
    pictures(tmp_path / "images", "a.png")
    dataset = open_dataset("~/set", annotations="~/set/mine.json", image_root="~/images")
    assert red(dataset) == [40]
    monkeypatch.setenv("QUANTSAM_DATA", "~")
    pictures(tmp_path / "sa-1b", "a.png")
    assert len(open_images("sa-1b")) == 1
