from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco import CocoDataset
from quantsam.data.dataset import Dataset
from quantsam.data.folders import ImageFolder
from quantsam.data.open import ImageSource, open_dataset, open_images
from quantsam.data.scenes import SceneDataset
from quantsam.errors import DatasetError, InputError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("QUANTSAM_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def make_coco(folder: Path, splits: tuple[str, ...] = ("val2017",)) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for split in splits:
        (folder / split).mkdir()
        images = []
        for image_id in (1, 2, 3):
            Image.new("RGB", (6, 4), (image_id, 0, 0)).save(folder / split / f"{image_id}.png")
            images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 4, "width": 6})
        document = {"images": images, "annotations": [], "categories": []}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(("spec", "count", "seed"), [("scenes", 300, 0), ("scenes:5", 5, 0), ("scenes:5:7", 5, 7)])
def test_scenes(spec: str, count: int, seed: int) -> None:
    dataset = open_dataset(spec)
    assert isinstance(dataset, Dataset)
    expected = SceneDataset(count, seed=seed)
    assert (dataset.name, dataset.digest) == (expected.name, expected.digest)


def test_limit_and_seed_choose_among_scenes_but_do_not_change_them() -> None:
    assert open_dataset("scenes:9", seed=3).digest == SceneDataset(9, seed=0).digest
    part = open_dataset("scenes:9:2", limit=4, seed=3)
    assert part.name == f"{SceneDataset(9, seed=2).name}[4:3]"
    assert len(part.image_ids) == 4
    assert list(part.image_ids) != list(open_dataset("scenes:9:2", limit=4, seed=4).image_ids)
    with pytest.raises(InputError, match=r"limit must be at most 9, the number of images of .*, got 10"):
        open_dataset("scenes:9", limit=10)


def test_scenes_as_pictures_are_others_than_the_evaluated() -> None:
    source = open_images("scenes:6", limit=2)
    assert isinstance(source, ImageSource)
    assert source.name == f"{SceneDataset(6, seed=1).name}[2:0]"
    assert len(source) == 2
    pictures = list(source)
    assert [picture.shape for picture in pictures] == [(256, 256, 3)] * 2
    assert pictures[0].dtype == np.uint8
    assert source.digest != open_dataset("scenes:6", limit=2).digest
    assert open_images("scenes:6:0").digest == open_dataset("scenes:6").digest


@pytest.mark.parametrize("spec", ["scenes:", "scenes:x", "scenes:1:2:3", "scenes:-4", "scenes:1.5", "scenes: 3"])
def test_malformed_scenes(spec: str) -> None:
    for opened in (open_dataset, open_images):
        with pytest.raises(InputError, match=r"scenes:COUNT:SEED with whole numbers, got .*: write e.g. scenes:300"):
            opened(spec)


def test_no_scenes() -> None:
    with pytest.raises(InputError, match=r"1,000,000, got 0"):
        open_dataset("scenes:0")


def test_coco_by_path(tmp_path: Path) -> None:
    folder = make_coco(tmp_path / "my-coco")
    for spec in (folder, str(folder)):
        dataset = open_dataset(spec, limit=2, seed=1)
        assert isinstance(dataset, CocoDataset)
        assert dataset.name == "my-coco:val2017[2:1]"


@pytest.mark.parametrize("place", ["coco", "data/coco"])
def test_bare_name_beside_the_user(in_an_empty_folder: Path, place: str) -> None:
    make_coco(in_an_empty_folder / place)
    assert open_dataset("coco").name == "coco:val2017"
    assert open_images("coco").name == "coco:val2017"


def test_variable_goes_before_the_current_folder(
    tmp_path: Path, in_an_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_coco(tmp_path / "sets" / "coco", ("val2017", "train2017"))
    make_coco(in_an_empty_folder / "coco")
    monkeypatch.setenv("QUANTSAM_DATA", str(tmp_path / "sets"))
    dataset = open_dataset("coco")
    assert isinstance(dataset, CocoDataset)
    assert dataset.folder == tmp_path / "sets" / "coco"


def test_bare_name_nowhere(tmp_path: Path, in_an_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = in_an_empty_folder
    with pytest.raises(DatasetError) as raised:
        open_dataset("coco")
    for part in (f"looked at {here / 'coco'} and {here / 'data' / 'coco'}", "QUANTSAM_DATA", "scenes:300"):
        assert part in str(raised.value)
    monkeypatch.setenv("QUANTSAM_DATA", str(tmp_path / "sets"))
    with pytest.raises(DatasetError, match=rf"'sa-1b' was not found, looked at {tmp_path}/sets/sa-1b: set"):
        open_images("sa-1b")


def test_pictures_of_a_coco_folder(tmp_path: Path) -> None:
    both = open_images(make_coco(tmp_path / "both", ("val2017", "train2017")))
    assert isinstance(both, ImageFolder)
    assert both.name == "both:train2017"
    assert both.folder.name == "train2017"
    assert open_images(make_coco(tmp_path / "val"), limit=2).name == "val:val2017[2:0]"


def test_pictures_of_a_plain_folder(tmp_path: Path) -> None:
    nested = tmp_path / "sa-1b" / "sa_000020"
    nested.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(nested / "sa_1.jpg")
    source = open_images(str(tmp_path / "sa-1b"))
    assert isinstance(source, ImageSource)
    assert source.name == "sa-1b"
    assert [image.shape for image in source] == [(2, 2, 3)]


def test_folder_without_annotations_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no folder `annotations`.* scenes:300 needs no download"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("coc", "did you mean 'coco'"),
        ("scene:30", "did you mean 'scenes'"),
        ("", "known are: coco, lvis, sa-1b, scenes"),
        ("~nobody-of-that-name/x", "known are"),
        ("x" * 5000, "known are"),
        ("a\0b", "known are"),
    ],
)
def test_unknown_names(spec: str, hint: str) -> None:
    for opened in (open_dataset, open_images):
        with pytest.raises(DatasetError, match=rf"neither a known dataset nor an existing folder: {hint}.*scenes:300"):
            opened(spec)


def test_file_instead_of_a_folder(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match=r"a.jpg is a file: give the folder"):
        open_images(tmp_path / "a.jpg")


def test_real_sample(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSAM_DATA", str(shared_data))
    assert len(open_dataset("coco").image_ids) == 206
    assert len(open_images("coco")) == 343
    assert len(open_images("sa-1b")) == 8
    assert len(open_images("lvis")) == 9
