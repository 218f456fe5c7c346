"""Read files that may be compressed, and name files that are plainly something else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from quantsam.errors import DatasetError

MAX_BYTES = 4 << 30  # after decompression; LVIS's largest file has a quarter of this
_DEPTH = 2  # a .json.gz in a .zip
_OPENERS: tuple[tuple[bytes, Callable[[io.BytesIO], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
)
_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_UNPACK = "unpack it, and give the file that is in it"
_EXPORT = "export it in COCO's format (JSON)"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNPACK),
    (b"PAR1", "a Parquet table", _EXPORT),
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"MATLAB", "a MATLAB file", _EXPORT),
    (b"SQLite format 3", "an SQLite database", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x80", "a Python pickle, which is never opened", _EXPORT),
    (b"\x89PNG", "an image", "give the JSON file that describes the images"),
    (b"\xff\xd8\xff", "an image", "give the JSON file that describes the images"),
    (b"%PDF", "a PDF", _EXPORT),
)


def is_packed(start: bytes) -> bool:
    """Return whether `unpacked` can decompress a file that starts with these bytes."""
    return start.startswith((_ZIP, _EMPTY_ZIP, *(magic for magic, _ in _OPENERS)))


def unpacked(content: bytes, name: str, depth: int = _DEPTH) -> bytes:
    """Return the content of a gzip, bzip2, xz or zip file; any other content is returned as it is.

    Args:
        content: The file's bytes.
        name: The file's name, as the start of error messages.
        depth: Largest number of nested compressions.

    Raises:
        DatasetError: The file is damaged, too large, or an archive that does not hold exactly one JSON file.
    """
    if not is_packed(content[:8]):
        return content
    if not depth:
        raise DatasetError(f"{name} is packed several times over: {_UNPACK}")
    try:
        inner = _from_zip(content, name) if content.startswith((_ZIP, _EMPTY_ZIP)) else _from_stream(content, name)
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _damaged(name, error) from None
    except (zlib.error, lzma.LZMAError) as error:
        raise _damaged(name, error) from None
    if inner[257:262] == b"ustar":
        raise DatasetError(f"{name} is a packed tar archive: {_UNPACK}")
    return unpacked(inner, name, depth - 1)


def _damaged(name: str, error: Exception) -> DatasetError:
    return DatasetError(f"{name} cannot be unpacked ({error}): unpack it yourself, or download it again")


def _from_stream(content: bytes, name: str) -> bytes:
    opener = next(open_it for magic, open_it in _OPENERS if content.startswith(magic))
    with opener(io.BytesIO(content)) as file:
        return _bounded(file, name)


def _from_zip(content: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [entry for entry in archive.namelist() if _is_wanted(PurePosixPath(entry))]
        if len(names) != 1:
            held = f"{len(names)} JSON files ({', '.join(names[:6])})" if names else "no JSON file"
            raise DatasetError(f"{name} is a zip archive that holds {held}: unpack it, and give one of its files")
        with archive.open(names[0]) as file:
            return _bounded(file, name)


def _is_wanted(path: PurePosixPath) -> bool:
    packed = path.suffix.lower() in (".gz", ".bz2", ".xz")
    suffix = path.with_suffix("").suffix if packed else path.suffix
    return suffix.lower() == ".json" and path.parts[0] != "__MACOSX" and not path.name.startswith(".")


def _bounded(file: IO[bytes], name: str) -> bytes:
    inner = file.read(MAX_BYTES + 1)
    if len(inner) > MAX_BYTES:
        raise DatasetError(f"{name} is more than {MAX_BYTES >> 30} GiB when unpacked: give a smaller file")
    return inner


def foreign(content: bytes) -> tuple[str, str] | None:
    """Say what a file that is not JSON is, and what to do; None if its format is unknown.

    >>> foreign(b"<annotation><folder>VOC2007</folder>")
    ('XML (an annotation of Pascal VOC)', "export it in COCO's format (JSON)")
    """
    for magic, what, remedy in _KINDS:
        if content.startswith(magic):
            return what, remedy
    if content[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    start = content[:2048].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start.startswith(b"<"):
        return None
    if b"<html" in start or b"<!doctype html" in start:
        return "an HTML page", "download it again"
    if b"<annotations" in start:
        return "XML (annotations of CVAT)", "export it from CVAT as COCO 1.0"
    if b"<annotation" in start:
        return "XML (an annotation of Pascal VOC)", _EXPORT
    return "XML", _EXPORT


def start_of(path: Path, count: int = 64) -> bytes:
    """Return a file's first bytes; empty if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except (OSError, ValueError):
        return b""


def text_kind(content: bytes, error: Any) -> str | None:
    """Say what a text that is not JSON is, judged by its first line; None for truncated JSON."""
    start = content[:200].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] in (b"{", b"["):
        lines = getattr(error, "msg", "") == "Extra data"
        return "it holds several JSON values, as JSON Lines does, where one is wanted" if lines else None
    if not start:
        return None
    line = start.splitlines()[0][:40].decode("utf-8", "replace")
    return f"it begins with {line!r}"
