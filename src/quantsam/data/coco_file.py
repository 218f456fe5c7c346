"""Parse a COCO annotation file, trusting nothing in it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quantsam.data.coco_masks import check_segmentation
from quantsam.data.dataset import Annotation
from quantsam.data.images import MAX_PIXELS
from quantsam.errors import DatasetError

_MAX_NUMBER = 1e12  # for finite numbers: compares safely with any integer or float that JSON can hold


@dataclass(frozen=True, slots=True)
class CocoImage:
    """What the annotation file says about an image.

    Attributes:
        id: The image's id.
        file_name: Its path relative to the image folder.
        image_hw: Height and width in pixels of the stored grid, before any EXIF rotation.
    """

    id: int
    file_name: str
    image_hw: tuple[int, int]


def read_document(path: Path) -> dict[str, Any]:
    """Read the file and make sure that it is COCO's *instances* format.

    Args:
        path: An `instances_*.json`.

    Returns:
        The parsed object; `images` and `annotations` are lists, all else is unchecked.

    Raises:
        DatasetError: It is missing, unreadable, no JSON, or another format, which is named if known.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DatasetError(
            f"the annotation file {path} does not exist: expected FOLDER/annotations/instances_SPLIT.json "
            "beside the images in FOLDER/SPLIT/"
        ) from None
    except OSError as error:
        raise DatasetError(f"the annotation file {path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos}): download it again"
        ) from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not valid JSON: it is no text at byte {error.start}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, endless nesting
        raise DatasetError(f"{path} is not valid JSON: {error}") from None
    _check_format(document, path)
    return dict(document)


def _check_format(document: Any, path: Path) -> None:
    if isinstance(document, list):
        first = document[0] if document else None
        if isinstance(first, dict) and "image_id" in first and "score" in first:
            raise DatasetError(
                f"{path} is a COCO results file (detections with a score), not annotations: "
                "give the instances_*.json that it was made for"
            )
    if not isinstance(document, dict):
        raise DatasetError(
            f"{path} is not a COCO annotation file: it must hold an object with `images` and `annotations`, "
            f"got {type(document).__name__}"
        )
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list):
            raise DatasetError(f"{path} is not a COCO annotation file: it has no list `{key}`")
    if not document["images"]:
        raise DatasetError(f"{path} lists no images: download it again")
    first = document["images"][0]
    if isinstance(first, dict) and ("neg_category_ids" in first or ("file_name" not in first and "coco_url" in first)):
        raise DatasetError(
            f"{path} is an LVIS annotation file, which names its images differently: give COCO's instances_*.json"
        )


def parse_images(document: dict[str, Any], path: Path) -> dict[int, CocoImage]:
    """Index the images by id, ascending.

    Raises:
        DatasetError: An entry lacks a field, has a value out of range, or repeats an id.
    """
    images: dict[int, CocoImage] = {}
    for index, entry in enumerate(document["images"]):
        where = f"{path}: images[{index}]"
        image_id = _whole(entry, "id", where)
        if image_id in images:
            raise DatasetError(f"{where} repeats the image id {image_id}: ids must be unique")
        height, width = _whole(entry, "height", where), _whole(entry, "width", where)
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise DatasetError(f"{where} is {height} x {width}: it must have 1 to {MAX_PIXELS:,} pixels")
        images[image_id] = CocoImage(image_id, _file_name(entry, where), (height, width))
    return dict(sorted(images.items()))


