import contextlib
import io
import json

import numpy as np
import pytest
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as coco_api
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from quantsam.data.coco import CocoDataset
from quantsam.data.coco_masks import decode_mask
from quantsam.data.dataset import Annotation, Dataset
from quantsam.data.subset import stable_subset
from quantsam.errors import DatasetError, ImageError, InputError

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]
HEIGHT, WIDTH = 8, 10


def annotation(annotation_id, image_id, **changes):
    entry = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [2, 2, 4.5, 4],
        "area": 16.0,
        "iscrowd": 0,
        "segmentation": [SQUARE],
    }
    return entry | changes


@pytest.fixture
def folder(tmp_path):
    """Five images of 8 x 10 listed in no order, three objects of which one is a crowd."""
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    images = []
    for image_id in (30, 10, 50, 20, 40):
        Image.new("RGB", (WIDTH, HEIGHT), (image_id, 0, 0)).save(root / "val2017" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH})
    crowd = {"counts": [0, 8, 72], "size": [HEIGHT, WIDTH]}
    annotations = [annotation(3, 10), annotation(2, 10, iscrowd=1, segmentation=crowd), annotation(1, 30)]
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 1, "name": "person"}],
    }
    write(root, document)
    return root


def write(root, document):
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


def edited(root, edit):
    document = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    edit(document)
    write(root, document)
    return root


def with_image(**changes):
    return lambda document: document["images"][0].update(changes)


def with_object(**changes):
    return lambda document: document["annotations"][0].update(changes)


# what a good folder gives


def test_good_folder(folder):
    dataset = CocoDataset(folder)
    assert isinstance(dataset, Dataset)
    assert dataset.name == "coco:val2017"
    assert list(dataset.image_ids) == [10, 20, 30, 40, 50]
    assert dataset.category_names == {1: "person", 7: "cat"}
    assert dataset.image(40)[0, 0].tolist() == [40, 0, 0]
    assert dataset.image(40).shape == (HEIGHT, WIDTH, 3)
    assert [a.id for a in dataset.annotations(10)] == [2, 3]
    assert [a.is_crowd for a in dataset.annotations(10)] == [True, False]
    assert dataset.annotations(20) == ()


def test_annotation_keeps_what_the_file_says(folder):
    (found,) = CocoDataset(folder).annotations(30)
    assert found == Annotation(
        id=1,
        image_id=30,
        category_id=1,
        box_xyxy=(2.0, 2.0, 6.5, 6.0),
        area=16.0,
        is_crowd=False,
        segmentation=[SQUARE],
    )


def test_limit_is_stable_and_ascending(folder):
    part = CocoDataset(folder, limit=3, seed=2)
    assert list(part.image_ids) == stable_subset([10, 20, 30, 40, 50], 3, 2, "images")
    assert part.name == "coco:val2017[3:2]"
    outside = (set(CocoDataset(folder).image_ids) - set(part.image_ids)).pop()
    for opened in (part.image, part.annotations):
        with pytest.raises(InputError, match=rf"image id {outside} is not one of the 3 images of coco:val2017"):
            opened(outside)
    with pytest.raises(InputError, match=r"at most 5 images of coco:val2017 can be taken, got 6"):
        CocoDataset(folder, limit=6)
    with pytest.raises(InputError, match=r"at least 1 of 5 images of coco:val2017 must be taken, got 0"):
        CocoDataset(folder, limit=0)


def test_only_the_chosen_images_need_be_there(folder):
    part = CocoDataset(folder, limit=2)
    for path in (folder / "val2017").iterdir():
        if int(path.stem) not in part.image_ids:
            path.unlink()
    assert CocoDataset(folder, limit=2).digest == part.digest


def test_other_split_and_other_places(folder):
    (folder / "val2017").rename(folder / "pictures")
    (folder / "annotations" / "instances_val2017.json").rename(folder / "mine.json")
    dataset = CocoDataset(folder, split="mine", annotations=folder / "mine.json", image_root=folder / "pictures")
    assert dataset.name == "coco:mine"
    assert len(dataset.image_ids) == 5


