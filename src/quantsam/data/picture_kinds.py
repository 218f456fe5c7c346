"""Name unsupported image formats by their first bytes, and say what to do."""

from __future__ import annotations

import struct
from typing import IO

_CONVERT = "convert it to PNG or JPEG"
_KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image", "run `git lfs pull`"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (0, b"8BPS", "a Photoshop image", _CONVERT),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image", _CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR image", _CONVERT),
    (0, b"%!PS", "PostScript", _CONVERT),
    (0, b"%PDF", "a PDF", "export the page as PNG"),
    (0, b"\0\0\1\0", "an icon", _CONVERT),
    (128, b"DICM", "a DICOM image", "export it as PNG with the window that you want"),
    (0, b"SIMPLE  =", "a FITS image", _CONVERT),
    (0, b"\x89HDF", "an HDF5 file", "export its images as PNG"),
    (0, b"\x93NUMPY", "a NumPy array", "save it as PNG"),
    (0, b"\x1f\x8b", "gzip-compressed", "unpack it"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it"),
    (0, b"\x1a\x45\xdf\xa3", "a video", "export a frame as PNG"),
)
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SAMPLES = {1: "whole numbers", 2: "signed numbers", 3: "floating-point numbers", 5: "complex numbers"}
_MOST_ENTRIES = 4096
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # JPEG's markers SOF0 to SOF15
_READ = (
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)


def brand(start: bytes) -> str | None:
    """Return `AVIF` or `HEIF` if a file that starts with these bytes has that format, else None."""
    if start[4:8] != b"ftyp":
        return None
    names = {start[8:12], *(start[i : i + 4] for i in range(16, min(len(start), 64), 4))}
    if names & set(_AVIF):
        return "AVIF"
    return "HEIF" if names & set(_HEIF) else None


def unread_kind(file: IO[bytes]) -> tuple[str, str] | None:
    """Return the format of a file that Pillow did not recognize, and what to do; None if unknown."""
    file.seek(0)
    start = file.read(512)
    for place, magic, what, remedy in _KINDS:
        if start[place:].startswith(magic):
            return what, remedy
    kind = brand(start)
    if kind is not None:
        package = {"AVIF": "pillow-avif-plugin", "HEIF": "pillow-heif"}[kind]
        return f"{'an AVIF' if kind == 'AVIF' else 'a HEIC'} image", f"pip install {package}, or {_CONVERT}"
    if start[4:8] == b"ftyp":
        return "a video", "export a frame as PNG"
    if start[:3] == b"\xff\xd8\xff":
        return _jpeg_kind(file) or _damaged("JPEG")
    for magic, name in _READ:
        if start.startswith(magic):
            return _tiff_kind(file) or _damaged(name) if name == "TIFF" else _damaged(name)
    if start.lstrip()[:4].lower() == b"<svg" or b"<svg" in start.lower():
        return "an SVG drawing", "export it as PNG"
    if start.lstrip()[:1] == b"<":
        return "an HTML or XML page", "download the image again"
    return None


def _damaged(name: str) -> tuple[str, str]:
    return f"damaged, a {name} that is cut off or overwritten", "copy or download it again, or remove it"


def _jpeg_kind(file: IO[bytes]) -> tuple[str, str] | None:
    """Return the type of a JPEG's frame if Pillow cannot read it."""
    file.seek(2)
    for _ in range(_MOST_ENTRIES):
        head = file.read(5)
        if len(head) < 5 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):
            return None
        if head[1] in _FRAMES:
            bits = head[4]
            what = f"{bits} bits" if bits != 8 else "lossless or arithmetic coding"
            usual = bits == 8 and head[1] in (0xC0, 0xC1, 0xC2)
            return None if usual else (f"a JPEG of a kind that is not read ({what})", _CONVERT)
        file.seek(int.from_bytes(head[2:4], "big") - 3, 1)
    return None


def _tiff_kind(file: IO[bytes]) -> tuple[str, str] | None:
    """Return the number of bands in a TIFF, and their type."""
    try:
        tags = tiff_tags(file)
    except (struct.error, ValueError, OverflowError, OSError):
        return None
    if not tags:
        return None
    bands, bits = tags.get(277, (1,))[0], tags.get(258, (1,))
    sample = _SAMPLES.get(tags.get(339, (1,))[0], "samples of an unknown kind")
    depth = " and ".join(str(value) for value in dict.fromkeys(bits))
    remedy = "save three of its bands (red, green, blue) as an 8-bit image"
    example = "gdal_translate -b 3 -b 2 -b 1 -ot Byte -scale IN.tif OUT.tif" if bands > 3 else ""
    what = f"a TIFF of {bands} band{'s' * (bands != 1)} of {depth}-bit {sample}, which is not read"
    return what, f"{remedy}, e.g. {example}" if example else f"save it as an 8-bit image, or {_CONVERT}"


def tiff_tags(file: IO[bytes]) -> dict[int, tuple[int, ...]]:
    """Return the short and long tags of a TIFF's first image; empty if the file is not a TIFF.

    Raises:
        struct.error: The file ends too early.
    """
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order else 0
    if version not in (42, 43):
        return {}
    big = version == 43
    count_form, entry_form, value_size = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)

    def read(form: str) -> tuple[int, ...]:
        return struct.unpack(f"{order}{form}", file.read(struct.calcsize(f"{order}{form}")))

    file.seek(struct.unpack(f"{order}Q", head[8:16])[0] if big else struct.unpack(f"{order}I", head[4:8])[0])
    entries = [(read(entry_form), file.read(value_size)) for _ in range(min(read(count_form)[0], _MOST_ENTRIES))]
    return {
        tag: _values(file, order or "<", kind, count, raw, big) for (tag, kind, count), raw in entries if kind in (3, 4)
    }


def _values(file: IO[bytes], order: str, kind: int, count: int, raw: bytes, big: bool) -> tuple[int, ...]:
    letter, count = "H" if kind == 3 else "I", min(count, _MOST_ENTRIES)
    size = struct.calcsize(f"{order}{count}{letter}")
    if size > len(raw):
        file.seek(struct.unpack(f"{order}{'Q' if big else 'I'}", raw)[0])
        raw = file.read(size)
    return struct.unpack(f"{order}{count}{letter}", raw[:size])
