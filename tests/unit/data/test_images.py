import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from quantsam.data.images import MAX_PIXELS, check_image_array, decode_image, decode_turned, load_image
from quantsam.data.orientation import as_stored, stored_hw
from quantsam.errors import ImageError, InputError


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def smooth_jpeg(path, height=200, width=300, **options):
    ramp = np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)
    Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1)).save(path, "JPEG", **options)
    return path


def png_header_only(path, width, height):
    """A file of a few bytes that claims to be an image of any size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)))
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_rgb_comes_back_byte_for_byte(tmp_path, noise, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    loaded = load_image(path)
    np.testing.assert_array_equal(loaded, noise)
    assert loaded.dtype == np.uint8
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_and_a_path_given_as_text(tmp_path, options):
    path = smooth_jpeg(tmp_path / "a.jpg", **options)
    with Image.open(path) as image:
        np.testing.assert_array_equal(load_image(str(path)), np.asarray(image))


def test_format_is_known_by_content_not_by_name(tmp_path, noise):
    Image.fromarray(noise).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), noise)


def test_grey_is_repeated(tmp_path, noise):
    Image.fromarray(noise[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.repeat(noise[..., :1], 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = np.eye(9, dtype=bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.repeat(bits[..., None], 3, 2) * np.uint8(255))


def test_alpha_is_dropped_not_composited(tmp_path, noise):
    alpha = np.zeros((20, 30, 1), np.uint8)
    Image.fromarray(np.concatenate([noise, alpha], axis=2)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([noise[..., :1], alpha], axis=2)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(load_image(tmp_path / "rgba.png"), noise)
    np.testing.assert_array_equal(load_image(tmp_path / "la.png"), np.repeat(noise[..., :1], 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palette_colours_whatever_is_transparent(tmp_path, transparency):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    colours = np.array([[10, 20, 30], [200, 100, 0], [1, 2, 255]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
        assert ("transparency" in stored.info) == (transparency is not None)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), colours[indices])


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    loaded = load_image(tmp_path / "a.jpg")
    assert loaded.shape == (8, 16, 3)
    np.testing.assert_allclose(loaded.mean((0, 1)), [255, 0, 0], atol=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_keep_the_upper_8_and_are_not_clipped(tmp_path, suffix):
    grey = np.array([[0, 255, 256, 0x1234], [0x7FFF, 0x8000, 0xFFFE, 0xFFFF]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        assert stored.mode.startswith("I")
    expected = np.array([[0, 0, 1, 0x12], [0x7F, 0x80, 0xFF, 0xFF]], np.uint8)
    np.testing.assert_array_equal(load_image(tmp_path / f"a.{suffix}"), np.repeat(expected[..., None], 3, axis=2))


def test_big_endian_16_bits(tmp_path):
    Image.frombytes("I;16B", (2, 1), b"\x12\x34\xff\x00").save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif")[0, :, 0], [0x12, 0xFF])


def test_more_than_16_bits_and_floats_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "deep.tif")
    Image.fromarray(np.array([[0, 0.5]], np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match=r"deep.tif has samples from 0 to 70000: .* save it with 8 or 16 bits"):
        load_image(tmp_path / "deep.tif")
    with pytest.raises(ImageError, match=r"float.tif has floating-point pixels.* save it with 8 bits"):
        load_image(tmp_path / "float.tif")


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", apply_exif=True), [[[1, 2, 3]]])


def test_first_of_several_frames(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(tmp_path / "a.gif")[0, 0], [255, 0, 0])


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_only_on_request(tmp_path, noise, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).save(tmp_path / "a.png", exif=exif.tobytes())
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), noise)
    turned = load_image(tmp_path / "a.png", apply_exif=True)
    with Image.open(tmp_path / "a.png") as stored:
        np.testing.assert_array_equal(turned, np.asarray(ImageOps.exif_transpose(stored)))
    assert turned.flags.c_contiguous
    assert turned.shape[:2] == ((30, 20) if 5 <= orientation <= 8 else (20, 30))


@pytest.mark.parametrize("orientation", range(10))
def test_an_upright_picture_is_turned_back(tmp_path, noise, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).save(tmp_path / "a.png", exif=exif.tobytes())
    turned, undone = decode_turned((tmp_path / "a.png").read_bytes())
    assert undone == (orientation if 2 <= orientation <= 8 else 1)
    np.testing.assert_array_equal(turned, load_image(tmp_path / "a.png", apply_exif=True))
    np.testing.assert_array_equal(as_stored(turned, undone), noise)
    assert stored_hw(turned.shape[:2], undone) == noise.shape[:2]
    assert decode_turned((tmp_path / "a.png").read_bytes(), apply_exif=False)[1] == 1


def test_exif_of_tiff_is_not_applied_twice(tmp_path, noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "a.tif", exif=exif.tobytes())
    for apply_exif in (False, True):
        np.testing.assert_array_equal(load_image(tmp_path / "a.tif", apply_exif=apply_exif), np.rot90(noise, -1))


def test_damaged_exif_does_not_matter(tmp_path):
    path = smooth_jpeg(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\x00garbage")
    assert load_image(path, apply_exif=True).shape == (200, 300, 3)


def test_missing_folder_empty_and_pipe(tmp_path):
    with pytest.raises(ImageError, match=r"none.jpg does not exist: check the path"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match=r"is a folder: give the path of one image"):
        load_image(tmp_path)
    (tmp_path / "zero.jpg").touch()
    with pytest.raises(ImageError, match=r"zero.jpg is empty \(0 bytes\): copy or download it again"):
        load_image(tmp_path / "zero.jpg")
    with pytest.raises(ImageError, match=r"zero.jpg/a.jpg does not exist"):
        load_image(tmp_path / "zero.jpg" / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe.jpg is not a regular file"):
        load_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("name", ["a\0b.jpg", "a" * 5000])
def test_impossible_names(name):
    with pytest.raises(ImageError, match=r"cannot be opened .*: check the path"):
        load_image(name)


def test_unreadable(tmp_path, monkeypatch):
    path = smooth_jpeg(tmp_path / "a.jpg")

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match=r"a.jpg may not be read by this user: change its permissions"):
        load_image(path)


@pytest.mark.parametrize("content", [b"these are words", b"\0" * 1000, b"P7 no", b"\xfe\xed"])
def test_not_a_picture(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"a.jpg is not an image: expected one of JPEG, PNG"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_is_an_error_never_a_grey_picture(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=rf"a.{suffix} is damaged .* download it again, or remove it"):
        load_image(path)


def test_truncated_is_an_error_even_where_another_library_asked_to_fill(tmp_path, monkeypatch):
    path = smooth_jpeg(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-1500])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="damaged"):
        load_image(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # put back as it was


def test_damaged_header(tmp_path):
    path = png_header_only(tmp_path / "a.png", 10, 10)
    content = bytearray(path.read_bytes())
    content[20] ^= 1  # the checksum of the header no longer fits
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a.png is (damaged|not an image)"):
        load_image(path)


def test_bomb_is_refused_from_its_header(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    path = png_header_only(tmp_path / "a.png", 40_000, 40_000)
    with pytest.raises(ImageError, match=r"a.png says it is 40000 x 40000 pixels: .* at most 512,000,000"):
        load_image(path)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert MAX_PIXELS == 512_000_000


def test_large_pictures_below_the_limit_give_no_pillow_warning(tmp_path, monkeypatch, noise):
    Image.fromarray(noise).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if the image were six times too large
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), noise)


def test_good_array_comes_back_itself(noise):
    assert check_image_array(noise) is noise
    assert check_image_array(noise[::2, ::-1]).shape == (10, 30, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[1, 2], [3, 4]], r"got list: convert it with np.asarray\(photo\)"),
        (np.zeros((4, 5), np.uint8), r"got shape \(4, 5\) and dtype uint8: stack the grey channel"),
        (
            np.zeros((3, 4, 5), np.uint8),
            r"got shape \(3, 4, 5\) .*: transpose it.*photo.transpose\(1, 2, 0\)",
        ),
        (np.zeros((4, 5, 4), np.uint8), r"drop the alpha channel, photo\[..., :3\]"),
        (np.zeros((4, 5, 1), np.uint8), r"repeat the grey channel"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"one by one, photo\[0\]"),
        (np.zeros(7, np.uint8), r"got shape \(7,\) .*load_image"),
        (np.zeros((0, 5, 3), np.uint8), r"got shape \(0, 5, 3\) .*: it holds no pixels"),
        (np.zeros((4, 5, 3), np.float32), r"dtype float32: multiply values in 0..1 by 255"),
        (np.zeros((4, 5, 3), np.bool_), r"dtype bool: multiply by 255"),
        (np.zeros((4, 5, 3), np.uint16), r"dtype uint16: keep the upper 8 bits"),
        (np.zeros((4, 5, 3), np.int64), r"dtype int64: bring the values to 0..255"),
    ],
)
def test_bad_array_says_what_it_is_and_how_to_mend_it(array, message):
    with pytest.raises(InputError, match=r"^photo must be an array of shape \(height, width, 3\).*" + message):
        check_image_array(array, "photo")


def test_a_picture_in_memory_is_read_like_a_file(tmp_path, noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(path := tmp_path / "a.jpg", exif=exif)
    for upright in (False, True):
        found = decode_image(path.read_bytes(), apply_exif=upright)
        np.testing.assert_array_equal(found, load_image(path, apply_exif=upright))


def test_a_picture_in_memory_is_named_and_may_have_a_limit_of_its_own(noise, tmp_path):
    Image.fromarray(noise).save(path := tmp_path / "a.png")
    assert decode_image(path.read_bytes(), max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match=r"the upload says it is 30 x 20 pixels: .* at most 599 pixels"):
        decode_image(path.read_bytes(), "the upload", max_pixels=599)
    for content, word in ((b"", "empty"), (b"text", "not an image"), (path.read_bytes()[:900], "damaged")):
        with pytest.raises(ImageError, match=f"the upload is {word}"):
            decode_image(content, "the upload")
