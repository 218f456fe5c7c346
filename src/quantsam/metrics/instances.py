"""Check ground truth and results in COCO's form, and convert them for the evaluator."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval.core import mask as coco_api
from numpy.typing import NDArray

from quantsam.errors import DatasetError, InputError
from quantsam.metrics.segmentations import check_polygons, check_rle

Kind = Literal["bbox", "segm"]
Entry = dict[str, Any]

_MAX_ID = 2**53  # the evaluator stores category ids as floating-point numbers
_CATEGORY_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")  # fields of an LVIS image
_MAX_NUMBER = 1e12  # limit of a finite number: any integer or float can be compared with it safely


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The objects to find, with ids that are safe for the evaluator.

    The evaluator reads an annotation id of 0 as "not matched", and of two annotations with the same id it keeps only
    the last. So annotations are numbered from 1, and images from 0 in the order of their ids.

    Attributes:
        image_index: The number of each image, by image id.
        images: The images by number: their entries in `ground_truth`, with the number as `id`.
        categories: The categories by id, ascending.
        objects: The objects by category id; categories without objects are missing.
    """

    image_index: dict[int, int]
    images: list[Entry]
    categories: dict[int, Entry]
    objects: dict[int, list[Entry]]


@dataclass(frozen=True, slots=True)
class ResultColumns:
    """The columns that decide which results count; all of the same length, in the order of the results.

    Attributes:
        image_index: (results,) the image's number in `GroundTruth`.
        category_id: (results,) category ids.
        score: (results,) finite scores.
    """

    image_index: NDArray[np.int64]
    category_id: NDArray[np.int64]
    score: NDArray[np.float64]


def check_kind(kind: str) -> None:
    """Make sure that `kind` is one of `bbox` and `segm`.

    Raises:
        InputError: `kind` is neither.
    """
    if kind not in ("bbox", "segm"):
        raise InputError(f"kind must be 'bbox' for boxes or 'segm' for masks, got {kind!r}")


