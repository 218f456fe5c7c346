import gc
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from quantsam.data.annotation_file import is_lvis_file
from quantsam.data.coco import CocoDataset
from quantsam.data.dataset import Annotation, Dataset
from quantsam.data.lvis import LvisDataset
from quantsam.data.lvis_file import frequency_of
from quantsam.data.subset import stable_subset
from quantsam.errors import DatasetError, InputError

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]
HEIGHT, WIDTH = 8, 10
V1, V05 = "lvis_v1_val.json", "lvis_v0.5_val.json"


def image(image_id, **changes):
    entry = {
        "id": image_id,
        "height": HEIGHT,
        "width": WIDTH,
        "neg_category_ids": [],
        "not_exhaustive_category_ids": [],
    }
    return entry | changes


def annotation(annotation_id, image_id, category_id=1):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [2, 2, 4.5, 4],
        "area": 16.0,
        "segmentation": [SQUARE],
    }


def make_images(folder):
    """Make 10 and 30 of val2017, 20 of train2017; their red tells which they are."""
    for split, image_id in (("val2017", 10), ("train2017", 20), ("val2017", 30)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (image_id, 0, 0)).save(folder / split / f"{image_id:012d}.jpg", quality=100)
    return folder


def make_lvis(folder, file, images):
    document = {
        "images": images,
        "annotations": [annotation(3, 10, 5), annotation(2, 10), annotation(1, 30)],
        "categories": [
            {"id": 5, "name": "acorn", "frequency": "r"},
            {"id": 1, "name": "person", "frequency": "f"},
            {"id": 2, "name": "sofa", "frequency": "c"},
        ],
    }
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / file).write_text(json.dumps(document))
    return folder


@pytest.fixture
def v1(tmp_path):
    """Three images listed in no order, one of train2017, three objects."""
    url = "http://images.cocodataset.org/{}2017/{:012d}.jpg"
    images = [
        image(30, coco_url=url.format("val", 30), neg_category_ids=[5, 2], not_exhaustive_category_ids=[1]),
        image(10, coco_url=url.format("val", 10)),
        image(20, coco_url=url.format("train", 20)),
    ]
    return make_images(make_lvis(tmp_path / "lvis", V1, images))


@pytest.fixture
def v05(tmp_path):
    """The same in v0.5: a name of 2014 beside the address, alone, and a plain name."""
    images = [
        image(
            30,
            file_name="COCO_val2014_000000000030.jpg",
            coco_url="http://images.cocodataset.org/val2017/000000000030.jpg",
        ),
        image(10, file_name="000000000010.jpg"),
        image(20, file_name="COCO_val2014_000000000020.jpg"),
    ]
    return make_images(make_lvis(tmp_path / "old" / "lvis", V05, images))


def edited(root, edit, file=V1):
    path = root / "annotations" / file
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return root


def with_image(**changes):
    return lambda document: document["images"][0].update(changes)


def with_category(**changes):
    return lambda document: document["categories"][0].update(changes)


def without(key):
    return lambda document: document["images"][0].pop(key)


# what a good folder gives


@pytest.mark.parametrize("version", ["v1", "v05"])
def test_good_folder(version, request):
    dataset = LvisDataset(request.getfixturevalue(version))
    assert isinstance(dataset, Dataset)
    assert dataset.name == {"v1": "lvis:v1_val", "v05": "lvis:v0.5_val"}[version]
    assert list(dataset.image_ids) == [10, 20, 30]
    assert [dataset.image(i)[0, 0, 0] for i in dataset.image_ids] == [10, 20, 30]
    assert dataset.category_names == {1: "person", 2: "sofa", 5: "acorn"}
    assert dataset.category_frequency == {1: "f", 2: "c", 5: "r"}
    assert [[a.id for a in dataset.annotations(i)] for i in dataset.image_ids] == [[2, 3], [], [1]]
    mask = dataset.mask(dataset.annotations(30)[0])
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[2:6, 2:6].all()
    assert mask.sum() == 16


def test_annotation_keeps_what_the_file_says_and_is_no_crowd(v1):
    (found,) = LvisDataset(v1).annotations(30)
    assert found == Annotation(
        id=1,
        image_id=30,
        category_id=1,
        box_xyxy=(2.0, 2.0, 6.5, 6.0),
        area=16.0,
        is_crowd=False,
        segmentation=[SQUARE],
    )


