"""A folder of images, for calibration."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from quantsam.data.dataset import UInt8Image
from quantsam.data.images import load_image
from quantsam.data.subset import stable_subset
from quantsam.errors import DatasetError
from quantsam.files import shown

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".heic", ".heif"))


class ImageFolder:
    """The images in a folder and in its direct subfolders (SA-1B's `sa_000020/`), or a stable subset of them.

    The choice by `limit` and `seed` depends only on the images' names, not on the file system. Hidden files and folders
    are skipped.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        limit: int | None = None,
        seed: int = 0,
        pattern: str = "*",
        name: str | None = None,
    ) -> None:
        """Find the images, without opening them.

        Args:
            path: The folder.
            limit: Number of images to take; `None` takes all.
            seed: Decides which images `limit` takes; see `stable_subset`.
            pattern: Pattern for the path relative to the folder, with `*`, `?` and `[...]`; `*` also crosses a `/`, so
                `sa_000020/*` takes one nested folder.
            name: Name in tables; by default the folder's name.

        Raises:
            DatasetError: The folder is missing, unreadable or has no matching image.
            InputError: `limit` is below 1 or above the number of images.
        """
        self.folder = Path(path)
        found = [n for n in _picture_names(self.folder) if fnmatch.fnmatchcase(n, pattern)]
        if not found:
            matching = "" if pattern == "*" else f" matching {pattern!r}"
            raise DatasetError(
                f"{self.folder} has no images{matching}: expected files ending in "
                f"{', '.join(sorted(SUFFIXES))} in it or in the folders directly in it"
            )
        self.names = tuple(stable_subset(found, limit, seed, f"images in {self.folder}"))
        base = shown(name or self.folder.resolve().name)
        self._name = base if limit is None else f"{base}[{limit}:{seed}]"

    @property
    def name(self) -> str:
        """The folder's name, followed by `[LIMIT:SEED]` for a subset."""
        return self._name

    @property
    def paths(self) -> tuple[Path, ...]:
        """The images' paths, in ascending order of name."""
        return tuple(self.folder / name for name in self.names)

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of the chosen images' relative names and sizes in bytes.

        Raises:
            DatasetError: An image disappeared after the folder was read.
        """
        state = hashlib.sha256()
        for name in self.names:
            state.update(f"{name}\0{file_size(self.folder / name)}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    @functools.cached_property
    def stamp(self) -> str:
        """Hex digest of the chosen images' full paths, sizes and modification times.

        Raises:
            DatasetError: An image disappeared after the folder was read.
        """
        state = hashlib.sha256(self.digest.encode())
        for path in self.paths:
            try:
                changed = path.stat().st_mtime_ns
            except OSError as error:
                raise DatasetError(f"{path} vanished: {error.strerror}") from error
            state.update(f"{path.absolute()}\0{changed}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> UInt8Image:
        return load_image(self.folder / self.names[index])

    def __iter__(self) -> Iterator[UInt8Image]:
        """Read the images one by one as (height, width, 3) uint8 RGB, as stored (no EXIF rotation).

        Yields:
            One image at a time, in ascending order of name.

        Raises:
            ImageError: An image cannot be read.
        """
        for path in self.paths:
            yield load_image(path)


def is_folder(path: Path) -> bool:
    """Return whether `path` is an accessible folder; False on any error."""
    try:
        return path.is_dir()
    except OSError:  # the name is too long, or a parent folder denies access
        return False


def file_size(path: Path) -> int:
    """Return a file's size in bytes.

    Raises:
        DatasetError: The file no longer exists.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise DatasetError(f"{path} vanished while in use ({error.strerror}): restore it") from None


def _picture_names(folder: Path) -> list[str]:
    """Return the paths, relative to the folder and with `/`, of the images in it and in its direct subfolders."""
    names = []
    for entry in list_folder(folder):
        if entry.is_dir():
            names += [f"{entry.name}/{e.name}" for e in list_folder(Path(entry.path)) if _is_picture(e)]
        elif _is_picture(entry):
            names.append(entry.name)
    return names


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder.

    Raises:
        DatasetError: The folder is missing, is a file, or may not be read.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise DatasetError(f"the folder {folder} does not exist: check the path") from None
    except NotADirectoryError:
        raise DatasetError(f"{folder} is a file: give the folder that holds the images") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"the folder {str(folder)!r} cannot be read ({error}): check the path") from None


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()