def with_small_category_ids(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """Number the categories from 1 if some ids are too large for the evaluator; else change nothing.

    Args:
        ground_truth: As for `parse_ground_truth`.
        results: Results, each with a `category_id`.

    Returns:
        Both, with the same categories in the same order. An entry with an unknown category keeps its id, as text.
    """
    categories = ground_truth.get("categories")
    ids: list[Any] = [entry.get("id") if isinstance(entry, Mapping) else None for entry in categories or ()]
    if not all(type(key) is int for key in ids) or all(abs(key) <= _MAX_ID for key in ids):
        return ground_truth, results
    numbers = {key: number for number, key in enumerate(sorted(ids), start=1)}

    def renumbered(entry: Any) -> Any:
        if not isinstance(entry, Mapping):
            return entry
        changed = {"category_id": _number_of(entry["category_id"], numbers)} if "category_id" in entry else {}
        for key in _CATEGORY_LISTS:
            if isinstance(entry.get(key), list):
                changed[key] = [_number_of(category_id, numbers) for category_id in entry[key]]
        return {**entry, **changed}

    lists = {key: [renumbered(e) for e in ground_truth.get(key, ())] for key in ("images", "annotations")}
    numbered = [{**entry, "id": numbers[entry["id"]]} for entry in categories or ()]
    return {**ground_truth, **lists, "categories": numbered}, [renumbered(result) for result in results]


def _number_of(category_id: Any, numbers: Mapping[int, int]) -> Any:
    known = type(category_id) is int and category_id in numbers
    return numbers[category_id] if known else str(category_id)


def parse_ground_truth(ground_truth: Mapping[str, Any], kind: Kind) -> GroundTruth:
    """Check images, categories and annotations.

    Args:
        ground_truth: Lists `images`, `annotations` and `categories` in COCO's form; not modified.
        kind: Which field of an annotation is used: `bbox` or `segmentation`.

    Raises:
        DatasetError: A list is missing, an id is repeated or unknown, a field is missing or out of range.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(ground_truth.get(key), Sequence):
            raise DatasetError(f"the ground truth has no list `{key}`: give an annotation file's content")
    by_id = _by_id(ground_truth["images"], "images")
    images = [{**image, "id": index} for index, image in enumerate(by_id.values())]
    image_index = {image_id: index for index, image_id in enumerate(by_id)}
    categories = _by_id(ground_truth["categories"], "categories")
    objects: defaultdict[int, list[Entry]] = defaultdict(list)
    for index, annotation in enumerate(ground_truth["annotations"]):
        where = f"annotations[{index}] of the ground truth"
        entry = _located(annotation, image_index, categories, where)
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DatasetError(f"{where}: `iscrowd` must be 0 or 1, got {reprlib.repr(crowd)}")
        area = _number(annotation, "area", where)
        if area < 0:
            raise DatasetError(f"{where}: `area` must be >= 0, got {area}")
        entry |= {"id": index + 1, "iscrowd": int(crowd), "area": area}
        entry |= _shape(annotation, images[entry["image_id"]], kind, where)
        objects[entry["category_id"]].append(entry)
    return GroundTruth(image_index, images, categories, dict(sorted(objects.items())))


def parse_results(results: Sequence[Mapping[str, Any]], truth: GroundTruth) -> ResultColumns:
    """Check the ids and scores of all results.

    Args:
        results: `image_id`, `category_id`, `score`, and `bbox` or `segmentation`.
        truth: The ground truth to compare with.

    Raises:
        DatasetError: An image or a category is unknown, or a score is not a finite number.
    """
    count = len(results)
    columns = ResultColumns(np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.float64))
    for index, result in enumerate(results):
        where = f"results[{index}]"
        entry = _located(result, truth.image_index, truth.categories, where)
        columns.image_index[index] = entry["image_id"]
        columns.category_id[index] = entry["category_id"]
        columns.score[index] = _number(result, "score", where)
    return columns


def result_entries(
    results: Sequence[Mapping[str, Any]],
    columns: ResultColumns,
    selected: Iterable[int],
    truth: GroundTruth,
    kind: Kind,
) -> dict[int, list[Entry]]:
    """Convert some of the results for the evaluator.

    The area, which decides small, medium or large, is the box's for `bbox` and the mask's for `segm`. If a mask comes
    with a box, the COCO API would use the box's area, which is why evaluations remove the box first.

    Args:
        results: All results.
        columns: What `parse_results` returned for them.
        selected: Indices of the wanted results.
        truth: The ground truth to compare with.
        kind: Which field of a result is used: `bbox` or `segmentation`.

    Returns:
        The entries by category id, each in the order of `selected`.

    Raises:
        DatasetError: A box or a mask is missing or malformed, or a mask does not have its image's size.
    """
    entries: defaultdict[int, list[Entry]] = defaultdict(list)
    for index in selected:
        image_index, category_id = int(columns.image_index[index]), int(columns.category_id[index])
        shape = _shape(results[index], truth.images[image_index], kind, f"results[{index}]", only_rle=True)
        is_box = kind == "bbox"
        area = shape["bbox"][2] * shape["bbox"][3] if is_box else float(coco_api.area(shape["segmentation"]))
        entries[category_id].append(
            {
                "id": index + 1,
                "image_id": image_index,
                "category_id": category_id,
                "score": float(columns.score[index]),
                "area": area,
                "iscrowd": 0,
                **shape,
            }
        )
    return dict(entries)


def _by_id(entries: Sequence[Any], name: str) -> dict[int, Entry]:
    """Return the entries by id, ascending."""
    found: dict[int, Entry] = {}
    for index, entry in enumerate(entries):
        where = f"{name}[{index}] of the ground truth"
        key = _field(entry, "id", where)
        if type(key) is not int or key in found:
            raise DatasetError(f"{where}: `id` must be a whole number that no other has, got {reprlib.repr(key)}")
        found[key] = entry
    return dict(sorted(found.items()))


def _located(entry: Any, image_index: Mapping[int, int], categories: Mapping[int, Entry], where: str) -> Entry:
    """Return the image number and the category of an annotation or a result."""
    image_id, category_id = _field(entry, "image_id", where), _field(entry, "category_id", where)
    try:
        number = image_index[image_id]
    except (KeyError, TypeError):
        raise DatasetError(
            f"{where} is for image {reprlib.repr(image_id)}, which is not one of the {len(image_index)} images of the "
            "ground truth: both must be of the same images"
        ) from None
    if type(category_id) is not int or category_id not in categories:
        raise DatasetError(
            f"{where} is of category {reprlib.repr(category_id)}, which is not one of the {len(categories)} categories "
            "of the ground truth: both must use the same category ids"
        )
    return {"image_id": number, "category_id": category_id}


def _shape(entry: Mapping[str, Any], image: Entry, kind: Kind, where: str, only_rle: bool = False) -> Entry:
    """Return an entry's checked `bbox` or `segmentation`, under that name."""
    if kind == "bbox":
        box = _field(entry, "bbox", where)
        numbers = [value for value in box if _is_finite(value)] if isinstance(box, Sequence) else []
        if len(numbers) != 4 or len(box) != 4 or numbers[2] < 0 or numbers[3] < 0:
            raise DatasetError(
                f"{where}: `bbox` must be 4 finite numbers x, y, width >= 0, height >= 0, got {reprlib.repr(box)}"
            )
        return {"bbox": [float(value) for value in numbers]}
    segmentation = _field(entry, "segmentation", where)
    if only_rle or isinstance(segmentation, Mapping):
        return {"segmentation": check_rle(segmentation, _image_hw(image), where)}
    return {"segmentation": check_polygons(segmentation, where)}


def _image_hw(image: Entry) -> tuple[int, int]:
    sizes = image.get("height"), image.get("width")
    if not all(type(size) is int and size > 0 for size in sizes):
        raise DatasetError(f"an image of the ground truth must have `height` and `width` > 0 for masks, got {sizes}")
    return image["height"], image["width"]


def _field(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, Mapping) or key not in entry:
        raise DatasetError(f"{where} has no `{key}`")
    return entry[key]


def _number(entry: Any, key: str, where: str) -> float:
    value = _field(entry, key, where)
    if not _is_finite(value):
        raise DatasetError(f"{where}: `{key}` must be a finite number, got {reprlib.repr(value)}")
    return float(value)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and bool(-_MAX_NUMBER <= value <= _MAX_NUMBER)