def test_categories_known_of_an_image(v1):
    dataset = LvisDataset(v1)
    assert dataset.negative_category_ids(30) == (5, 2)
    assert dataset.not_exhaustive_category_ids(30) == (1,)
    assert dataset.negative_category_ids(10) == dataset.not_exhaustive_category_ids(20) == ()
    for opened in (dataset.negative_category_ids, dataset.not_exhaustive_category_ids, dataset.image):
        with pytest.raises(InputError, match=r"image id 7 is not one of the 3 images of lvis:v1_val"):
            opened(7)


def test_frequency_follows_from_the_count_where_it_is_absent(v1):
    def counts(document):
        for entry, count in zip(document["categories"], (101, 10, 11), strict=True):
            del entry["frequency"]
            entry["image_count"] = count

    assert LvisDataset(edited(v1, counts)).category_frequency == {1: "r", 2: "c", 5: "f"}
    assert [frequency_of(count) for count in (0, 10, 11, 100, 101)] == ["r", "r", "c", "c", "f"]


def test_what_the_file_says_goes_before_the_count(v1):
    assert LvisDataset(edited(v1, with_category(image_count=500))).category_frequency[5] == "r"


def test_limit_is_stable_and_keeps_only_what_is_chosen(v1):
    part = LvisDataset(v1, limit=2, seed=1)
    assert list(part.image_ids) == stable_subset([10, 20, 30], 2, 1, "images")
    assert part.name == "lvis:v1_val[2:1]"
    (outside,) = {10, 20, 30} - set(part.image_ids)
    with pytest.raises(InputError, match=rf"image id {outside} is not one of the 2 images"):
        part.negative_category_ids(outside)
    for path in v1.glob(f"*2017/*{outside}.jpg"):
        path.unlink()
    assert LvisDataset(v1, limit=2, seed=1).digest == part.digest


def test_the_parsed_file_is_not_kept_alive(v1):
    word = "this is in the parsed document only"
    edited(v1, lambda d: [entry.update(license=word) for entry in d["images"]])
    dataset = LvisDataset(v1)
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is dict and found.get("license") == word]
    assert len(dataset.image_ids) == 3


# which file, which images


def test_v1_goes_before_v05(v1):
    shutil.copy(v1 / "annotations" / V1, v1 / "annotations" / V05)
    assert LvisDataset(v1).annotation_file.name == V1
    (v1 / "annotations" / V1).unlink()
    assert LvisDataset(v1).annotation_file.name == V05


def test_other_split_and_named_file(v1):
    (v1 / "annotations" / V1).rename(v1 / "annotations" / "lvis_v1_train.json")
    assert LvisDataset(v1, split="train").name == "lvis:v1_train"
    (v1 / "annotations" / "lvis_v1_train.json").rename(v1 / "mine.json")
    dataset = LvisDataset(v1, annotations=v1 / "mine.json")
    assert dataset.name == "lvis:mine"
    assert list(dataset.image_ids) == [10, 20, 30]


@pytest.mark.parametrize("version", ["v1", "v05"])
def test_images_of_a_coco_folder(version, request):
    folder = request.getfixturevalue(version)
    digest = LvisDataset(folder).digest
    coco = folder.parent / "coco"
    coco.mkdir()
    for split in ("val2017", "train2017"):
        (folder / split).rename(coco / split)
    dataset = LvisDataset(folder, image_root=coco)
    assert dataset.image_folder == coco
    assert dataset.image(20)[0, 0, 0] == 20
    assert dataset.digest == digest
    file = folder / "annotations" / (V1 if version == "v1" else V05)
    assert LvisDataset(coco, annotations=file).name == f"coco:{file.stem}"


@pytest.mark.parametrize(
    "changes",
    [
        {"coco_url": "https://mirror.example/a/b/val2017/000000000030.jpg?size=full#top"},
        {"coco_url": "val2017/000000000030.jpg"},
        {"coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000000030.jpg"},
        {"coco_url": "http://mirror.example/000000000030.jpg"},
        {"file_name": "val2017/000000000030.jpg"},
        {"file_name": "COCO_train2014_000000000030.jpg"},
    ],
)
def test_ways_to_name_an_image(v1, changes):
    def rename(document):
        del document["images"][0]["coco_url"]
        document["images"][0].update(changes)

    assert LvisDataset(edited(v1, rename)).image(30)[0, 0, 0] == 30


def test_digest_follows_everything_that_is_evaluated(v1):
    edits = [
        lambda d: d.update(info="not looked at"),
        with_image(neg_category_ids=[5]),
        with_image(not_exhaustive_category_ids=[]),
        lambda d: d["annotations"][0].update(category_id=2),
        lambda d: d["annotations"].pop(),
        lambda d: d["images"].pop(),
    ]
    digests = [LvisDataset(v1).digest] + [LvisDataset(edited(v1, edit)).digest for edit in edits]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == len(edits)


