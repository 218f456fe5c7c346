import functools
import hashlib
import json

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image, ImageDraw

from quantsam.data.dataset import Dataset
from quantsam.data.scenes import CATEGORY_NAMES, SceneDataset, make_scene, write_coco_folder
from quantsam.errors import InputError, OutputError

PINNED = "23cb47b6372e18aae05de7ada66a83996257be9c7956a7bd4132d00f9213c273"


@functools.cache
def many():
    return tuple(make_scene(seed) for seed in range(300))


def digest_of(scene):
    parts = (scene.image, scene.masks, scene.category_ids.astype("<i8"))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_a_seed_gives_the_same_bytes_again_and_as_pinned():
    assert digest_of(make_scene(42)) == digest_of(make_scene(42)) == PINNED


def test_seeds_give_different_scenes():
    assert len({scene.image.tobytes() for scene in many()}) == len(many())


@pytest.mark.parametrize("size", [32, 64, 256, 520])
def test_shapes_and_dtypes(size):
    for seed in range(12):
        scene = make_scene(seed, size)
        count = len(scene.category_ids)
        assert 2 <= count <= 8
        assert (scene.image.shape, scene.image.dtype) == ((size, size, 3), np.uint8)
        assert (scene.masks.shape, scene.masks.dtype) == ((count, size, size), np.bool_)
        assert scene.seed == seed


def test_masks_are_disjoint_and_not_tiny():
    for scene in many():
        assert scene.masks.sum(axis=0, dtype=np.int64).max() == 1
        assert scene.masks.sum(axis=(1, 2)).min() >= 30


def test_counts_span_two_to_eight():
    assert {len(scene.masks) for scene in many()} == set(range(2, 9))


def test_every_category_appears():
    found = np.concatenate([scene.category_ids for scene in many()])
    share = np.bincount(found, minlength=len(CATEGORY_NAMES) + 1)[1:] / len(found)
    assert len(share) == len(CATEGORY_NAMES)
    assert share.min() > 0.5 / len(CATEGORY_NAMES)


def test_small_objects_are_about_two_fifths():
    areas = np.concatenate([scene.masks.sum(axis=(1, 2)) for scene in many()])
    assert 0.25 < np.mean(areas < 32**2) < 0.55
    assert np.mean(areas > 96**2) < 0.1


def contrast_with_surroundings(scene, index):
    mask = scene.masks[index]
    near = np.zeros_like(mask)
    for axis in (0, 1):
        for step in range(-5, 6):
            near |= np.roll(mask, step, axis)
    near &= ~scene.masks.any(axis=0)
    if near.sum() < 20:
        return 255.0
    return float(np.abs(scene.image[mask].mean(axis=0) - scene.image[near].mean(axis=0)).max())


def test_some_objects_are_of_low_contrast_most_are_not():
    contrasts = [contrast_with_surroundings(s, i) for s in many()[:120] for i in range(len(s.masks))]
    share = float(np.mean(np.array(contrasts) < 25.0))
    assert 0.1 < share < 0.5


def test_ring_has_a_hole():
    ring = 1 + CATEGORY_NAMES.index("ring")
    holes = 0
    for scene in many():
        for mask in scene.masks[scene.category_ids == ring]:
            # background reachable from the frame, on a one-pixel margin
            outside = Image.fromarray(np.pad(mask, 1).astype(np.uint8) * 255)
            ImageDraw.floodfill(outside, (0, 0), 128)
            holes += bool((np.asarray(outside) == 0).any())
    assert holes > 30


def test_dataset_is_a_dataset_with_tight_boxes():
    dataset = SceneDataset(20, seed=3)
    assert isinstance(dataset, Dataset)
    ids = []
    for image_id in dataset.image_ids:
        for annotation in dataset.annotations(image_id):
            mask = dataset.mask(annotation)
            left, top, right, bottom = (int(v) for v in annotation.box_xyxy)
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum() == annotation.area
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            assert (annotation.image_id, annotation.is_crowd) == (image_id, False)
            ids.append(annotation.id)
    assert len(set(ids)) == len(ids)


def test_handed_out_arrays_are_the_callers_own():
    dataset = SceneDataset(1)
    before = dataset.image(1).copy()
    dataset.image(1)[:] = 0
    dataset.mask(dataset.annotations(1)[0])[:] = False
    assert np.array_equal(dataset.image(1), before)
    assert dataset.mask(dataset.annotations(1)[0]).any()


