"""Find annotation files and images in the folders that annotation tools export."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from quantsam.data.coco_file import CocoImage
from quantsam.data.folders import is_folder, list_folder
from quantsam.data.packed import is_packed, start_of
from quantsam.errors import DatasetError

COCO_FILE = re.compile(r"instances_(?P<split>.+?)\.json(?:\.gz|\.bz2|\.xz|\.zip)?")
PACKINGS = ("", ".gz", ".bz2", ".xz", ".zip")
_JSON = re.compile(r"(?P<stem>.+?)\.json(?:\.gz|\.bz2|\.xz|\.zip)?", re.IGNORECASE)
_OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_", "lvis_")
_PREFERRED = ("val2017", "val", "valid", "validation", "val2014", "dev")
_NO_SPLIT = ("_annotations.coco", "result", "labels", "annotations", "instances", "coco")
_IMAGE_FOLDERS = ("images", "data", "JPEGImages", "img", "imgs", "image")
_SPLITS = ("train2017", "train", "training", "val2017", "val", "valid")
_MOST_NAMED = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """An annotation file.

    Attributes:
        path: Where it is.
        split: The split that the file belongs to, according to its name or folder.
    """

    path: Path
    split: str


def coco_file(folder: Path, split: str) -> Path:
    """Return the official path of a split's annotations, compressed or not; the expected path if there is no file."""
    plain = folder / "annotations" / f"instances_{split}.json"
    places = (plain.with_name(plain.name + packing) for packing in PACKINGS)
    return next((place for place in places if place.is_file()), plain)


def find_annotations(folder: Path) -> Found:
    """Return the annotation file in a folder that a tool exported: COCO, CVAT, Roboflow, Label Studio and others.

    If there are several, it is the file of the likeliest validation split, if that split has only one file.

    Raises:
        DatasetError: There is no annotation file, or the choice is ambiguous; the message lists what is there.
    """
    candidates = _candidates(folder)
    ranked = [found for name in _PREFERRED for found in candidates if found.split == name]
    if len(candidates) == 1 or (ranked and [f.split for f in ranked].count(ranked[0].split) == 1):
        return (ranked or candidates)[0]
    ways = "name the file with --annotations and the folder of the images with --image-root"
    if candidates:
        names = _listed(str(found.path.relative_to(folder)) for found in candidates)
        raise DatasetError(f"{folder} holds {len(candidates)} annotation files, {names}: {ways}")
    names = _listed(sorted(e.name + "/" * e.is_dir() for e in list_folder(folder))) or "nothing"
    lacks = "no annotation file" if is_folder(folder / "annotations") else "no folder `annotations`"
    raise DatasetError(
        f"{folder} has {lacks} that quantsam knows (annotations/instances_*.json of COCO or CVAT, lvis_*.json, "
        f"_annotations.coco.json of Roboflow, result.json of Label Studio), so there is nothing to score against; it "
        f"holds {names}{_other_kind(folder)}: {ways}; scenes:300 needs no data"
    )


def _candidates(folder: Path) -> list[Found]:
    """Return the annotation files in a folder; only those with a usual name, if there are any."""
    places = [folder / "annotations", folder]
    places += sorted(Path(e.path) for e in list_folder(folder) if e.is_dir() and e.name != "annotations")
    usual: list[Found] = []
    other: list[Found] = []
    for place in places:
        if not is_folder(place):
            continue
        for entry in sorted(list_folder(place), key=lambda e: e.name):
            match = _JSON.fullmatch(entry.name)
            if match is None or entry.name.startswith(_OTHER_TASKS) or not entry.is_file():
                continue
            official = COCO_FILE.fullmatch(entry.name)
            named = official is not None or match["stem"] in _NO_SPLIT
            if named or _looks_like_instances(Path(entry.path)):
                found = Found(Path(entry.path), _split_of(match["stem"], place, folder))
                (usual if named else other).append(found)
    return usual or other


def _split_of(stem: str, place: Path, folder: Path) -> str:
    if stem.startswith("instances_"):
        return stem.removeprefix("instances_")
    if stem in _NO_SPLIT and place not in (folder, folder / "annotations"):
        return place.name
    return stem


def _looks_like_instances(path: Path) -> bool:
    start = start_of(path, 1 << 20)
    return is_packed(start) or (b'"images"' in start and b'"annotations"' in start) or b'"segmentation"' in start


def _listed(names: Iterable[str]) -> str:
    kept = list(names)
    return ", ".join(kept[:_MOST_NAMED]) + (f" and {len(kept) - _MOST_NAMED} more" if len(kept) > _MOST_NAMED else "")


def _other_kind(folder: Path) -> str:
    """Say which other annotation format a folder seems to hold."""
    below = {e.name: e for e in list_folder(folder)}
    if "Annotations" in below and any(e.name.endswith(".xml") for e in list_folder(folder / "Annotations")):
        return " (Pascal VOC, which must be converted to COCO's format)"
    if "annotations.xml" in below:
        return " (CVAT's own XML: export it as COCO 1.0)"
    if "labels" in below or "data.yaml" in below:
        return " (labels of YOLO, it seems, which must be converted to COCO's format)"
    return ""