def test_images_may_lie_in_folders_below(folder):
    (folder / "val2017" / "a").mkdir()
    (folder / "val2017" / "10.png").rename(folder / "val2017" / "a" / "10.png")
    dataset = CocoDataset(edited(folder, lambda d: d["images"][1].update(file_name="a/10.png")))
    assert dataset.image(10)[0, 0, 0] == 10


def test_digest_follows_everything_that_is_evaluated(folder):
    edits = [
        lambda d: d.update(info={"description": "the digest does not look at this"}),
        lambda d: d["annotations"][0].update(bbox=[2, 2, 4, 4]),
        lambda d: d["annotations"][0].update(area=17),
        lambda d: d["annotations"][0].update(iscrowd=1),
        lambda d: d["annotations"][0].update(segmentation=[[*SQUARE[:-1], 5]]),
        lambda d: d["annotations"].pop(),
        lambda d: d["images"].pop(),
    ]
    digests = [CocoDataset(folder).digest] + [CocoDataset(edited(folder, edit)).digest for edit in edits]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == len(edits)
    with (folder / "val2017" / "10.png").open("ab") as file:
        file.write(b"\0")
    assert CocoDataset(folder).digest not in digests


def test_digest_does_not_depend_on_the_order_in_the_file(folder):
    before = CocoDataset(folder).digest
    edited(folder, lambda d: (d["images"].reverse(), d["annotations"].reverse()))
    assert CocoDataset(folder).digest == before


# masks


def test_polygon_mask(folder):
    dataset = CocoDataset(folder)
    mask = dataset.mask(dataset.annotations(30)[0])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == np.bool_
    assert mask.flags.c_contiguous


def test_rle_counts_run_down_the_columns(folder):
    dataset = CocoDataset(folder)
    mask = dataset.mask(dataset.annotations(10)[0])
    assert mask[:, 0].all()
    assert mask.sum() == HEIGHT


@pytest.mark.parametrize(
    ("polygon", "pixels"),
    [
        ([-50, -50, 50, -50, 50, 50, -50, 50], HEIGHT * WIDTH),
        ([-5, -5, 3, -5, 3, 3, -5, 3], 9),
        ([20, 20, 30, 20, 30, 30], 0),
        ([1, 1, 1, 1, 1, 1], 0),
    ],
)
def test_polygons_are_cut_at_the_border(polygon, pixels):
    assert decode_mask([polygon], (HEIGHT, WIDTH), "it").sum() == pixels


def test_polygons_of_one_object_are_united():
    other = [5, 2, 9, 2, 9, 6, 5, 6]
    united = decode_mask([SQUARE, other], (HEIGHT, WIDTH), "it")
    single = [decode_mask([polygon], (HEIGHT, WIDTH), "it") for polygon in (SQUARE, other)]
    np.testing.assert_array_equal(united, single[0] | single[1])