def parse_annotations(
    document: dict[str, Any], path: Path, images: Collection[int], evaluated: Collection[int]
) -> dict[int, tuple[Annotation, ...]]:
    """Index the annotations of the evaluated images by image id; within an image by ascending id.

    Args:
        document: What `read_document` returned.
        path: Its file, for messages.
        images: The ids of all images; an annotation of any other is an error.
        evaluated: The ids of the images wanted; annotations of others are only checked for their ids.

    Returns:
        An entry for each evaluated image, empty for one without objects.

    Raises:
        DatasetError: An entry lacks a field, has a value out of range, repeats an id or has no image.
    """
    found: dict[int, list[Annotation]] = {image_id: [] for image_id in evaluated}
    seen: set[int] = set()
    for index, entry in enumerate(document["annotations"]):
        where = f"{path}: annotations[{index}]"
        annotation_id, image_id = _whole(entry, "id", where), _whole(entry, "image_id", where)
        where = f"{path}: annotation {annotation_id} of image {image_id}"
        if image_id not in images:
            raise DatasetError(f"{where} refers to an image that the file does not list")
        if annotation_id in seen:
            raise DatasetError(f"{where} repeats an annotation id: ids must be unique")
        seen.add(annotation_id)
        if image_id in found:
            found[image_id].append(_annotation(entry, annotation_id, image_id, where))
    return {key: tuple(sorted(items, key=lambda item: item.id)) for key, items in found.items()}


def parse_categories(document: dict[str, Any], path: Path) -> dict[int, str]:
    """Return the categories' names by id, ascending; empty where the file has no `categories`.

    Raises:
        DatasetError: An entry lacks its id or name, or repeats an id.
    """
    entries = document.get("categories", [])
    if not isinstance(entries, list):
        raise DatasetError(f"{path}: `categories` must be a list, got {reprlib.repr(entries)}")
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: categories[{index}]"
        category_id = _whole(entry, "id", where)
        if category_id in names:
            raise DatasetError(f"{where} repeats the category id {category_id}: ids must be unique")
        names[category_id] = _text(entry, "name", where)
    return dict(sorted(names.items()))


def _annotation(entry: Any, annotation_id: int, image_id: int, where: str) -> Annotation:
    segmentation = _field(entry, "segmentation", where)
    check_segmentation(segmentation, where)
    is_crowd = _field(entry, "iscrowd", where)
    if is_crowd not in (0, 1):
        raise DatasetError(f"{where}: `iscrowd` must be 0 or 1, got {reprlib.repr(is_crowd)}")
    area = _field(entry, "area", where)
    if not (_is_finite(area) and area >= 0):
        raise DatasetError(f"{where}: `area` must be a finite number >= 0, got {reprlib.repr(area)}")
    return Annotation(
        id=annotation_id,
        image_id=image_id,
        category_id=_whole(entry, "category_id", where),
        box_xyxy=_box_xyxy(entry, where),
        area=float(area),
        is_crowd=bool(is_crowd),
        segmentation=segmentation,
    )


def _box_xyxy(entry: Any, where: str) -> tuple[float, float, float, float]:
    box = _field(entry, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise DatasetError(f"{where}: `bbox` must be 4 finite numbers x, y, width, height, got {reprlib.repr(box)}")
    x, y, width, height = (float(value) for value in box)
    if width < 0 or height < 0:
        raise DatasetError(f"{where}: `bbox` must have a width and height >= 0, got {box}")
    return x, y, x + width, y + height


def _field(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be an object, got {reprlib.repr(entry)}")
    if key not in entry:
        raise DatasetError(f"{where} has no `{key}`")
    return entry[key]


def _whole(entry: Any, key: str, where: str) -> int:
    value = _field(entry, key, where)
    if type(value) is not int:
        raise DatasetError(f"{where}: `{key}` must be a whole number, got {reprlib.repr(value)}")
    return value


def _text(entry: Any, key: str, where: str) -> str:
    value = _field(entry, key, where)
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{where}: `{key}` must be a text, got {reprlib.repr(value)}")
    return value


def _file_name(entry: Any, where: str) -> str:
    """Return the image's relative path; one that leaves the image folder is refused."""
    name = _text(entry, "file_name", where)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DatasetError(f"{where}: `file_name` must stay in the image folder, got {reprlib.repr(name)}")
    return str(path)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -_MAX_NUMBER <= value <= _MAX_NUMBER