def image_folders(folder: Path, annotation_file: Path, split: str) -> list[Path]:
    """Return the folders that may hold a dataset's images, likeliest first; only existing ones."""
    beside = annotation_file.parent
    stem = annotation_file.name.split(".")[0]
    places = [folder / split, folder / "images" / split, folder / split / "images", folder / stem]
    if beside != folder / "annotations":
        places += [beside, *(beside / name for name in _IMAGE_FOLDERS), beside / split]
    places += [folder / "images" / "default", *(folder / name for name in _IMAGE_FOLDERS), folder]
    places += [folder / "val2017", folder / "train2017"]
    return [place for place in dict.fromkeys(places) if is_folder(place)]


def picture_folder(folder: Path) -> Path | None:
    """Return the training images' folder in an exported dataset; None if the layout is unknown."""
    roboflow = any((folder / split / "_annotations.coco.json").is_file() for split in _SPLITS)
    if not roboflow and not is_folder(folder / "annotations"):
        return None
    places = [folder / part / split for split in _SPLITS for part in ("", "images")]
    places += [folder / split / "images" for split in _SPLITS]
    places += [folder / "images" / "default", folder / "images"]
    return next((place for place in places if is_folder(place) and any(e.is_file() for e in list_folder(place))), None)


def place(images: Mapping[int, CocoImage], folders: Iterable[Path]) -> tuple[Path, dict[int, CocoImage]]:
    """Find the images' files: in the first folder that holds all of them, else in the one that holds the most.

    A name that does not exist as written is also tried with `/` for Windows' backslash. It is also tried without its
    leading folders (`images/1.jpg`, `C:/data/1.jpg`), provided that no name exists as written and that no two names
    lead to the same file.

    Args:
        images: The evaluated images by id.
        folders: Folders where the images may be, at least one.

    Returns:
        The folder, and the images with their file names in it; an image that was not found keeps its name.

    Raises:
        DatasetError: A folder is missing or may not be read.
    """
    best: tuple[int, Path, dict[int, CocoImage]] | None = None
    for folder in folders:
        found = _placed(images, folder)
        if best is None or len(found) > best[0]:
            best = len(found), folder, {**images, **found}
        if len(found) == len(images):
            break
    assert best is not None, "at least one folder"
    return best[1], best[2]


def _placed(images: Mapping[int, CocoImage], folder: Path) -> dict[int, CocoImage]:
    """Return the images whose files are in a folder, with their names there."""
    wanted = {image_id: list(_readings(image.file_name)) for image_id, image in images.items()}
    there = _Names(folder, {str(PurePosixPath(name).parent) for names in wanted.values() for name, _ in names})
    found: dict[int, str] = {}
    shortened: dict[int, str] = {}
    for image_id, names in wanted.items():
        hit = next(((name, short) for written, short in names if (name := there.find(written)) is not None), None)
        if hit is not None:
            (shortened if hit[1] else found)[image_id] = hit[0]
    if not found:
        taken = Counter(shortened.values())
        found = {image_id: name for image_id, name in shortened.items() if taken[name] == 1}
    return {image_id: dataclasses.replace(images[image_id], file_name=name) for image_id, name in found.items()}


def _readings(name: str) -> Iterator[tuple[str, bool]]:
    """Yield possible names of a file in the folder, and whether leading folders were left out."""
    if not name.startswith("/"):
        yield name, False
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if parts and parts[0] == "/":
        parts = parts[1:]
    for start in range(len(parts)):
        reading = "/".join(parts[start:])
        if reading != name:
            yield reading, start > 0 or name.startswith("/")


class _Names:
    """The files in a folder and in some of its subfolders, found by name."""

    def __init__(self, root: Path, folders: set[str]) -> None:
        self._names = names_in(root, folders)
        self._similar: dict[str, str | None] | None = None

    def find(self, name: str) -> str | None:
        """Return the file's actual name; Unicode composition and letter case make no difference."""
        if name in self._names:
            return name
        if self._similar is None:
            self._similar = {}
            for known in self._names:
                key = _folded(known)
                self._similar[key] = None if key in self._similar else known
        return self._similar.get(_folded(name))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def names_in(root: Path, folders: set[str]) -> set[str]:
    """Return the paths, relative to `root`, of everything in the given folders that exist.

    Args:
        root: The folder of the images.
        folders: Paths relative to `root`, with `/`; `.` is `root` itself.

    Raises:
        DatasetError: `root` is missing, or a folder may not be read.
    """
    found = {entry.name for entry in list_folder(root)}
    for folder in folders - {".", "/"}:
        if not folder.startswith("/") and is_folder(root / folder):
            found |= {f"{folder}/{entry.name}" for entry in list_folder(root / folder)}
    return found