# folders and files that are not what they should be


def test_missing_folder_and_files(v1, tmp_path):
    with pytest.raises(DatasetError, match=r"the LVIS folder .*none does not exist: check the path"):
        LvisDataset(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"the annotation file .*none.json does not exist: check the path"):
        LvisDataset(v1, annotations=tmp_path / "none.json")
    with pytest.raises(DatasetError, match=r"the folder .*none does not exist"):
        LvisDataset(v1, image_root=tmp_path / "none")
    with pytest.raises(DatasetError, match=r"the folder .*annotations does not exist"):
        LvisDataset(v1 / "val2017")


def test_unknown_split(v1):
    (v1 / "annotations" / "lvis_v1_train_cat_info.json").write_text("[]")
    with pytest.raises(
        DatasetError,
        match=r"has no split 'vall', looked for annotations/lvis_v1_vall.json and lvis_v0.5_vall.json: "
        r"give another split, or a file with --annotations; did you mean 'val'\?",
    ):
        LvisDataset(v1, split="vall")
    with pytest.raises(DatasetError, match=r"has no split 'test', .*; known are: val$"):
        LvisDataset(v1, split="test")
    (v1 / "annotations" / V1).unlink()
    with pytest.raises(DatasetError, match=r"has no split 'val', .*the folder has none, download it from"):
        LvisDataset(v1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"is not valid JSON: .* at line 1, column 2"),
        (b'[{"id": 1, "frequency": "c"}]', r"is not an LVIS annotation file: it must hold an object .* got list"),
        (b'[{"image_id": 1, "score": 0.5}]', r"is an LVIS results file .*: give the lvis_\*.json that"),
        (b'{"images": []}', r"is not an LVIS annotation file: it has no list `annotations`"),
        (b'{"images": [], "annotations": []}', r"lists no images"),
        (
            b'{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"id": 1, "iscrowd": 0}]}',
            r"is a COCO annotation file .*: open it with CocoDataset, or with open_dataset",
        ),
    ],
)
def test_annotation_files_of_another_format(v1, content, message):
    (v1 / "annotations" / V1).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{V1} {message}") as raised:
        LvisDataset(v1)
    assert "\n" not in str(raised.value)


def test_an_lvis_file_for_coco_names_the_way_out(v1):
    with pytest.raises(
        DatasetError, match=r"is an LVIS annotation file, .*: open it with LvisDataset, or with open_dataset\(FOLDER"
    ):
        CocoDataset(v1, annotations=v1 / "annotations" / V1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("coco_url"), r"images\[0\] has neither `coco_url` nor `file_name`: .*download"),
        (with_image(coco_url=""), r"images\[0\]: `coco_url` must be a text, got ''"),
        (
            with_image(coco_url="http://images.cocodataset.org"),
            r"`coco_url` must end in a folder and a file name .* got",
        ),
        (with_image(coco_url="http://x/val2017/"), r"`coco_url` must end in a folder and a file name .*val2017/'"),
        (with_image(coco_url="http://[x/val2017/1.jpg"), r"`coco_url` must end in a folder and a file name"),
        (with_image(coco_url="http://x/val2017/../1.jpg"), r"`coco_url` must stay in the image folder, got"),
        (with_image(coco_url="http://x/val2017/.."), r"`coco_url` must stay in the image folder, got"),
        (with_image(coco_url="http://x/val2017/..\\1.jpg"), r"`coco_url` must stay in the image folder, got"),
        (with_image(id=10), r"images\[1\] repeats the image id 10"),
        (with_image(width=0), r"images\[0\] is 8 x 0"),
        (without("neg_category_ids"), r"image 30 has no `neg_category_ids`, which every image of LVIS has: .*download"),
        (without("not_exhaustive_category_ids"), r"image 30 has no `not_exhaustive_category_ids`, which every"),
        (with_image(neg_category_ids=3), r"image 30: `neg_category_ids` must be a list, got 3"),
        (with_image(neg_category_ids=[9]), r"`neg_category_ids` must hold ids of the file's 3 categories, got 9"),
        (with_image(not_exhaustive_category_ids=[True]), r"`not_exhaustive_.*` must hold ids .* got True"),
        (with_image(neg_category_ids=[[1]]), r"`neg_category_ids` must hold ids .* got \[1\]"),
        (
            lambda d: d["annotations"][0].update(category_id=9),
            r"annotation 3 of image 10 is of category 9, which is none of the file's 3: .*download",
        ),
        (lambda d: d.pop("categories"), r"must hold ids of the file's 0 categories"),
        (lambda d: d["annotations"][0].update(iscrowd=2), r"`iscrowd` must be 0 or 1, got 2"),
        (with_category(frequency="often"), r"categories\[0\]: `frequency` must be r, c or f .* got 'often'"),
        (with_category(frequency=None), r"categories\[0\]: `frequency` must be r, c or f .* got None"),
        (lambda d: d["categories"][0].pop("frequency"), r"categories\[0\] has neither `frequency` nor `image_count`"),
        (
            lambda d: (d["categories"][0].pop("frequency"), with_category(image_count="1")(d)),
            r"categories\[0\]: `image_count` must be a whole number, got '1'",
        ),
        (
            lambda d: (d["categories"][0].pop("frequency"), with_category(image_count=-1)(d)),
            r"categories\[0\]: `image_count` must be >= 0, got -1",
        ),
    ],
)
def test_bad_values_are_named(v1, edit, message):
    with pytest.raises(DatasetError, match=rf"{V1}: .*{message}") as raised:
        LvisDataset(edited(v1, edit))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a\\..\\b.jpg", "a\0.jpg"])