@given(mask=st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_both_forms_of_rle_give_the_mask_back(mask):
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    counts = np.diff([0, *borders, flat.size]).tolist()
    size = list(mask.shape)
    compressed = coco_api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for form in (counts, compressed):
        decoded = decode_mask({"size": size, "counts": form}, mask.shape, "it")
        np.testing.assert_array_equal(decoded, mask)


def test_compressed_rle_of_long_runs():
    mask = np.zeros((3000, 2000), np.uint8)
    mask[:, 100:1900] = 1
    mask[5, 1000] = 0
    counts = coco_api.encode(np.asfortranarray(mask))["counts"].decode()
    np.testing.assert_array_equal(decode_mask({"size": [3000, 2000], "counts": counts}, (3000, 2000), "it"), mask == 1)


@given(counts=st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_any_compressed_text_is_decoded_or_refused(counts):
    with contextlib.suppress(DatasetError):
        mask = decode_mask({"size": [4, 4], "counts": counts}, (4, 4), "it")
        assert mask.shape == (4, 4)
        assert counts


def rle(counts, height=HEIGHT, width=WIDTH):
    return {"size": [height, width], "counts": counts}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[2, 2, float("nan"), 2, 6, 6]], r"coordinates must be finite numbers .*nan"),
        ([[2, 2, float("inf"), 2, 6, 6]], r"coordinates must be finite numbers .*inf"),
        ([[2, 2, 10**400, 2, 6, 6]], r"coordinates must be finite numbers .*1000+\.\.\.0+"),
        ([[2, 2, "6", 2, 6, 6]], r"coordinates must be finite numbers .*'6'"),
        ([[2, 2, None, 2, 6, 6]], r"coordinates must be finite numbers .*None"),
        ([[0, 0, 9e6, 0, 9e6, 9e6]], r"outline of 27,000,000 pixels: more than 5,000,000"),
        (
            rle([80], WIDTH, HEIGHT),
            r"`size` must be its image\'s \[height, width\] = \[8, 10\], got \[10, 8\]",
        ),
        (rle([40, 39]), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle([]), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle([100, -20]), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle([-20, 100]), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle([2**32, 80]), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle([40.5, 39.5]), r"`counts` must be whole numbers, got 40.5"),
        (rle([float("nan"), 40]), r"`counts` must be whole numbers, got nan"),
        (rle(["40", 40]), r"`counts` must be whole numbers, got '40'"),
        (rle(""), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle("`"), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle("`" * 50), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle("0 0"), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle("\u00e9"), r"runs do not fill its 8 x 10 pixels: it is damaged"),
        (rle("@"), r"runs do not fill its 8 x 10 pixels: it is damaged"),
    ],
)
def test_masks_that_cannot_be_decoded_are_found_at_once(folder, segmentation, message):
    edited(folder, with_object(segmentation=segmentation))
    with pytest.raises(DatasetError, match=rf"instances_val2017.json: annotation 3 of image 10.*{message}"):
        CocoDataset(folder)


def test_counts_of_an_rle_may_be_written_as_floats(folder):
    whole = CocoDataset(edited(folder, with_object(segmentation=rle([8, 8, 64]))))
    expected = whole.mask(whole.annotations(10)[1])
    floats = CocoDataset(edited(folder, with_object(segmentation=rle([8.0, 8.0, 64.0]))))
    np.testing.assert_array_equal(floats.mask(floats.annotations(10)[1]), expected)
    assert expected.sum() == 8


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], r"has an empty segmentation"),
        ([[2, 2, 6, 6]], r"has a polygon of 4 numbers: it must be the x, y pairs of at least 3 points"),
        ([[2, 2, 6, 2, 6, 6, 2]], r"has a polygon of 7 numbers"),
        ([[]], r"has a polygon of 0 numbers"),
        ([5, 6], r"has a polygon that is not a list: got 5"),
        ({"size": [8, 10]}, r"has an RLE without `counts`"),
        ({"counts": [80]}, r"has an RLE without `size`"),
        ("mask.png", r"has a segmentation that is neither polygons nor an RLE: got 'mask.png'"),
        (None, r"neither polygons nor an RLE: got None"),
    ],
)
def test_malformed_segmentations_are_found_at_once(folder, segmentation, message):
    edited(folder, with_object(segmentation=segmentation))
    with pytest.raises(DatasetError, match=rf"annotation 3 of image 10.*{message}"):
        CocoDataset(folder)


# folders and files that are not what they should be


