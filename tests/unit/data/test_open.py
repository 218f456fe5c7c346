import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantsam.data.coco import CocoDataset
from quantsam.data.dataset import Dataset
from quantsam.data.folders import ImageFolder
from quantsam.data.lvis import LvisDataset
from quantsam.data.open import ImageSource, open_dataset, open_images
from quantsam.data.scenes import SceneDataset
from quantsam.errors import DatasetError, InputError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("QUANTSAM_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def make_coco(folder, splits=("val2017",)):
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


def make_lvis(folder, file="lvis_v1_val.json", images=None):
    """Make LVIS's file, and its images 1 of val2017 and 2 of train2017 in `folder` or elsewhere."""
    entries = []
    for split, image_id in (("val2017", 1), ("train2017", 2)):
        place = (images or folder) / split
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (image_id, 0, 0)).save(place / f"{image_id}.png")
        url = f"http://images.cocodataset.org/{split}/{image_id}.png"
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        entries.append({"id": image_id, "coco_url": url, "height": 4, "width": 6} | lists)
    document = {"images": entries, "annotations": [], "categories": []}
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / file).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(("spec", "count", "seed"), [("scenes", 300, 0), ("scenes:5", 5, 0), ("scenes:5:7", 5, 7)])
def test_scenes(spec, count, seed):
    dataset = open_dataset(spec)
    assert isinstance(dataset, Dataset)
    expected = SceneDataset(count, seed=seed)
    assert (dataset.name, dataset.digest) == (expected.name, expected.digest)


def test_limit_and_seed_choose_among_scenes_but_do_not_change_them():
    assert open_dataset("scenes:9", seed=3).digest == SceneDataset(9, seed=0).digest
    part = open_dataset("scenes:9:2", limit=4, seed=3)
    assert part.name == f"{SceneDataset(9, seed=2).name}[4:3]"
    assert len(part.image_ids) == 4
    assert list(part.image_ids) != list(open_dataset("scenes:9:2", limit=4, seed=4).image_ids)
    with pytest.raises(InputError, match=r"at most 9 images of .* can be taken, got 10"):
        open_dataset("scenes:9", limit=10)


def test_scenes_as_pictures_are_others_than_the_evaluated():
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
def test_malformed_scenes(spec):
    for opened in (open_dataset, open_images):
        with pytest.raises(InputError, match=r"scenes:COUNT:SEED with whole numbers, got .*: write e.g. scenes:300"):
            opened(spec)


def test_no_scenes():
    with pytest.raises(InputError, match=r"1,000,000, got 0"):
        open_dataset("scenes:0")


def test_coco_by_path(tmp_path):
    folder = make_coco(tmp_path / "my-coco")
    for spec in (folder, str(folder)):
        dataset = open_dataset(spec, limit=2, seed=1)
        assert isinstance(dataset, CocoDataset)
        assert dataset.name == "my-coco:val2017[2:1]"


def test_coco_with_files_of_its_own(tmp_path):
    folder = make_coco(tmp_path / "coco", ("val2017", "train2017"))
    train = folder / "annotations" / "instances_train2017.json"
    assert open_dataset(folder, annotations=train).name == "coco:train2017"
    (folder / "val2017").rename(tmp_path / "pictures")
    mine = tmp_path / "mine.json"
    train.rename(mine)
    for images, file in ((tmp_path / "pictures", mine), (str(tmp_path / "pictures"), str(mine))):
        dataset = open_dataset(folder, annotations=file, image_root=images, limit=2)
        assert isinstance(dataset, CocoDataset)
        assert (dataset.annotation_file, dataset.image_folder) == (mine, tmp_path / "pictures")
        assert dataset.name == "coco:val2017[2:0]"


@pytest.mark.parametrize("file", ["lvis_v1_val.json", "lvis_v0.5_val.json"])
def test_lvis_by_path(tmp_path, file):
    folder = make_lvis(tmp_path / "my-lvis", file)
    dataset = open_dataset(folder, limit=1, seed=1)
    assert isinstance(dataset, LvisDataset)
    assert dataset.name == f"my-lvis:{Path(file).stem}[1:1]"


def test_lvis_with_the_images_of_coco(tmp_path):
    coco = make_coco(tmp_path / "coco")
    lvis = make_lvis(tmp_path / "lvis", images=coco)
    file = lvis / "annotations" / "lvis_v1_val.json"
    with pytest.raises(DatasetError, match=r"2 of the 2 images are not in .*lvis, .*name with --image-root the folder"):
        open_dataset(lvis)
    for dataset in (
        open_dataset(lvis, image_root=coco),
        open_dataset(lvis, image_root=str(coco), annotations=str(file)),
        open_dataset(coco, annotations=file),
    ):
        assert isinstance(dataset, LvisDataset)
        assert [dataset.image(i)[0, 0, 0] for i in dataset.image_ids] == [1, 2]
    assert isinstance(open_dataset(coco), CocoDataset)


def test_content_tells_the_kind_of_a_named_file(tmp_path):
    lvis = make_lvis(tmp_path / "lvis")
    file = (lvis / "annotations" / "lvis_v1_val.json").rename(tmp_path / "instances_val2017.json")
    assert isinstance(open_dataset(lvis, annotations=file), LvisDataset)
    coco = make_coco(tmp_path / "coco")
    file = (coco / "annotations" / "instances_val2017.json").rename(tmp_path / "lvis_v1_val.json")
    assert isinstance(open_dataset(coco, annotations=file), CocoDataset)


