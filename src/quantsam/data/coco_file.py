"""Parse what COCO's and LVIS's annotation files have in common, without trusting their content."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quantsam.data.annotation_file import field, inside, text, whole_number
from quantsam.data.coco_masks import check_segmentation
from quantsam.data.dataset import Annotation
from quantsam.data.images import MAX_PIXELS
from quantsam.errors import DatasetError

_LEAST_NUMBERS = 6  # in a polygon: x and y of 3 points
_MAX_NUMBER = 1e12  # limit of a finite number: any JSON integer or float can be compared with it safely


@dataclass(frozen=True, slots=True)
class CocoImage:
    """What the annotation file says about an image.

    Attributes:
        id: The image's id.
        file_name: The image's path relative to the image folder, with `/` between folders once `layouts.place` found
            it.
        image_hw: Height and width in pixels of the stored grid, before any EXIF rotation.
    """

    id: int
    file_name: str
    image_hw: tuple[int, int]


def file_name(entry: Any, where: str) -> str:
    """Return an image's path as COCO gives it: relative to the image folder, as far as the file tells.

    Args:
        entry: One of the document's `images`.
        where: File and entry, as the start of the error message.

    Raises:
        DatasetError: `file_name` is missing, is not a string, or contains `..`.
    """
    name = text(entry, "file_name", where)
    return str(inside(PurePosixPath(name), name, "file_name", where))  # no image has a NUL or `..` in its path


def parse_images(
    document: dict[str, Any], path: Path, find_name: Callable[[Any, str], str] = file_name
) -> dict[int, CocoImage]:
    """Index the images by id, ascending.

    Args:
        document: What `read_document` returned.
        path: The file, for error messages.
        find_name: Returns an entry's path relative to the image folder, as `file_name` does.

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


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says about the evaluated images' objects.

    Attributes:
        annotations: Annotations of each evaluated image by image id; within an image by ascending id.
        left_out: Entries that are never scored and were left out, as texts with their count; empty if there were none.
    """

    annotations: dict[int, tuple[Annotation, ...]]
    left_out: tuple[str, ...]


def parse_annotations(
    document: dict[str, Any],
    path: Path,
    images: Mapping[int, CocoImage],
    evaluated: Collection[int],
    *,
    strict: bool = False,
) -> Parsed:
    """Index the annotations of the evaluated images by image id; within an image by ascending id.

    Entries that are never scored are no reason to refuse a file. As in the COCO API and the official evaluation,
    annotations of images that the file does not list are left out, and so are malformed ones with an area below 1.

    Args:
        document: What `read_document` returned.
        path: The file, for error messages.
        images: All images of the file.
        evaluated: Ids of the wanted images; in annotations of other images only the ids are checked.
        strict: Refuse entries that would be left out.

    Raises:
        DatasetError: An entry lacks a field, has a value out of range or repeats an id; in strict mode also an entry
            that would be left out.
    """
    found: dict[int, list[Annotation]] = {image_id: [] for image_id in evaluated}
    seen: set[int] = set()
    left_out = _LeftOut(strict)
    for index, entry in enumerate(document["annotations"]):
        where = f"{path}: annotations[{index}]"
        image_id = whole_number(entry, "image_id", where)
        if image_id not in images:
            left_out.take(
                "annotations of images that the file does not list",
                f"annotation {reprlib.repr(entry.get('id'))} of image {image_id}",
                f"{path}: annotation {reprlib.repr(entry.get('id'))} of image {image_id} refers to an image that the "
                "file does not list: remove it, or leave out --strict",
            )
            continue
        try:
            annotation_id = whole_number(entry, "id", where)
            where = f"{path}: annotation {annotation_id} of image {image_id}"
            if annotation_id in seen:
                raise DatasetError(f"{where} repeats an annotation id: ids must be unique")
            if image_id in found:
                found[image_id].append(_annotation(entry, annotation_id, images[image_id], where))
                if _has_lines(entry["segmentation"]):
                    left_out.take(
                        "parts of polygons with fewer than 3 points, in annotations",
                        f"annotation {annotation_id} of image {image_id}",
                        f"{where} has a polygon of fewer than 3 points: remove it, or leave out --strict",
                    )
            seen.add(annotation_id)
        except DatasetError as error:
            if not _is_never_scored(entry):
                raise
            name = f"annotation {reprlib.repr(entry.get('id'))} of image {image_id}"
            left_out.take("malformed annotations with an area below 1", name, str(error))
    parsed = {key: tuple(sorted(items, key=lambda item: item.id)) for key, items in found.items()}
    return Parsed(parsed, left_out.words())


class _LeftOut:
    """Counts entries that are left out, by reason; in strict mode refuses them."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def take(self, reason: str, name: str, refusal: str) -> None:
        if self._strict:
            raise DatasetError(refusal)
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._first.setdefault(reason, name)

    def words(self) -> tuple[str, ...]:
        return tuple(
            f"{reason}: {count:,} (the first: {self._first[reason]})" for reason, count in self._counts.items()
        )


def _is_never_scored(entry: dict[str, Any]) -> bool:
    area: Any = entry.get("area")
    return _is_finite(area) and area < 1


def parse_categories(document: dict[str, Any], path: Path) -> dict[int, str]:
    """Return the categories' names by id, ascending; empty if the file has no `categories`.

    Raises:
        DatasetError: An entry lacks its id or name, or repeats an id.
    """
    entries = document.get("categories") or []
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


def _annotation(entry: Any, annotation_id: int, image: CocoImage, where: str) -> Annotation:
    segmentation = field(entry, "segmentation", where)
    if _has_lines(segmentation):
        segmentation = [polygon for polygon in segmentation if len(polygon) >= _LEAST_NUMBERS]
    check_segmentation(segmentation, image.image_hw, where)
    is_crowd = entry.get("iscrowd")
    is_crowd = 0 if is_crowd is None else is_crowd  # like the COCO API, which treats null as no crowd
    if is_crowd not in (0, 1):
        raise DatasetError(f"{where}: `iscrowd` must be 0 or 1, got {reprlib.repr(is_crowd)}")
    area = field(entry, "area", where)
    if not (_is_finite(area) and area >= 0):
        raise DatasetError(f"{where}: `area` must be a finite number >= 0, got {reprlib.repr(area)}")
    return Annotation(
        id=annotation_id,
        image_id=image.id,
        category_id=whole_number(entry, "category_id", where),
        box_xyxy=_box_xyxy(entry, where),
        area=float(area),
        is_crowd=bool(is_crowd),
        segmentation=segmentation,
    )


def _has_lines(segmentation: Any) -> bool:
    """Return whether some polygons, but not all, are mere points or lines, which cover no pixel."""
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        return False
    lengths = [len(polygon) for polygon in segmentation]
    return bool(lengths) and min(lengths) < _LEAST_NUMBERS <= max(lengths)


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
