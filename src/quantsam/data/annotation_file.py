"""Read a COCO or LVIS annotation file and its fields, without trusting its content."""

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
_EXACT = 2.0**53  # beyond it, a float cannot represent every integer
_ARTICLE = {"COCO": "a", "LVIS": "an"}
_FILES = {"COCO": "instances_*.json", "LVIS": "lvis_*.json"}


def read_document(path: Path, kind: Kind) -> dict[str, Any]:
    """Read the file and make sure that it has the expected format.

    Args:
        path: COCO's `instances_*.json` or LVIS's `lvis_*.json`.
        kind: The expected format.

    Returns:
        The parsed object; `images` and `annotations` are lists; nothing else is checked.

    Raises:
        DatasetError: The file is missing, unreadable, not JSON, or in another format, which the message names if known.
    """
    document = read_json(path, "the annotation file", _EXPECTED[kind])
    _check_lists(document, path, kind)
    assert isinstance(document, dict)
    _check_kind(document, path, kind)
    return document


def is_lvis_file(path: Path) -> bool:
    """Return whether a file is LVIS's rather than COCO's, without parsing it: it may have hundreds of megabytes.

    Args:
        path: Any file. A file that cannot be read counts as not LVIS's; the later read reports why.
    """
    if not _is_regular(path):  # reading from a pipe here would consume data that is needed later
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
    """Return which tool wrote a JSON file of another format; None if unknown."""
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
    """Refuse LVIS's format where COCO's is expected, and vice versa."""
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
    """Return the value of a field of an entry.

    Args:
        entry: An element of one of the document's lists; any JSON value.
        key: Name of the field.
        where: File and entry, as the start of the error message; the same in all functions here.

    Raises:
        DatasetError: The entry is not an object, or lacks the field.
    """
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be an object, got {reprlib.repr(entry)}")
    if key not in entry:
        raise DatasetError(f"{where} has no `{key}`")
    return entry[key]


def whole_number(entry: Any, key: str, where: str) -> int:
    """Return a field that must be a whole number of any size; `30.0`, which some tools write, counts as one.

    Raises:
        DatasetError: The field is missing or has another type or value.
    """
    value = field(entry, key, where)
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if type(value) is not int:
        raise DatasetError(f"{where}: `{key}` must be a whole number, got {reprlib.repr(value)}")
    return value


def text(entry: Any, key: str, where: str) -> str:
    """Return a field that must be a non-empty string.

    Raises:
        DatasetError: The field is missing or has another type or value.
    """
    value = field(entry, key, where)
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{where}: `{key}` must be a text, got {reprlib.repr(value)}")
    return value


def inside(path: PurePosixPath, name: str, key: str, where: str) -> PurePosixPath:
    """Return a path; refuse one that leaves the image folder or that no file can have.

    Args:
        path: The path.
        name: The path as the file gives it.
        key: The field that holds the path.
        where: File and entry, as the start of the error message.

    Raises:
        DatasetError: The path contains `..` (between `/` or Windows backslashes) or a NUL.
    """
    if ".." in path.parts or ".." in name.replace("\\", "/").split("/") or "\0" in name:
        raise DatasetError(f"{where}: `{key}` must stay in the image folder, got {reprlib.repr(name)}")
    return path
