"""Read an annotation file of COCO or LVIS and its fields, trusting nothing in it."""

from __future__ import annotations

import mmap
import reprlib
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from quantsam.data.json_file import read_json
from quantsam.data.packed import is_packed, start_of, unpacked
from quantsam.errors import DatasetError

Kind = Literal["COCO", "LVIS"]
_EXPECTED = {
    "COCO": "expected FOLDER/annotations/instances_SPLIT.json beside the images in FOLDER/SPLIT/",
    "LVIS": "check the path",
}
_EXACT = 2.0**53  # beyond it, floating-point numbers leave out whole numbers
_ARTICLE = {"COCO": "a", "LVIS": "an"}
_FILES = {"COCO": "instances_*.json", "LVIS": "lvis_*.json"}


def read_document(path: Path, kind: Kind) -> dict[str, Any]:
    """Read the file and make sure that it is of the expected kind.

    Args:
        path: COCO's `instances_*.json` or LVIS's `lvis_*.json`.
        kind: Which of them it must be.

    Returns:
        The parsed object; `images` and `annotations` are lists, all else is unchecked.

    Raises:
        DatasetError: It is missing, unreadable, no JSON, or another format, which is named if known.
    """
    document = read_json(path, "the annotation file", _EXPECTED[kind])
    _check_lists(document, path, kind)
    assert isinstance(document, dict)
    _check_kind(document, path, kind)
    return document


def is_lvis_file(path: Path) -> bool:
    """Return whether a file is LVIS's rather than COCO's, without parsing it: it may be of many hundred megabytes.

    Args:
        path: Any file; one that cannot be read is not LVIS's, and whoever reads it says why.
    """
    if not _is_regular(path):  # looking into a pipe would take from it what is read later
        return False
    if is_packed(start_of(path)):
        with suppress(OSError, DatasetError):
            return _looks_like_lvis(unpacked(path.read_bytes(), str(path)))
        return False
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _looks_like_lvis(content)
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _is_regular(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _looks_like_lvis(content: bytes | mmap.mmap) -> bool:
    if content.find(b'"neg_category_ids"') >= 0:
        return True
    return content.find(b'"coco_url"') >= 0 and content.find(b'"file_name"') < 0


def _check_lists(document: Any, path: Path, kind: Kind) -> None:
    if isinstance(document, list):
        first = document[0] if document else None
        if isinstance(first, dict) and "image_id" in first and "score" in first:
            raise DatasetError(
                f"{path} is {_ARTICLE[kind]} {kind} results file (detections with a score), not annotations: "
                f"give the {_FILES[kind]} that it was made for"
            )
    tool = _tool_of(document)
    if tool is not None:
        raise DatasetError(f"{path} is {tool}, not {_ARTICLE[kind]} {kind} annotation file: export it in COCO's format")
    which = f"{path} is not {_ARTICLE[kind]} {kind} annotation file"
    if not isinstance(document, dict):
        raise DatasetError(
            f"{which}: it must hold an object with `images` and `annotations`, got {type(document).__name__}"
        )
    for key in ("images", "annotations"):
        if not isinstance(document.get(key), list):
            raise DatasetError(f"{which}: it has no list `{key}`")
    if not document["images"]:
        raise DatasetError(f"{path} lists no images: download it again")


def _tool_of(document: Any) -> str | None:
    """Return what wrote a JSON file of another form, as far as it is known."""
    if isinstance(document, list):
        first = document[0] if document and isinstance(document[0], dict) else {}
        if "data" in first and ("annotations" in first or "completions" in first):
            return "Label Studio's own JSON"
        return "a file of Create ML" if "image" in first and "annotations" in first else None
    if not isinstance(document, dict) or isinstance(document.get("images"), list):
        return None
    if "shapes" in document and "imagePath" in document:
        return "labelme's file of one image"
    if any(key.startswith("_via_") for key in document) or _has_regions(document):
        return "a file of the VGG Image Annotator"
    if isinstance(document.get("image"), dict) and "annotations" in document:
        return "SA-1B's file of one image"
    return None


def _has_regions(document: dict[str, Any]) -> bool:
    return bool(document) and all(isinstance(entry, dict) and "regions" in entry for entry in document.values())


def _check_kind(document: dict[str, Any], path: Path, kind: Kind) -> None:
    """Refuse LVIS's format where COCO's is expected, and the other way round."""
    image = document["images"][0]
    annotation = document["annotations"][0] if document["annotations"] else None
    is_lvis = isinstance(image, dict) and (
        "neg_category_ids" in image or ("file_name" not in image and "coco_url" in image)
    )
    if kind == "COCO" and is_lvis:
        raise DatasetError(
            f"{path} is an LVIS annotation file, which names its images differently: open it with LvisDataset, "
            "or with open_dataset(FOLDER, annotations=FILE), or give COCO's instances_*.json"
        )
    if kind == "LVIS" and not is_lvis and isinstance(annotation, dict) and "iscrowd" in annotation:
        raise DatasetError(
            f"{path} is a COCO annotation file (it has `iscrowd` but no `neg_category_ids`), not LVIS's: open it "
            "with CocoDataset, or with open_dataset(FOLDER, annotations=FILE), or give LVIS's lvis_*.json"
        )


def field(entry: Any, key: str, where: str) -> Any:
    """Return what an entry has under a key.

    Args:
        entry: An element of one of the document's lists; anything that JSON can hold.
        key: The field.
        where: Which file and entry it is, to begin the message with; so in all functions here.

    Raises:
        DatasetError: The entry is no object, or lacks the field.
    """
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be an object, got {reprlib.repr(entry)}")
    if key not in entry:
        raise DatasetError(f"{where} has no `{key}`")
    return entry[key]


def whole_number(entry: Any, key: str, where: str) -> int:
    """Return a field that must be a whole number, of any size; `30.0`, as some tools write it, is one.

    Raises:
        DatasetError: It is missing or anything else.
    """
    value = field(entry, key, where)
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if type(value) is not int:
        raise DatasetError(f"{where}: `{key}` must be a whole number, got {reprlib.repr(value)}")
    return value


def text(entry: Any, key: str, where: str) -> str:
    """Return a field that must be a text, not empty.

    Raises:
        DatasetError: It is missing or anything else.
    """
    value = field(entry, key, where)
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{where}: `{key}` must be a text, got {reprlib.repr(value)}")
    return value


def inside(path: PurePosixPath, name: str, key: str, where: str) -> PurePosixPath:
    """Return a path; one that leaves the image folder, or that no file can have, is refused.

    Args:
        path: The path.
        name: What the file says.
        key: The field that says it.
        where: Which file and entry it is.

    Raises:
        DatasetError: The path has `..` or a NUL in it, with `/` or Windows' backslash between its folders.
    """
    if ".." in path.parts or ".." in name.replace("\\", "/").split("/") or "\0" in name:
        raise DatasetError(f"{where}: `{key}` must stay in the image folder, got {reprlib.repr(name)}")
    return path
