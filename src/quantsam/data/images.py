"""Read images in common formats as RGB bytes, with one-line errors."""

from __future__ import annotations

import importlib
import io
import logging
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features

from quantsam.data.dataset import UInt8Image
from quantsam.data.orientation import known_orientation, upright
from quantsam.data.picture_kinds import brand, unread_kind
from quantsam.data.rgb import read_rgb
from quantsam.errors import ImageError, InputError
from quantsam.notices import notice

MAX_PIXELS = 512_000_000
# A closed list: some of Pillow's other readers start external programs (EPS runs Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
_EXIF_ORIENTATION = 0x0112
_pillow_lock = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise Pillow prints its own lines beside our errors


def load_image(path: str | Path, *, apply_exif: bool = False) -> UInt8Image:
    """Read an image as 8-bit RGB.

    All content becomes RGB: grey is repeated, a palette is looked up, CMYK is converted without a colour profile, 1 bit
    becomes 0 and 255. Transparency is dropped, not composited: a pixel keeps its stored colour, as with Pillow's
    `convert("RGB")`. Samples of 16 bits keep their upper 8 (`>> 8`) and are not clipped. If the image uses only 8, 10,
    12 or 14 of the 16 bits, as cameras and microscopes write them, it keeps the upper 8 of those, with a notice. If
    there are several frames, the first is taken.

    Args:
        path: A JPEG, PNG, BMP, WebP, TIFF, GIF or PPM file with at most 512 million pixels; AVIF and HEIC if Pillow or
            its plug-ins `pillow-avif-plugin` and `pillow-heif` can read them.
        apply_exif: Whether to turn the image upright according to its EXIF orientation. Leave it off for datasets:
            COCO's annotations refer to the stored pixel grid. TIFF is the exception: its orientation belongs to the
            format and Pillow always applies it.

    Returns:
        (height, width, 3) uint8 RGB, contiguous and writeable.

    Raises:
        ImageError: The file is missing, unreadable, empty, not an image, damaged, or too large.
    """
    path = Path(path)
    _check_file(path)
    return _read(path, str(path), apply_exif, MAX_PIXELS)[0]


def decode_image(
    content: bytes, name: str = "the image", *, apply_exif: bool = False, max_pixels: int = MAX_PIXELS
) -> UInt8Image:
    """Read an image from memory, as `load_image` does from a file; see `decode_turned` for the arguments."""
    return decode_turned(content, name, apply_exif=apply_exif, max_pixels=max_pixels)[0]


def decode_turned(
    content: bytes, name: str = "the image", *, apply_exif: bool = True, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8Image, int]:
    """Read an image from memory, and report how it was turned.

    Args:
        content: The file's content.
        name: The image's name in messages.
        apply_exif: See `load_image`.
        max_pixels: Images whose header states more pixels are not decoded.

    Returns:
        (height, width, 3) uint8 RGB, contiguous and writeable; and the EXIF orientation that was undone, 1 if none;
        `as_stored` restores it.

    Raises:
        ImageError: The content is empty, not an image, damaged, or too large.
    """
    if not content:
        raise ImageError(f"{name} is empty (0 bytes): copy or download it again, or remove it")
    return _read(io.BytesIO(content), name, apply_exif, max_pixels)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return the height and width from an image's header, without decoding the image.

    Raises:
        ImageError: As for `load_image`, except damage after the header.
    """
    path = Path(path)
    _check_file(path)
    with _opened(path, str(path), MAX_PIXELS) as image:
        if image.format == "TIFF":
            image.load()  # applies the orientation; some versions do so only now
        width, height = image.size
    return height, width


def _read(source: Path | io.BytesIO, name: str, apply_exif: bool, max_pixels: int) -> tuple[UInt8Image, int]:
    with _opened(source, name, max_pixels) as image:
        array, word = read_rgb(image, name, lambda: Image.open(source, formats=(image.format or "",)))
        orientation = known_orientation(image.getexif().get(_EXIF_ORIENTATION)) if apply_exif else 1
    if word:
        notice(word)
    return upright(array, orientation), orientation


@contextmanager
def _opened(source: Path | io.BytesIO, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image, and turn any exception from Pillow within the block into a one-line error."""
    with _guarded_pillow():
        try:
            with Image.open(source, formats=_formats(source)) as image:
                _check_size(image.size, name, max_pixels)
                yield image
        except ImageError:
            raise
        except UnidentifiedImageError:
            raise ImageError(_unknown(source, name)) from None
        except PermissionError:
            raise ImageError(_unreadable(name)) from None
        except Exception as error:  # with hostile files, Pillow's readers raise almost any exception
            problem = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(
                f"{name} is damaged and does not decode completely ({problem}): copy or download it again, or remove it"
            ) from error