def test_a_folder_of_both_kinds_is_coco_unless_it_is_called_lvis(in_an_empty_folder):
    both = make_lvis(make_coco(in_an_empty_folder / "lvis"))
    assert isinstance(open_dataset(both), CocoDataset)
    assert isinstance(open_dataset("lvis"), LvisDataset)


@pytest.mark.parametrize("place", ["lvis", "data/lvis"])
def test_bare_lvis_beside_the_user(in_an_empty_folder, place):
    make_lvis(in_an_empty_folder / place)
    assert open_dataset("lvis").name == "lvis:v1_val"
    assert open_images("lvis").name == "lvis:train2017"


def test_named_files_that_are_not_there(tmp_path):
    folder = make_coco(tmp_path / "coco")
    with pytest.raises(DatasetError, match=r"the annotation file .*none.json does not exist"):
        open_dataset(folder, annotations=tmp_path / "none.json")
    with pytest.raises(DatasetError, match=r"the folder .*none does not exist"):
        open_dataset(folder, image_root=tmp_path / "none")


def test_a_named_file_needs_no_folder_of_annotations(tmp_path):
    folder = make_coco(tmp_path / "coco")
    file = (folder / "annotations" / "instances_val2017.json").rename(tmp_path / "instances_val2017.json")
    (folder / "annotations").rmdir()
    assert open_dataset(folder, annotations=file).name == "coco:val2017"


@pytest.mark.parametrize("given", [{"annotations": Path("a.json")}, {"image_root": Path("a")}])
def test_scenes_have_no_files(given):
    with pytest.raises(InputError, match=r"'scenes:3' takes neither --annotations nor --image-root.*: leave them out"):
        open_dataset("scenes:3", **given)


@pytest.mark.parametrize("place", ["coco", "data/coco"])
def test_bare_name_beside_the_user(in_an_empty_folder, place):
    make_coco(in_an_empty_folder / place)
    assert open_dataset("coco").name == "coco:val2017"
    assert open_images("coco").name == "coco:val2017"


def test_variable_goes_before_the_current_folder(tmp_path, in_an_empty_folder, monkeypatch):
    make_coco(tmp_path / "sets" / "coco", ("val2017", "train2017"))
    make_coco(in_an_empty_folder / "coco")
    monkeypatch.setenv("QUANTSAM_DATA", str(tmp_path / "sets"))
    dataset = open_dataset("coco")
    assert isinstance(dataset, CocoDataset)
    assert dataset.folder == tmp_path / "sets" / "coco"


def test_bare_name_nowhere(tmp_path, in_an_empty_folder, monkeypatch):
    here = in_an_empty_folder
    with pytest.raises(DatasetError) as raised:
        open_dataset("coco")
    for part in (f"looked at {here / 'coco'} and {here / 'data' / 'coco'}", "QUANTSAM_DATA", "scenes:300"):
        assert part in str(raised.value)
    monkeypatch.setenv("QUANTSAM_DATA", str(tmp_path / "sets"))
    with pytest.raises(DatasetError, match=rf"'sa-1b' was not found, looked at {tmp_path}/sets/sa-1b: set"):
        open_images("sa-1b")


def test_pictures_of_a_coco_folder(tmp_path):
    both = open_images(make_coco(tmp_path / "both", ("val2017", "train2017")))
    assert isinstance(both, ImageFolder)
    assert both.name == "both:train2017"
    assert both.folder.name == "train2017"
    assert open_images(make_coco(tmp_path / "val"), limit=2).name == "val:val2017[2:0]"


def test_pictures_of_a_plain_folder(tmp_path):
    nested = tmp_path / "sa-1b" / "sa_000020"
    nested.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(nested / "sa_1.jpg")
    source = open_images(str(tmp_path / "sa-1b"))
    assert isinstance(source, ImageSource)
    assert source.name == "sa-1b"
    assert [image.shape for image in source] == [(2, 2, 3)]


def test_folder_without_annotations_is_no_dataset(tmp_path):
    with pytest.raises(
        DatasetError, match=r"has no folder `annotations`.*it holds here/: name the file with --annotations.*scenes:300"
    ):
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
def test_unknown_names(spec, hint):
    for opened, scenes in ((open_dataset, "scenes:300"), (open_images, "scenes:32:1")):
        with pytest.raises(DatasetError, match=rf"neither a known dataset nor an existing folder: {hint}.*{scenes}"):
            opened(spec)


def test_file_instead_of_a_folder(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match=r"a.jpg is a file: give the folder"):
        open_images(tmp_path / "a.jpg")


def test_real_sample(shared_data, monkeypatch):
    monkeypatch.setenv("QUANTSAM_DATA", str(shared_data))
    assert len(open_dataset("coco").image_ids) == 206
    assert len(open_images("coco")) == 343
    assert len(open_images("sa-1b")) == 8
    assert len(open_images("lvis")) == 9
    file = shared_data / "lvis" / "annotations" / "lvis_v0.5_val_with_images.json"
    assert open_dataset("lvis", annotations=file).name == "lvis:v0.5_val_with_images"