def test_seeds_are_disjoint_and_digests_differ():
    def seeds(seed):
        dataset = SceneDataset(5, seed=seed, size=32)
        return {dataset.scene(image_id).seed for image_id in dataset.image_ids}

    assert seeds(0) == {0, 1, 2, 3, 4}
    assert seeds(7) == {7_000_000 + index for index in range(5)}
    assert SceneDataset(1_000_000, seed=0, size=32).scene(1_000_000).seed == 999_999
    variants = [SceneDataset(5), SceneDataset(6), SceneDataset(5, seed=1), SceneDataset(5, size=64)]
    assert len({dataset.digest for dataset in variants}) == len({dataset.name for dataset in variants}) == 4
    assert SceneDataset(300, seed=7).name == "scenes-300-seed7"


@pytest.mark.parametrize(
    ("count", "seed", "size", "words"),
    [
        (0, 0, 256, "`count`.*between 1 and 1,000,000, got 0"),
        (1_000_001, 0, 256, "`count`.*got 1,000,001"),
        (1, -1, 256, "`seed`.*>= 0, got -1"),
        (1, 0, 24, "`size`.*at least 32, got 24: the nearest is 32"),
        (1, 0, 100, "`size`.*multiple of 8.*got 100"),
    ],
)
def test_refuses_arguments_out_of_range(count, seed, size, words):
    with pytest.raises(InputError, match=words):
        SceneDataset(count, seed, size)


@pytest.mark.parametrize("image_id", [0, 4, -1])
def test_refuses_unknown_image(image_id):
    with pytest.raises(InputError, match="between 1 and 3"):
        SceneDataset(3).image(image_id)


def test_coco_folder_round_trip(tmp_path):
    dataset = SceneDataset(4, seed=2, size=64)
    seen = []

    def progress(image_ids):
        for image_id in image_ids:
            seen.append(image_id)
            yield image_id

    folder = tmp_path / "deep" / "scenes"
    assert write_coco_folder(dataset, folder, progress=progress) == folder
    assert seen == [1, 2, 3, 4]
    assert [path.name for path in folder.parent.iterdir()] == ["scenes"]
    document = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    assert set(document) == {"info", "licenses", "images", "annotations", "categories"}
    assert [c["name"] for c in document["categories"]] == list(CATEGORY_NAMES)
    for entry in document["images"]:
        with Image.open(folder / "val2017" / entry["file_name"]) as image:
            assert np.array_equal(np.asarray(image), dataset.image(entry["id"]))
        assert (entry["height"], entry["width"]) == (64, 64)
    expected = [a for image_id in dataset.image_ids for a in dataset.annotations(image_id)]
    assert [entry["id"] for entry in document["annotations"]] == [a.id for a in expected]
    for entry, annotation in zip(document["annotations"], expected, strict=True):
        rle = {**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()}
        assert np.array_equal(coco_mask.decode(rle).astype(bool), dataset.mask(annotation))
        x, y, width, height = entry["bbox"]
        assert (x, y, x + width, y + height) == annotation.box_xyxy
        assert (entry["area"], entry["iscrowd"]) == (annotation.area, 0)
        assert (entry["category_id"], entry["image_id"]) == (annotation.category_id, annotation.image_id)


def test_writes_into_an_empty_folder_and_names_the_split(tmp_path):
    (tmp_path / "scenes").mkdir()
    write_coco_folder(SceneDataset(1, size=32), tmp_path / "scenes", split="train2017")
    assert (tmp_path / "scenes" / "train2017" / "000000000001.png").is_file()
    assert (tmp_path / "scenes" / "annotations" / "instances_train2017.json").is_file()


def test_refuses_a_folder_in_use_and_leaves_it_alone(tmp_path):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "keep.txt").write_text("mine")
    with pytest.raises(OutputError, match="absent or empty") as refusal:
        write_coco_folder(SceneDataset(1, size=32), tmp_path / "scenes")
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "scenes" / "keep.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="a file of that name"):
        write_coco_folder(SceneDataset(1, size=32), tmp_path / "scenes" / "keep.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


@pytest.mark.parametrize("split", ["", "../up", "a/b", "val 2017"])
def test_refuses_a_split_that_is_no_name(tmp_path, split):
    with pytest.raises(InputError, match="`split`"):
        write_coco_folder(SceneDataset(1, size=32), tmp_path / "scenes", split=split)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_interrupted(tmp_path, error):
    def interrupted(image_ids):
        for image_id in image_ids:
            yield image_id
            assert len(list(tmp_path.iterdir())) == 1, "the work in progress lies beside the target"
            raise error

    with pytest.raises(error):
        write_coco_folder(SceneDataset(3, size=32), tmp_path / "scenes", progress=interrupted)
    assert not list(tmp_path.iterdir())


def test_a_disk_error_is_one_clear_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_coco_folder(SceneDataset(1, size=32), tmp_path / "scenes")
    assert not list(tmp_path.iterdir())