def test_file_names_of_v05_stay_in_the_folder(v05, name):
    edited(v05, lambda d: d["images"][1].update(file_name=name), V05)
    with pytest.raises(DatasetError, match=r"image.*: `file_name` must stay in the image folder"):
        LvisDataset(v05)


def test_missing_images_are_counted_and_the_way_out_named(v1, v05):
    shutil.rmtree(v1 / "val2017")
    with pytest.raises(
        DatasetError,
        match=r"2 of the 3 images are not in .*lvis, the first is 'val2017/000000000010.jpg': LVIS uses COCO's "
        r"photographs, so name with --image-root the folder that holds COCO's val2017/ and train2017/",
    ):
        LvisDataset(v1)
    (v05 / "train2017" / "000000000020.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of the 3 images are not in .*, the first is '000000000020.jpg'"):
        LvisDataset(v05)


def test_is_lvis_file(v1, v05, tmp_path):
    assert is_lvis_file(v1 / "annotations" / V1)
    assert is_lvis_file(v05 / "annotations" / V05)
    no_lists = edited(v1, lambda d: [entry.pop("neg_category_ids") for entry in d["images"]])
    assert is_lvis_file(no_lists / "annotations" / V1)
    for content in (b"", b'{"images": [{"file_name": "1.jpg", "coco_url": "http://x/1.jpg"}]}'):
        (tmp_path / "coco.json").write_bytes(content)
        assert not is_lvis_file(tmp_path / "coco.json")
    assert not is_lvis_file(tmp_path)
    assert not is_lvis_file(tmp_path / "none.json")


# the real sample


@pytest.fixture(scope="module")
def real(shared_data):
    return LvisDataset(shared_data / "lvis", split="val_with_images")


def test_real_sample_counts(real):
    found = [a for image_id in real.image_ids for a in real.annotations(image_id)]
    assert real.name == "lvis:v0.5_val_with_images"
    assert len(real.image_ids) == 9
    assert len(found) == 55
    assert len(real.category_names) == len(real.category_frequency) == 1230
    assert sorted(real.category_frequency.values()).count("r") == 454
    assert len(real.negative_category_ids(11813)) == 12
    for image_id in real.image_ids:
        present = {a.category_id for a in real.annotations(image_id)}
        assert not present & set(real.negative_category_ids(image_id))
        assert set(real.not_exhaustive_category_ids(image_id)) <= present
        assert real.image(image_id).ndim == 3


def test_every_real_mask_decodes_to_its_area(real):
    for image_id in real.image_ids:
        for found in real.annotations(image_id):
            mask = real.mask(found)
            assert mask.shape == real.image(image_id).shape[:2]
            assert np.log(mask.sum() / found.area) == pytest.approx(0, abs=0.3)


def test_real_sample_without_its_images(shared_data):
    with pytest.raises(DatasetError, match=r"91 of the 100 images are not in .*--image-root"):
        LvisDataset(shared_data / "lvis", split="val_100")
    with pytest.raises(DatasetError, match=r"has no split 'val', .*val_100"):
        LvisDataset(shared_data / "lvis")
    with pytest.raises(DatasetError, match=r"instances_val2017.json is a COCO annotation file .*CocoDataset"):
        LvisDataset(shared_data / "lvis", annotations=shared_data / "coco" / "annotations" / "instances_val2017.json")


def test_real_frequencies_follow_from_the_counts(shared_data):
    categories = json.loads((shared_data / "lvis" / "annotations" / "lvis_v1_train_cat_info.json").read_bytes())
    assert len(categories) == 1203
    assert all(frequency_of(entry["image_count"]) == entry["frequency"] for entry in categories)
