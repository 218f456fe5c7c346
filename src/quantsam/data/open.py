"""Turn the user's words (`scenes:300`, `coco`, a path) into a dataset or an image source."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from quantsam.data.annotation_file import is_lvis_file
from quantsam.data.coco import CocoDataset
from quantsam.data.dataset import Dataset, UInt8Image
from quantsam.data.folders import ImageFolder, is_folder, list_folder
from quantsam.data.indexed import IndexedDataset
from quantsam.data.layouts import COCO_FILE, coco_file, find_annotations, picture_folder
from quantsam.data.lvis import LvisDataset
from quantsam.data.subset import DatasetSubset, without_crowds
from quantsam.errors import DatasetError, InputError, nearest
from quantsam.files import expanded

DATA_VARIABLE = "QUANTSAM_DATA"
BARE_NAMES = ("coco", "lvis", "sa-1b")
DEFAULT_SCENES = 300
_SCENES = re.compile(r"scenes(?::(?P<count>\d{1,9})(?::(?P<seed>\d{1,9}))?)?", re.ASCII)


@runtime_checkable
class ImageSource(Protocol):
    """Images without annotations, for calibration."""

    @property
    def name(self) -> str:
        """A short name for tables."""
        ...

    @property
    def digest(self) -> str:
        """Hex digest that changes whenever the images change."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __iter__(self) -> Iterator[UInt8Image]:
        """Yield the images in stable order, each (height, width, 3) uint8 RGB."""
        ...

    def __getitem__(self, index: int, /) -> UInt8Image:
        """Return one image."""
        ...


class DatasetImages:
    """The images of a dataset, without their annotations."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self._dataset.name

    @property
    def digest(self) -> str:
        """The dataset's digest."""
        return self._dataset.digest

    @property
    def stamp(self) -> str | None:
        """A text that changes with the images' contents; None if only reading them all would tell."""
        return getattr(self._dataset, "stamp", None)

    def __len__(self) -> int:
        return len(self._dataset.image_ids)

    def __getitem__(self, index: int, /) -> UInt8Image:
        return self._dataset.image(self._dataset.image_ids[index])

    def __iter__(self) -> Iterator[UInt8Image]:
        """Read the images one by one, in the dataset's order.

        Yields:
            (height, width, 3) uint8 RGB.
        """
        for image_id in self._dataset.image_ids:
            yield self._dataset.image(image_id)


class SomeImages:
    """A part of an image source, itself a source."""

    def __init__(self, images: ImageSource, numbers: Sequence[int], what: str) -> None:
        """Choose the images.

        Args:
            images: The source to choose from.
            numbers: Indices of the chosen images, in order.
            what: A short description of the choice; part of the name.
        """
        self._images, self._numbers, self._what = images, tuple(numbers), what

    @property
    def name(self) -> str:
        """`NAME, WHAT`."""
        return f"{self._images.name}, {self._what}"

    @property
    def digest(self) -> str:
        """Hex digest of the whole source's digest and the numbers."""
        return hashlib.sha256(f"{self._images.digest}:{self._numbers}".encode()).hexdigest()

    @property
    def stamp(self) -> str | None:
        """A text that changes with the images' contents; None if the whole source has none."""
        stamp = getattr(self._images, "stamp", None)
        return None if stamp is None else f"{stamp}:{self._numbers}"

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int, /) -> UInt8Image:
        return self._images[self._numbers[index]]

    def __iter__(self) -> Iterator[UInt8Image]:
        """Read the images one by one.

        Yields:
            (height, width, 3) uint8 RGB.
        """
        for number in self._numbers:
            yield self._images[number]


def open_dataset(
    spec: str | Path,
    *,
    annotations: str | Path | None = None,
    image_root: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    crowds: bool = True,
    strict: bool = False,
) -> Dataset:
    """Open the dataset that a user named, for evaluation.

    Args:
        spec: `scenes`, `scenes:COUNT` or `scenes:COUNT:SEED` (by default 300 scenes of seed 0); `coco` or `lvis`,
            searched in `$QUANTSAM_DATA`, or else in `.` and `./data`; or the path of a folder with
            `annotations/instances_val2017.json` and `val2017/`, or with `annotations/lvis_v1_val.json` (or
            `lvis_v0.5_val.json`) and no `instances_*.json`, which is LVIS. For a folder with both, `lvis` means LVIS
            and any other name means COCO.
        annotations: Another annotation file; its content tells whether it is COCO or LVIS.
        image_root: The folder of the images. For COCO, the folder that holds the images themselves; by default
            `FOLDER/SPLIT`, with SPLIT from `instances_SPLIT.json`, or `FOLDER/val2017`. For LVIS, the folder that holds
            `val2017/` and `train2017/`, for example a COCO folder; by default `FOLDER`.
        limit: Number of images to evaluate; `None` takes all.
        seed: Decides which images `limit` takes; it does not change the set to choose from.
        crowds: Whether annotations of groups (COCO's `iscrowd`) also give prompts, as in the authors' evaluation.
        strict: Refuse entries that are never scored or look wrong, instead of giving a notice.

    Returns:
        The dataset. In a folder without these files, exports of annotation tools are found: CVAT, Roboflow, Label
        Studio, FiftyOne.

    Raises:
        DatasetError: No dataset is known or found by that name, or the dataset is damaged.
        InputError: A number is out of range, `scenes:...` is malformed, or files are given for scenes.
    """
    scenes = _scenes(spec, default_seed=0)
    if scenes is not None:
        if annotations is not None or image_root is not None:
            raise InputError(
                f"{spec!r} takes neither --annotations nor --image-root, as scenes have no files: leave them out, "
                "or name the folder that they belong to"
            )
        return scenes if limit is None else DatasetSubset(scenes, limit, seed)  # scenes have no crowds
    folder = _find_folder(spec)
    file = None if annotations is None else expanded(annotations)
    pictures = None if image_root is None else expanded(image_root)
    chosen: dict[str, Any] = {"image_root": pictures, "limit": limit, "seed": seed, "strict": strict}
    dataset: IndexedDataset
    if _is_lvis(spec, folder, file):
        dataset = LvisDataset(folder, annotations=file, **chosen)
    else:
        named = COCO_FILE.fullmatch(file.name) if file else None
        split = named["split"] if named else "val2017"
        if file is None and not coco_file(folder, split).is_file():
            found = find_annotations(folder)
            file, split = found.path, found.split
        dataset = CocoDataset(folder, split=split, annotations=file, **chosen)
    dataset.check(strict=strict)
    return dataset if crowds else without_crowds(dataset)


