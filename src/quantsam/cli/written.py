"""Files that commands write: never over an input, and in the format of the name's suffix."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}


def check_suffix(option: str, path: Path, suffixes: Collection[str]) -> None:
    """Check that a file's suffix names a format that can be written.

    Raises:
        click.UsageError: The suffix names no such format.
    """
    if path.suffix.lower() not in suffixes:
        raise click.UsageError(f"{option} must end in {', '.join(suffixes)}, got {str(path)!r}")


def check_not_read(option: str, path: Path, inputs: Iterable[Path | str | None]) -> None:
    """Check that an output file is none of the command's inputs, under any name.

    Raises:
        click.UsageError: The file is an input.
    """
    for given in inputs:
        if given is not None and _is_same(path, Path(given)):
            raise click.UsageError(
                f"{option} would replace {str(given)!r}, which this command reads: give another name, got {str(path)!r}"
            )


def _is_same(path: Path, other: Path) -> bool:
    """Whether two names mean one file. Links are followed, and the file system decides about upper and lower case."""
    try:
        return path.exists() and other.exists() and path.samefile(other)
    except (OSError, ValueError, RuntimeError):
        return False


def save_picture(picture: Image, path: Path) -> None:
    """Write an image in the format of the name's suffix.

    Raises:
        OutputError: The file cannot be written, or the image is too large for the format.
    """
    from quantsam.files import atomic_write

    form = PICTURES[path.suffix.lower()]
    with atomic_write(path) as aside:
        try:
            picture.save(aside, format=form, **({"quality": 95} if form in ("JPEG", "WEBP") else {}))
        except (ValueError, SystemError) as error:  # Pillow raises these if a side is too long
            raise _too_large(picture, path, form) from error
        except OSError as error:
            if error.errno is None:  # not an error of the disk
                raise _too_large(picture, path, form) from error
            raise


def _too_large(picture: Image, path: Path, form: str) -> Exception:
    from quantsam.errors import OutputError

    return OutputError(
        f"cannot write {path}: {form} does not take an image of {picture.width} x {picture.height} pixels: "
        "give a name that ends in .png"
    )