def _formats(source: Path | io.BytesIO) -> tuple[str, ...]:
    """Return the formats to try; AVIF and HEIF only for such a file, and only if a plug-in reads it."""
    with _stream(source) as file:
        kind = brand(file.read(64))
    if kind == "AVIF" and (features.check("avif") or _plug_in("pillow_avif")):
        return (*FORMATS, "AVIF")
    if kind == "HEIF":
        plug_in = _plug_in("pillow_heif")
        if plug_in is not None:
            plug_in.register_heif_opener()
            return (*FORMATS, "HEIF")
    return FORMATS


def _plug_in(name: str) -> Any:
    """Return a Pillow plug-in; None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@contextmanager
def _stream(source: Path | io.BytesIO) -> Iterator[IO[bytes]]:
    """Yield the source as a file; rewind an in-memory one afterwards."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        source.seek(0)
        yield source
        source.seek(0)


def _unknown(source: Path | io.BytesIO, name: str) -> str:
    with _stream(source) as file:
        kind = unread_kind(file)
    if kind is not None:
        return f"{name} is {kind[0]}: {kind[1]}"
    return f"{name} is not an image: expected one of {', '.join(FORMATS)}, AVIF, HEIC"


def check_image_array(array: Any, name: str = "image") -> UInt8Image:
    """Return `array` unchanged if it is an image in the form that all functions here accept.

    Args:
        array: The user's input; must be (height, width, 3) uint8, RGB, not empty.
        name: The array's name in the message.

    Raises:
        InputError: The array is anything else; the message says how to fix it.
    """
    rule = f"{name} must be an array of shape (height, width, 3) and dtype uint8 in RGB order"
    if not isinstance(array, np.ndarray):
        raise InputError(f"{rule}, got {type(array).__name__}: convert it with np.asarray({name})")
    received = f"got shape {array.shape} and dtype {array.dtype}"
    mend = _mend_shape(array.shape, name)
    if mend is None and array.size == 0:
        mend = "it holds no pixels"
    if mend is None and array.dtype != np.uint8:
        mend = _mend_dtype(array.dtype, name)
    if mend is not None:
        raise InputError(f"{rule}, {received}: {mend}")
    return array


def _mend_shape(shape: tuple[int, ...], name: str) -> str | None:
    if len(shape) == 3 and shape[2] == 3:
        return None
    if len(shape) == 2:
        return f"stack the grey channel three times, np.stack([{name}] * 3, axis=-1)"
    if len(shape) == 3 and shape[2] == 4:
        return f"drop the alpha channel, {name}[..., :3]"
    if len(shape) == 3 and shape[2] == 1:
        return f"repeat the grey channel, np.repeat({name}, 3, axis=2)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return f"transpose it from channels-first, {name}.transpose(1, 2, 0)"
    if len(shape) == 4:
        return f"pass the images of a batch one by one, {name}[0]"
    return "read the image with quantsam.data.images.load_image"


def _mend_dtype(dtype: np.dtype[Any], name: str) -> str:
    if dtype.kind == "f":
        return (
            f"multiply values in 0..1 by 255, ({name} * 255).round().astype(np.uint8); "
            f"values in 0..255 only need {name}.round().astype(np.uint8)"
        )
    if dtype.kind == "b":
        return f"multiply by 255, {name}.astype(np.uint8) * 255"
    if dtype == np.uint16:
        return f"keep the upper 8 bits, ({name} >> 8).astype(np.uint8)"
    return f"bring the values to 0..255, then {name}.astype(np.uint8)"


@contextmanager
def _guarded_pillow() -> Iterator[None]:
    """Set Pillow's global switches as reading here needs them, then restore them.

    Pillow's own pixel limit warns where we refuse. Other libraries tell Pillow to fill damaged files with grey. Readers
    warn about damaged metadata even if the image decodes well.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = saved


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path} does not exist: check the path") from None
    except PermissionError:
        raise ImageError(_unreadable(str(path))) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ImageError(f"{str(path)!r} cannot be opened ({error}): check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path} is a folder: give the path of one image")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        raise ImageError(f"{path} is not a regular file: give the path of one image")
    if status.st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes): copy or download it again, or remove it")


def _unreadable(name: str) -> str:
    return f"{name} may not be read by this user: change its permissions"


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} holds no pixels: its header says {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} says it is {width} x {height} pixels: an image may have at most {max_pixels:,} pixels; "
            "make it smaller first"
        )