def _is_lvis(spec: str | Path, folder: Path, file: Path | None) -> bool:
    """Return whether the user asks for LVIS rather than COCO."""
    if file is not None:
        return is_lvis_file(file)
    if not is_folder(folder / "annotations"):
        return spec == "lvis"
    names = [entry.name for entry in list_folder(folder / "annotations") if entry.name.endswith(".json")]
    only_lvis = any(n.startswith("lvis_") for n in names) and not any(n.startswith("instances_") for n in names)
    return spec == "lvis" or only_lvis


def open_images(spec: str | Path, *, limit: int | None = None, seed: int = 0) -> ImageSource:
    """Open the images that a user named, for calibration.

    Args:
        spec: `scenes[:COUNT[:SEED]]` (by default 300 scenes of seed 1, which differ from those that `open_dataset`
            evaluates); `coco`, `sa-1b` or `lvis`, searched in `$QUANTSAM_DATA`, or else in `.` and `./data`; or the
            path of a folder of images, or of a COCO folder, where `train2017` is taken, or else `val2017`.
        limit: Number of images to take; `None` takes all.
        seed: Decides which images `limit` takes; it does not change the set to choose from.

    Returns:
        The images; image files are read during the iteration.

    Raises:
        DatasetError: No source is known or found by that name, or there are no images.
        InputError: A number is out of range, or `scenes:...` is malformed.
    """
    scenes = _scenes(spec, default_seed=1)
    if scenes is not None:
        return DatasetImages(scenes if limit is None else DatasetSubset(scenes, limit, seed))
    folder = _find_folder(spec, "scenes:32:1")
    if is_folder(folder / "annotations"):
        for split in ("train2017", "val2017"):
            if is_folder(folder / split):
                name = f"{folder.resolve().name}:{split}"
                return ImageFolder(folder / split, limit=limit, seed=seed, name=name)
    laid_out = picture_folder(folder)
    if laid_out is not None:
        name = f"{folder.resolve().name}:{laid_out.relative_to(folder)}"
        return ImageFolder(laid_out, limit=limit, seed=seed, name=name)
    return ImageFolder(folder, limit=limit, seed=seed)


def _scenes(spec: str | Path, *, default_seed: int) -> Dataset | None:
    """Return the scenes that a spec asks for, or `None` if it asks for something else."""
    if not isinstance(spec, str) or spec.partition(":")[0] != "scenes":
        return None
    match = _SCENES.fullmatch(spec)
    if match is None:
        raise InputError(
            f"scenes are written scenes, scenes:COUNT or scenes:COUNT:SEED with whole numbers, got {spec!r}: "
            "write e.g. scenes:300"
        )
    from quantsam.data.scenes import SceneDataset  # loads the renderer only when needed

    return SceneDataset(int(match["count"] or DEFAULT_SCENES), seed=int(match["seed"] or default_seed))


def _find_folder(spec: str | Path, scenes: str = f"scenes:{DEFAULT_SCENES}") -> Path:
    """Return the folder for a bare name or a path.

    Args:
        spec: The name or path.
        scenes: The generated scenes that a message recommends.
    """
    way_out = f"{scenes} needs no download and works everywhere"
    if isinstance(spec, str) and spec in BARE_NAMES:
        root = os.environ.get(DATA_VARIABLE)
        places = [expanded(root) / spec] if root else [Path(spec), Path("data") / spec]
        for place in places:
            if is_folder(place):
                return place
        looked_at = " and ".join(str(place.absolute()) for place in places)
        raise DatasetError(
            f"dataset {spec!r} was not found, looked at {looked_at}: set {DATA_VARIABLE} to the folder that "
            f"holds {spec}/, or give its path; {way_out}"
        )
    with contextlib.suppress(RuntimeError, OSError):  # an unknown user's home, or a name that is too long
        folder = expanded(spec)
        if spec != "" and is_folder(folder):
            return folder
        if folder.is_file():
            raise DatasetError(f"{folder} is a file: give the folder that holds the data; {way_out}")
    hint = nearest(str(spec).partition(":")[0], (*BARE_NAMES, "scenes"))
    raise DatasetError(f"{str(spec)!r} is neither a known dataset nor an existing folder: {hint}; {way_out}")