def test_missing_folder_and_file(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"the COCO folder .*none does not exist: check the path"):
        CocoDataset(tmp_path / "none")
    with pytest.raises(
        DatasetError,
        match=r"instances_test2017.json does not exist: expected FOLDER/annotations/instances_SPLIT",
    ):
        CocoDataset(folder, split="test2017")
    with pytest.raises(DatasetError, match=r"the folder .*none does not exist"):
        CocoDataset(folder, image_root=tmp_path / "none")
    with pytest.raises(DatasetError, match=r"annotation file .* cannot be read: Is a directory"):
        CocoDataset(folder, annotations=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"images": [}',
            r"not valid JSON: Expecting value at line 1, column 13 \(character 12\): download",
        ),
        (b"", r"not valid JSON: Expecting value at line 1, column 1"),
        (b'{"images": [{"id": 1, "file_na', r"not valid JSON: Unterminated string"),
        (b"\xff\xfe\xfa", r"not valid JSON: it is no text at byte"),
        (b"[" * 100_000, r"not valid JSON: maximum recursion"),
        (b'{"images": ' + b"9" * 10_000 + b"}", r"not valid JSON: Exceeds the limit"),
        (b"[]", r"not a COCO annotation file: it must hold an object .* got list"),
        (b"7", r"not a COCO annotation file: it must hold an object .* got int"),
        (
            b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]',
            r"is a COCO results file",
        ),
        (b'{"annotations": []}', r"not a COCO annotation file: it has no list `images`"),
        (b'{"images": [{}], "annotations": {}}', r"not a COCO annotation file: it has no list `annotations`"),
        (b'{"images": [], "annotations": []}', r"lists no images"),
        (
            b'{"shapes": [], "imagePath": "1.png"}',
            r"is labelme's file of one image, not .*: export it in COCO's format",
        ),
        (b'{"1.png99": {"filename": "1.png", "regions": []}}', r"is a file of the VGG Image Annotator, not"),
        (b'{"_via_settings": {}, "_via_img_metadata": {}}', r"is a file of the VGG Image Annotator, not"),
        (b'{"image": {"image_id": 1}, "annotations": []}', r"is SA-1B's file of one image, not"),
        (b'[{"id": 1, "data": {}, "annotations": []}]', r"is Label Studio's own JSON, not"),
        (b'[{"image": "1.png", "annotations": []}]', r"is a file of Create ML, not"),
        (
            b'{"images": [{"id": 1, "coco_url": "http://x"}], "annotations": []}',
            r"is an LVIS annotation file",
        ),
    ],
)
def test_annotation_files_of_another_format(folder, content, message):
    (folder / "annotations" / "instances_val2017.json").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"instances_val2017.json (is )?{message}") as raised:
        CocoDataset(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["images"].append(3), r"images\[5\] must be an object, got 3"),
        (lambda d: d["images"][0].pop("id"), r"images\[0\] has no `id`"),
        (with_image(id="30"), r"images\[0\]: `id` must be a whole number, got '30'"),
        (with_image(id=True), r"images\[0\]: `id` must be a whole number, got True"),
        (with_image(id=10), r"images\[1\] repeats the image id 10"),
        (lambda d: d["images"][0].pop("height"), r"images\[0\] has no `height`"),
        (with_image(width=0), r"images\[0\] is 8 x 0: it must have 1 to"),
        (with_image(width=10**9), r"images\[0\] is 8 x 1000000000: it must have 1 to"),
        (lambda d: d["images"][1].pop("file_name"), r"images\[1\] has no `file_name`"),
        (with_image(file_name=""), r"images\[0\]: `file_name` must be a text, got ''"),
        (with_image(file_name="../a"), r"images\[0\]: `file_name` must stay in the image"),
        (with_image(file_name="..\\a"), r"images\[0\]: `file_name` must stay in the image"),
        (with_image(file_name="a\0b"), r"images\[0\]: `file_name` must stay in the image"),
        (with_image(file_name="/etc/a"), r"image 30: `file_name` must stay in the image"),
        (with_image(height=8.5), r"images\[0\]: `height` must be a whole number, got 8.5"),
        (lambda d: d["annotations"].append([]), r"annotations\[3\] must be an object, got \[\]"),
        (lambda d: d["annotations"][0].pop("image_id"), r"annotations\[0\] has no `image_id`"),
        (with_object(image_id="10"), r"`image_id` must be a whole number, got '10'"),
        (with_object(id=2), r"annotation 2 of image 10 repeats an annotation id"),
        (lambda d: d["annotations"][0].pop("bbox"), r"annotation 3 of image 10 has no `bbox`"),
        (with_object(bbox=[1, 2, 3]), r"`bbox` must be 4 finite numbers .* \[1, 2, 3\]"),
        (with_object(bbox=[1, 2, 3, float("nan")]), r"`bbox` must be 4 finite .* nan\]"),
        (with_object(bbox=[1, 2, 3, "4"]), r"`bbox` must be 4 finite .* '4'\]"),
        (with_object(bbox=[1, 2, -3, 4]), r"`bbox` must have a width and height >= 0"),
        (lambda d: d["annotations"][0].pop("segmentation"), r"has no `segmentation`"),
        (with_object(iscrowd=2), r"`iscrowd` must be 0 or 1, got 2"),
        (with_object(area=float("nan")), r"`area` must be a finite number >= 0, got nan"),
        (with_object(area=10**400), r"`area` must be a finite number >= 0, got 1000"),
        (with_object(category_id=None), r"`category_id` must be a whole number, got None"),
        (lambda d: d.update(categories={"1": "cat"}), r"`categories` must be a list, got {'1'"),
        (lambda d: d["categories"][0].update(id=1), r"categories\[1\] repeats the category id 1"),
        (lambda d: d["categories"][0].pop("name"), r"categories\[0\] has no `name`"),
    ],
)
def test_bad_values_are_named(folder, edit, message):
    edited(folder, edit)
    with pytest.raises(DatasetError, match=rf"instances_val2017.json: .*{message}"):
        CocoDataset(folder)


