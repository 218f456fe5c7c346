"""Pictures that cameras, microscopes and satellites write: of 16 bits, of many bands, of newer formats."""

import io
import struct
import sys
import types
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from quantsam.data.images import decode_image, image_size, load_image
from quantsam.errors import ImageError
from quantsam.notices import Notice

DEPTHS = (8, 10, 12, 14)


def samples(bits, channels):
    """Random samples that use so many bits."""
    found = np.random.default_rng(bits).integers(0, 1 << bits, (20, 30, channels)).astype(np.uint16)
    found[0, 0] = (1 << bits) - 1
    return found


def png(array):
    """A PNG of 16 bits, which Pillow cannot write in colour."""
    height, width, channels = array.shape

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(array, order="<", photometric=2, big=False):
    """A TIFF of one strip, of any number of bands."""
    height, width, bands = array.shape
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    data = array.astype(array.dtype.newbyteorder("<" if order == "<" else ">")).tobytes()
    bits = [8 * array.dtype.itemsize] * bands
    tags = [(256, [width]), (257, [height]), (258, bits), (259, [1]), (262, [photometric])]
    tags += [(273, []), (277, [bands]), (278, [height]), (279, [len(data)]), (339, [kind] * bands)]
    word, room, entry = ("Q", 8, 20) if big else ("I", 4, 12)
    start = (16 if big else 8) + (8 if big else 2) + entry * len(tags) + room
    extra, entries = b"", b""
    for _, values in tags:
        extra += struct.pack(f"{order}{len(values)}I", *values) if 4 * len(values) > room else b""
    place, after = start, start + len(extra)
    for tag, values in tags:
        packed = struct.pack(f"{order}{len(values or [0])}I", *(values or [after]))
        if len(packed) > room:
            packed, place = struct.pack(f"{order}{word}", place), place + len(packed)
        count = struct.pack(f"{order}{'Q' if big else 'I'}", len(values or [0]))
        entries += struct.pack(f"{order}HH", tag, 4) + count + packed.ljust(room, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    return mark + head + count + entries + b"\0" * room + extra + data


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_read_by_the_bits_that_it_uses(tmp_path, suffix, bits):
    grey = samples(bits, 1)[..., 0]
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    top = (1 << bits) - 1
    with pytest.warns(
        Notice, match=rf"a.{suffix}: of the bits of a sample only {bits} are used \(the largest is {top}\)"
    ):
        found = load_image(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(found, np.repeat((grey >> (bits - 8)).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("kind", ["PNG", "PNG with alpha", "TIFF", "TIFF, big-endian"])
def test_colour_of_16_bits_likewise(kind, bits):
    colour = samples(bits, 3)
    opaque = np.concatenate([colour, np.full((20, 30, 1), 0xFFFF, np.uint16)], axis=2)
    content = {
        "PNG": png(colour),
        "PNG with alpha": png(opaque),
        "TIFF": tiff(colour),
        "TIFF, big-endian": tiff(colour, ">"),
    }[kind]
    with pytest.warns(Notice, match=rf"the upload: of the bits of a sample only {bits} are used"):
        found = decode_image(content, "the upload")
    np.testing.assert_array_equal(found, (colour >> (bits - 8)).astype(np.uint8))


@pytest.mark.parametrize(
    "content", [png(samples(16, 1)), png(samples(16, 3)), tiff(samples(16, 3)), png(0 * samples(8, 3))]
)
def test_whole_ranges_and_black_pictures_need_no_word(content):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(content)


def test_numbers_of_32_bits_are_not_called_16(tmp_path):
    Image.fromarray(np.full((4, 5), 200, np.int32)).save(tmp_path / "a.tif")
    with pytest.warns(Notice, match=r"a.tif: of the bits of a sample only 8 are used \(the largest is 200\)"):
        assert load_image(tmp_path / "a.tif").max() == 200
    Image.fromarray(np.full((4, 5), -3, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match=r"b.tif has samples from -3 to -3: only 0 to 65535 are supported"):
        load_image(tmp_path / "b.tif")


def test_what_cannot_be_scaled_is_told_of():
    with pytest.warns(Notice, match="the image: of the bits of a sample few are used"):
        decode_image(b"P6 5 4 65535\n" + np.full((4, 5, 3), 200, ">u2").tobytes())
    with pytest.warns(Notice, match="the image: of the bits of a sample few are used: it is read as nearly black"):
        decode_image(png(samples(8, 2)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("bands", "dtype", "words"),
    [
        (5, np.uint16, "a TIFF of 5 bands of 16-bit whole numbers, which is not read: save three of its bands"),
        (5, np.uint8, "a TIFF of 5 bands of 8-bit whole numbers"),
        (8, np.float32, "a TIFF of 8 bands of 32-bit floating-point numbers, .* gdal_translate -b 3 -b 2 -b 1"),
        (13, np.int16, "a TIFF of 13 bands of 16-bit signed numbers"),
        (2, np.uint16, "a TIFF of 2 bands of 16-bit whole numbers, which is not read: save it as an 8-bit image"),
    ],
)
def test_a_geotiff_says_its_bands(tmp_path, bands, dtype, words, order, big):
    content = tiff(np.ones((6, 7, bands), dtype), order, photometric=1, big=big)
    (tmp_path / "geo.tif").write_bytes(content)
    for read in (load_image, image_size):
        with pytest.raises(ImageError, match=rf"geo\.tif is {words}") as raised:
            read(tmp_path / "geo.tif")
        assert "\n" not in str(raised.value)
    with pytest.raises(ImageError, match=rf"the upload is {words}"):
        decode_image(content, "the upload")


def test_nothing_of_pillow_s_own_is_printed(capfd):
    with pytest.raises(ImageError, match="a TIFF of 7 bands"):
        decode_image(tiff(np.ones((6, 7, 7), np.uint16)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image: convert it to PNG or JPEG"),
        (b"\xff\x0a", "a JPEG XL image"),
        (b"8BPS\0\1", "a Photoshop image"),
        (b"\0" * 128 + b"DICM", "a DICOM image: export it as PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript: convert it"),
        (b"%PDF-1.4", "a PDF: export the page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the image: run `git lfs pull`"),
        (b"<!DOCTYPE html><html>403", "an HTML or XML page: download the image again"),
        (b'<?xml version="1.0"?><svg xmlns="x">', "an SVG drawing"),
        (b"\x1f\x8b\x08", "gzip-compressed: unpack it"),
        (b"PK\x03\x04", "a zip archive: unpack it"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video: export a frame"),
        (b"\x93NUMPY\1\0", "a NumPy array: save it as PNG"),
        (b"\xff\xd8\xff\xe0\0\x04ab\xff\xc1\0\x11\x0c" + b"\0" * 40, r"a JPEG of a kind that is not read \(12 bits\)"),
        (b"\xff\xd8\xff\xc3\0\x11\x08" + b"\0" * 40, r"a JPEG of a kind that is not read \(lossless or arith"),
        (b"\xff\xd8\xff\xe0\0\x10JF", "damaged .*: copy or download it again"),
        (b"\x89PNG\r\n", "damaged, a PNG that is cut off"),
        (b"II*\0\xff\xff\xff\x7f", "damaged, a TIFF that is cut off"),
        (b"MM\0+\0\x08\0\0", "damaged, a TIFF that is cut off"),
    ],
)
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.jpg is {words}"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.avif", quality=100)
    np.testing.assert_allclose(load_image(tmp_path / "a.avif"), flat, atol=4)
    assert image_size(tmp_path / "a.avif") == (16, 24)
    assert load_image(tmp_path / "a.avif").shape == decode_image((tmp_path / "a.avif").read_bytes()).shape


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40


def test_what_needs_a_plug_in_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "pillow_avif", None)
    monkeypatch.setattr(features, "check", lambda name: False)
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(ImageError, match=r"a.heic is a HEIC image: pip install pillow-heif, or convert it"):
        load_image(tmp_path / "a.heic")
    with pytest.raises(ImageError, match=r"is an AVIF image: pip install pillow-avif-plugin, or convert it"):
        decode_image(HEIC.replace(b"heic", b"avif"))


def test_heic_is_read_where_the_plug_in_is_installed(monkeypatch):
    """A stand-in for pillow-heif: what it registers is asked, for such a file and for no other."""
    asked = []

    def open_it(file, name):
        asked.append(file.read(12))
        return Image.new("RGB", (5, 3), (1, 2, 3))

    def register():
        Image.register_open("HEIF", open_it, lambda start: start[4:12] == b"ftypheic")

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    found = decode_image(HEIC)
    assert (found.shape, found[0, 0].tolist()) == ((3, 5, 3), [1, 2, 3])
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    decode_image(buffer.getvalue())
    assert asked == [HEIC[:12]]
