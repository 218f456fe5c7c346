import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantsam.data.folders import ImageFolder
from quantsam.data.scenes import SceneDataset
from quantsam.data.subset import DatasetSubset, stable_subset
from quantsam.errors import DatasetError, ImageError, InputError


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (value, value, value)).save(path)


@pytest.fixture
def folder(tmp_path):
    for index in range(10):
        picture(tmp_path / "pictures" / f"p{index}.png", index)
    return tmp_path / "pictures"


@given(keys=st.sets(st.integers(0, 10**12), min_size=2, max_size=30), seed=st.integers(), data=st.data())
def test_smaller_limit_is_part_of_a_larger_one_in_any_order(keys, seed, data):
    large = data.draw(st.integers(2, len(keys)))
    small = data.draw(st.integers(1, large - 1))
    shuffled = data.draw(st.permutations(sorted(keys)))
    chosen = stable_subset(shuffled, large, seed, "keys")
    assert len(chosen) == large
    assert chosen == sorted(chosen) == stable_subset(sorted(keys), large, seed, "keys")
    assert set(stable_subset(shuffled, small, seed, "keys")) < set(chosen) <= keys


def test_choice_is_the_documented_hash():
    names = [f"sa_{i}.jpg" for i in range(50)]
    by_hash = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).hexdigest())
    assert stable_subset(names, 5, 7, "names") == sorted(by_hash[:5])
    assert stable_subset(names, 5, 8, "names") != sorted(by_hash[:5])


def test_accents_composed_or_not_choose_the_same():
    composed = [f"caf\u00e9{i}" for i in range(20)]
    decomposed = [name.replace("\u00e9", "e\u0301") for name in composed]
    chosen = {composed.index(name) for name in stable_subset(composed, 5, 0, "names")}
    assert chosen == {decomposed.index(name) for name in stable_subset(decomposed, 5, 0, "names")}


def test_subset_of_a_dataset_is_a_dataset():
    scenes = SceneDataset(20, size=64)
    part = DatasetSubset(scenes, 3, seed=1)
    assert part.name == f"{scenes.name}[3:1]"
    assert len(part.image_ids) == 3
    assert list(part.image_ids) == stable_subset(range(1, 21), 3, 1, "scenes")
    assert len({part.digest, scenes.digest, DatasetSubset(scenes, 4, seed=1).digest}) == 3
    first = part.image_ids[0]
    np.testing.assert_array_equal(part.image(first), scenes.image(first))
    annotation = part.annotations(first)[0]
    np.testing.assert_array_equal(part.mask(annotation), scenes.mask(annotation))


def test_all_pictures_by_name(folder):
    pictures = ImageFolder(folder)
    assert len(pictures) == 10
    assert pictures.name == "pictures"
    assert pictures.paths == tuple(folder / f"p{i}.png" for i in range(10))
    assert [image[0, 0, 0] for image in pictures] == list(range(10))
    assert [image.shape for image in pictures] == [(3, 4, 3)] * 10  # and again from the start


def test_limit_is_stable(folder):
    three, five = ImageFolder(folder, limit=3, seed=4), ImageFolder(folder, limit=5, seed=4)
    assert set(three.names) < set(five.names)
    assert list(three.names) == stable_subset([f"p{i}.png" for i in range(10)], 3, 4, "names")
    assert three.name == "pictures[3:4]"
    assert ImageFolder(folder, limit=3, seed=5).names != three.names


def test_what_counts_as_a_picture(tmp_path):
    for name in ("a.JPG", "b.jpeg", "c.Png", "d.bmp", "e.webp", "f.tif", "g.TIFF", "sa_000020/h.jpg"):
        picture(tmp_path / name)
    for name in (".hidden.jpg", "deep/er/i.jpg", ".cache/j.jpg"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "k.jpg").mkdir()
    names = ImageFolder(tmp_path).names
    assert names == ("a.JPG", "b.jpeg", "c.Png", "d.bmp", "e.webp", "f.tif", "g.TIFF", "sa_000020/h.jpg")


def test_pattern_chooses_by_relative_name(tmp_path):
    for name in ("a.jpg", "b.png", "sa_000020/c.jpg"):
        picture(tmp_path / name)
    assert ImageFolder(tmp_path, pattern="*.jpg").names == ("a.jpg", "sa_000020/c.jpg")
    assert ImageFolder(tmp_path, pattern="sa_000020/*").names == ("sa_000020/c.jpg",)
    with pytest.raises(DatasetError, match=r"has no images matching '\*.gif'"):
        ImageFolder(tmp_path, pattern="*.gif")


def test_digest_follows_names_and_sizes(folder):
    whole = ImageFolder(folder).digest
    assert whole == ImageFolder(folder).digest
    assert whole == ImageFolder(folder, limit=10).digest
    assert whole != ImageFolder(folder, limit=9).digest
    (folder / "p3.png").rename(folder / "q3.png")
    renamed = ImageFolder(folder).digest
    assert renamed != whole
    with (folder / "q3.png").open("ab") as file:
        file.write(b"\0")
    assert ImageFolder(folder).digest not in (renamed, whole)


def test_picture_that_vanished(folder):
    pictures = ImageFolder(folder)
    (folder / "p0.png").unlink()
    with pytest.raises(DatasetError, match=r"p0.png vanished while in use"):
        _ = pictures.digest
    with pytest.raises(ImageError, match=r"p0.png does not exist"):
        next(iter(pictures))


def test_bad_folders(tmp_path):
    with pytest.raises(DatasetError, match=r"the folder .*none does not exist: check the path"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"file is a file: give the folder that holds the images"):
        ImageFolder(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty has no images: expected files ending in .avif, .bmp, .heic"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(DatasetError, match=r"cannot be read .*null"):
        ImageFolder("a\0b")


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(folder, limit):
    with pytest.raises(InputError, match=rf"at least 1 of 10 images in .* must be taken, got {limit}: leave"):
        ImageFolder(folder, limit=limit)


def test_limit_above_what_is_there(folder):
    with pytest.raises(InputError, match=r"at most 10 images in .* can be taken, got 11: lower the number"):
        ImageFolder(folder, limit=11)


def test_real_sa_1b_sample(shared_data):
    pictures = ImageFolder(shared_data / "sa-1b", limit=2)
    for image in pictures:
        assert min(image.shape[:2]) > 1000