def test_zero_size_boxes_and_missing_categories_are_legal(folder):
    edited(folder, lambda d: (d["annotations"][2].update(bbox=[1, 1, 0, 0]), d.pop("categories")))
    dataset = CocoDataset(folder)
    assert dataset.annotations(30)[0].box_xyxy == (1.0, 1.0, 1.0, 1.0)
    assert dataset.category_names == {}


def test_missing_images_are_counted_before_anything_runs(folder):
    (folder / "val2017" / "20.png").unlink()
    (folder / "val2017" / "40.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"2 of the 5 images are not in .*val2017, the first is '20.png': complete the download",
    ):
        CocoDataset(folder)
    edited(folder, lambda d: d["images"][0].update(file_name="gone/30.png"))
    with pytest.raises(DatasetError, match=r"3 of the 5 images are not in"):
        CocoDataset(folder)


def test_image_of_another_size_mentions_exif(folder):
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "val2017" / "20.png")
    dataset = CocoDataset(folder)
    with pytest.raises(
        DatasetError,
        match=r"20.png is 8 x 10 pixels but instances_val2017.json says 10 x 8: .* EXIF rotation",
    ):
        dataset.image(20)


def test_exif_is_never_applied(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "val2017" / "20.png", exif=exif.tobytes())
    assert CocoDataset(folder).image(20).shape == (HEIGHT, WIDTH, 3)


def test_damaged_image(folder):
    (folder / "val2017" / "20.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"20.png is empty"):
        CocoDataset(folder).image(20)


# the real sample


@pytest.fixture(scope="module")
def real(shared_data):
    return CocoDataset(shared_data / "coco")


def test_real_sample_counts(real):
    annotations = [a for image_id in real.image_ids for a in real.annotations(image_id)]
    assert len(real.image_ids) == 206
    assert len(annotations) == 1786
    assert sum(a.is_crowd for a in annotations) == 21
    assert len(real.category_names) == 80
    assert {a.category_id for a in annotations} <= set(real.category_names)
    assert [i for i in real.image_ids if not real.annotations(i)] == [58636, 226111]
    assert real.image(139).shape == (426, 640, 3)


def test_every_real_mask_decodes_to_its_area(real):
    ratios = []
    for image_id in real.image_ids:
        for found in real.annotations(image_id):
            mask = real.mask(found)
            assert mask.any()
            ratios.append(mask.sum() / found.area)
    assert np.median(ratios) == pytest.approx(1, abs=0.02)
    assert np.quantile(np.abs(np.log(ratios)), 0.95) < 0.2


def test_real_masks_equal_the_coco_api(real):
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(real.annotation_file))
    everything = [a for image_id in real.image_ids for a in real.annotations(image_id)]
    chosen = everything[::18] + [a for a in everything if a.is_crowd]
    assert len(chosen) >= 100
    for found in chosen:
        expected = reference.annToMask(reference.anns[found.id])
        np.testing.assert_array_equal(real.mask(found), expected.astype(bool))


def test_real_lvis_and_results_files_are_recognised(shared_data):
    lvis = shared_data / "lvis" / "annotations" / "lvis_v0.5_val_100.json"
    with pytest.raises(DatasetError, match=r"is an LVIS annotation file"):
        CocoDataset(shared_data / "coco", annotations=lvis)
    results = shared_data / "coco" / "source_json_file" / "coco_detections.json"
    with pytest.raises(DatasetError, match=r"is a COCO results file"):
        CocoDataset(shared_data / "coco", annotations=results)
