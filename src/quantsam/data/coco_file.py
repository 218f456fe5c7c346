"""Parse what COCO's annotation files and LVIS's have in common, trusting nothing in them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quantsam.data.annotation_file import field, inside, text, whole_number
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


def file_name(entry: Any, where: str) -> str:
    """Return the path of an image relative to the image folder, as COCO gives it.

    Args:
        entry: One of the document's `images`.
        where: Which file and entry it is, to begin the message with.

    Raises:
        DatasetError: `file_name` is missing, no text, or leaves the folder.
    """
    name = text(entry, "file_name", where)
    return str(inside(PurePosixPath(name), name, "file_name", where))


def parse_images(
    document: dict[str, Any], path: Path, find_name: Callable[[Any, str], str] = file_name
) -> dict[int, CocoImage]:
    """Index the images by id, ascending.

    Args:
        document: What `read_document` returned.
        path: Its file, for messages.
        find_name: Gives an entry's path relative to the image folder, as `file_name` does.

    Returns:
        Every image of the file.

    Raises:
        DatasetError: An entry lacks a field, has a value out of range, or repeats an id.
    """
    images: dict[int, CocoImage] = {}
    for index, entry in enumerate(document["images"]):
        where = f"{path}: images[{index}]"
        image_id = whole_number(entry, "id", where)
        if image_id in images:
            raise DatasetError(f"{where} repeats the image id {image_id}: ids must be unique")
        height, width = whole_number(entry, "height", where), whole_number(entry, "width", where)
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise DatasetError(f"{where} is {height} x {width}: it must have 1 to {MAX_PIXELS:,} pixels")
        images[image_id] = CocoImage(image_id, find_name(entry, where), (height, width))
    return dict(sorted(images.items()))


def parse_annotations(
    document: dict[str, Any],
    path: Path,
    images: Collection[int],
    evaluated: Collection[int],
    *,
    crowd_required: bool = True,
) -> dict[int, tuple[Annotation, ...]]:
    """Index the annotations of the evaluated images by image id; within an image by ascending id.

    Args:
        document: What `read_document` returned.
        path: Its file, for messages.
        images: The ids of all images; an annotation of any other is an error.
        evaluated: The ids of the images wanted; annotations of others are only checked for their ids.
        crowd_required: Whether each must have `iscrowd`; if not, one without it is no crowd.

    Returns:
        An entry for each evaluated image, empty for one without objects.

    Raises:
        DatasetError: An entry lacks a field, has a value out of range, repeats an id or has no image.
    """
    found: dict[int, list[Annotation]] = {image_id: [] for image_id in evaluated}
    seen: set[int] = set()
    for index, entry in enumerate(document["annotations"]):
        where = f"{path}: annotations[{index}]"
        annotation_id, image_id = whole_number(entry, "id", where), whole_number(entry, "image_id", where)
        where = f"{path}: annotation {annotation_id} of image {image_id}"
        if image_id not in images:
            raise DatasetError(f"{where} refers to an image that the file does not list")
        if annotation_id in seen:
            raise DatasetError(f"{where} repeats an annotation id: ids must be unique")
        seen.add(annotation_id)
        if image_id in found:
            found[image_id].append(_annotation(entry, annotation_id, image_id, where, crowd_required))
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
        category_id = whole_number(entry, "id", where)
        if category_id in names:
            raise DatasetError(f"{where} repeats the category id {category_id}: ids must be unique")
        names[category_id] = text(entry, "name", where)
    return dict(sorted(names.items()))


def _annotation(entry: Any, annotation_id: int, image_id: int, where: str, crowd_required: bool) -> Annotation:
    segmentation = field(entry, "segmentation", where)
    check_segmentation(segmentation, where)
    is_crowd = field(entry, "iscrowd", where) if crowd_required else entry.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise DatasetError(f"{where}: `iscrowd` must be 0 or 1, got {reprlib.repr(is_crowd)}")
    area = field(entry, "area", where)
    if not (_is_finite(area) and area >= 0):
        raise DatasetError(f"{where}: `area` must be a finite number >= 0, got {reprlib.repr(area)}")
    return Annotation(
        id=annotation_id,
        image_id=image_id,
        category_id=whole_number(entry, "category_id", where),
        box_xyxy=_box_xyxy(entry, where),
        area=float(area),
        is_crowd=bool(is_crowd),
        segmentation=segmentation,
    )


def _box_xyxy(entry: Any, where: str) -> tuple[float, float, float, float]:
    box = field(entry, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise DatasetError(f"{where}: `bbox` must be 4 finite numbers x, y, width, height, got {reprlib.repr(box)}")
    x, y, width, height = (float(value) for value in box)
    if width < 0 or height < 0:
        raise DatasetError(f"{where}: `bbox` must have a width and height >= 0, got {box}")
    return x, y, x + width, y + height


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -_MAX_NUMBER <= value <= _MAX_NUMBER
