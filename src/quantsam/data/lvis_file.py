"""Parse what LVIS's annotation files add to COCO's, without trusting their content.

Format: Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, and
https://www.lvisdataset.org/dataset. Not every category is annotated in every image. An image's positive categories are
those of its annotations; its negative ones (`neg_category_ids`) are known to be absent; those in
`not_exhaustive_category_ids` are annotated only in part; about any other category nothing is known.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from quantsam.data.annotation_file import field, inside, text, whole_number
from quantsam.data.coco_file import file_name
from quantsam.errors import DatasetError

IMAGE_FOLDERS = ("val2017", "train2017")
FREQUENCIES = ("r", "c", "f")
_NAME_OF_2014 = re.compile(r"COCO_(?:val|train)2014_")
_WAY_OUT = "correct it, or download the file again"


def image_path(entry: Any, where: str) -> str:
    """Return an image's path relative to the folder that holds `val2017/` and `train2017/`.

    In v1's `coco_url`, the last folder and the file name count. v0.5 files have this field too, and also a `file_name`
    from the 2014 splits (`COCO_val2014_000000123456.jpg`), which says nothing about the 2017 splits that LVIS uses.

    Args:
        entry: One of the document's `images`.
        where: File and entry, as the start of the error message.

    Returns:
        A path such as `val2017/000000123456.jpg`, or only the name if the entry does not give the folder.

    Raises:
        DatasetError: Both fields are missing, or the one used is not a string, has no file name or leaves the folder.
    """
    if "coco_url" in entry:
        path = _url_path(entry, where)
        known = path.parent.name in IMAGE_FOLDERS
        return f"{path.parent.name}/{path.name}" if known else _name_of_2017(path)
    if "file_name" not in entry:
        raise DatasetError(f"{where} has neither `coco_url` nor `file_name`: {_WAY_OUT}")
    path = PurePosixPath(file_name(entry, where))
    return _name_of_2017(path) if path.parent == PurePosixPath() else str(path)


def _url_path(entry: Any, where: str) -> PurePosixPath:
    url = text(entry, "coco_url", where)
    try:
        path = PurePosixPath(urlsplit(url).path.lstrip("/"))
    except ValueError:  # not a URL: an open bracket in place of the host
        path = PurePosixPath()
    inside(path, url, "coco_url", where)
    if not path.suffix:
        raise DatasetError(
            f"{where}: `coco_url` must end in a folder and a file name such as val2017/000000123456.jpg, "
            f"got {reprlib.repr(url)}: {_WAY_OUT}"
        )
    return path


def _name_of_2017(path: PurePosixPath) -> str:
    return _NAME_OF_2014.sub("", path.name, count=1)


def parse_category_ids(
    document: dict[str, Any], path: Path, key: str, categories: Iterable[int], evaluated: Iterable[int]
) -> dict[int, tuple[int, ...]]:
    """Return one of the category lists that each image has.

    Args:
        document: What `read_document` returned; its `images` are already parsed.
        path: The file, for error messages.
        key: `neg_category_ids` or `not_exhaustive_category_ids`.
        categories: The ids of all categories.
        evaluated: Ids of the wanted images; the lists of other images are only checked.

    Returns:
        Category ids by image id, in the file's order.

    Raises:
        DatasetError: An image lacks the list, or the list holds anything but category ids.
    """
    known, wanted = frozenset(categories), frozenset(evaluated)
    found: dict[int, tuple[int, ...]] = {}
    for entry in document["images"]:
        where = f"{path}: image {entry['id']}"
        if key not in entry:
            raise DatasetError(f"{where} has no `{key}`, which every image of LVIS has: {_WAY_OUT}")
        ids = entry[key]
        if not isinstance(ids, list):
            raise DatasetError(f"{where}: `{key}` must be a list, got {reprlib.repr(ids)}: {_WAY_OUT}")
        for category_id in ids:
            if type(category_id) is not int or category_id not in known:
                raise DatasetError(
                    f"{where}: `{key}` must hold ids of the file's {len(known)} categories, "
                    f"got {reprlib.repr(category_id)}: {_WAY_OUT}"
                )
        if entry["id"] in wanted:
            found[entry["id"]] = tuple(ids)
    return found


def parse_frequencies(document: dict[str, Any], path: Path) -> dict[int, str]:
    """Return how frequent each category is, by id, ascending.

    Args:
        document: What `read_document` returned; its `categories` are already parsed.
        path: The file, for error messages.

    Returns:
        The file's `frequency`; if a category has none, the frequency that follows from `image_count`.

    Raises:
        DatasetError: A category has neither field, or an invalid frequency or count.
    """
    found: dict[int, str] = {}
    for index, entry in enumerate(document.get("categories", [])):
        where = f"{path}: categories[{index}]"
        if "frequency" in entry:
            found[entry["id"]] = _checked_frequency(entry, where)
        elif "image_count" in entry:
            count = whole_number(entry, "image_count", where)
            if count < 0:
                raise DatasetError(f"{where}: `image_count` must be >= 0, got {count}: {_WAY_OUT}")
            found[entry["id"]] = frequency_of(count)
        else:
            raise DatasetError(f"{where} has neither `frequency` nor `image_count`: {_WAY_OUT}")
    return dict(sorted(found.items()))


def _checked_frequency(entry: Any, where: str) -> str:
    frequency = field(entry, "frequency", where)
    if not isinstance(frequency, str) or frequency not in FREQUENCIES:
        raise DatasetError(
            f"{where}: `frequency` must be r, c or f (rare, common, frequent), "
            f"got {reprlib.repr(frequency)}: {_WAY_OUT}"
        )
    return frequency


def frequency_of(image_count: int) -> str:
    """Return the frequency of a category that appears in `image_count` training images.

    Source: https://www.lvisdataset.org/dataset: rare up to 10 images, common up to 100, else frequent. Counts from
    another set than the training set give other frequencies than the official ones.

    Args:
        image_count: Number of images, >= 0.

    >>> frequency_of(10), frequency_of(11), frequency_of(100), frequency_of(101)
    ('r', 'c', 'c', 'f')
    """
    if image_count <= 10:
        return "r"
    return "c" if image_count <= 100 else "f"
