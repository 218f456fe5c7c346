"""Convert what Pillow decoded to 8-bit RGB; 16-bit samples are reduced by the bits that the image uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantsam.data.dataset import UInt8Image
from quantsam.errors import ImageError

_DEPTHS = (8, 10, 12, 14, 16)  # bits of sensors whose samples are stored in 16 bits
_BITS_PER_SAMPLE = 258  # a TIFF tag


def read_rgb(image: Image.Image, name: str, reopen: Callable[[], Image.Image]) -> tuple[UInt8Image, str | None]:
    """Decode an image and convert it to (height, width, 3) uint8.

    Args:
        image: An opened image, not yet decoded.
        name: The image's name in messages.
        reopen: Opens the same image again.

    Returns:
        The image, and a notice about it, if any.

    Raises:
        ImageError: The image's samples are floating-point numbers, or have more than 16 bits.
    """
    deep = _low_bytes_mode(image) is not None or _is_deep_ppm(image)
    image.load()
    if image.mode == "F":
        raise ImageError(f"{name} has floating-point pixels, whose range is unknown: save it with 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ImageError(
                f"{name} has samples from {grey.min()} to {grey.max()}: only 0 to 65535 are supported; "
                "save it with 8 or 16 bits"
            )
        array, word = _upper_8(grey.astype(np.uint16), name, _declared_bits(image))
        return np.repeat(array[..., None], 3, axis=2), word
    # A transparent colour says nothing about RGB, and Pillow warns about some forms of it.
    image.info.pop("transparency", None)
    high = np.array(image.convert("RGB"))
    if not deep or high.max() >= 1 << (_DEPTHS[-2] - 8):
        return high, None
    with reopen() as again:
        low = _low_bytes(again)
    if low is None or low.shape != high.shape:
        return (
            high,
            f"{name}: of the bits of a sample few are used: it is read as nearly black, save it with 8 bits",
        )
    return _upper_8((high.astype(np.uint16) << 8 | low).astype(np.uint16), name, None)


def _upper_8(samples: NDArray[np.uint16], name: str, declared: int | None) -> tuple[UInt8Image, str | None]:
    """Return the upper 8 of the bits that are in use."""
    top = int(samples.max())
    used = declared or next(bits for bits in _DEPTHS if top < 1 << bits)
    array = (samples >> (used - 8)).astype(np.uint8)
    if used == 16 or declared or top == 0:
        return array, None
    return array, f"{name}: of the bits of a sample only {used} are used (the largest is {top}): read as {used} bits"


def _declared_bits(image: Image.Image) -> int | None:
    """Return the bits per sample if a TIFF states fewer than 16."""
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0] if tags is not None else 16
    return bits if bits in _DEPTHS[1:-1] else None


def _is_deep_ppm(image: Image.Image) -> bool:
    arguments = [tile[3] for tile in getattr(image, "tile", ())] if image.format == "PPM" else []
    return any(isinstance(n, int) and n > 255 for a in arguments for n in (a if isinstance(a, tuple) else (a,)))


def _low_bytes_mode(image: Image.Image) -> str | None:
    """Return the raw mode that reads the lower byte of 16-bit colour samples, None if samples do not have 16 bits.

    Pillow keeps only the upper byte. Read in the other byte order, it keeps the lower byte instead.
    """
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        raw = arguments if isinstance(arguments, str) else arguments[0] if arguments else None
        if isinstance(raw, str) and raw[-4:-1] == ";16":
            return raw[:-1] + ("L" if raw[-1] == "B" else "B")
    return None


def _low_bytes(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return the lower bytes of 16-bit colour samples, (height, width, 3); None if Pillow cannot read them."""
    raw = _low_bytes_mode(image)
    if raw is None:
        return None

    def swapped(tile: Any) -> tuple[Any, ...]:
        arguments = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
        return type(tile)(*tile[:3], arguments) if hasattr(tile, "_fields") else (*tile[:3], arguments)

    image.tile = [swapped(tile) for tile in image.tile]  # type: ignore[attr-defined]
    try:
        image.load()
    except (ValueError, OSError):  # no such raw mode
        return None
    image.info.pop("transparency", None)
    return np.array(image.convert("RGB"))
