"""The images that users uploaded, each under a token that nobody can guess."""

from __future__ import annotations

import functools
import io
import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantsam.app.limits import VIEW_SIDE, Limits
from quantsam.app.lru import Lru
from quantsam.data.dataset import BoolMask, UInt8Image
from quantsam.data.images import decode_turned
from quantsam.data.scenes import SceneDataset

_SCENES = SceneDataset(24, seed=5, size=512)  # its own seed: these scenes are neither scored nor calibrated on
EXAMPLES = (1, 3, 6, 13, 16, 18)
_THUMBNAIL_SIDE = 128


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image and what the browser shows of it.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        view: JPEG file of the upright image, its longer side at most `VIEW_SIDE`.
        view_hw: Height and width of `view`.
        orientation: EXIF orientation that was undone; 1 if none.
    """

    pixels: UInt8Image
    view: bytes
    view_hw: tuple[int, int]
    orientation: int = 1

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def size_bytes(self) -> int:
        """Size in memory."""
        return self.pixels.nbytes + len(self.view)

    @property
    def view_centres(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows and columns of the image that lie in the centres of the view's pixels."""
        return _centres(self.image_hw, self.view_hw)

    def to_view(self, mask: BoolMask) -> BoolMask:
        """Return a mask of the image or the view at the view's resolution; each pixel takes the value at its centre."""
        return _resampled(mask, self.view_hw)

    def from_view(self, mask: BoolMask) -> BoolMask:
        """Return a mask of the image or the view at the image's resolution, with repeated pixels."""
        return _resampled(mask, self.image_hw)

    def full(self) -> bytes:
        """Return the image at its own size, a JPEG file."""
        return _encoded(Image.fromarray(self.pixels), "JPEG", quality=92)


class PictureStore:
    """Images by token. The least recently used goes first, but the examples are always there."""

    def __init__(self, limits: Limits) -> None:
        self._pictures: Lru[str, Picture] = Lru(limits.pictures, limits.picture_bytes)

    def add(self, picture: Picture) -> str:
        """Keep an image and return its token."""
        token = secrets.token_urlsafe(16)
        self._pictures.put(token, picture, picture.size_bytes)
        return token

    def get(self, token: str) -> Picture | None:
        """Return an image; None if the store does not have it, or no longer."""
        number = _EXAMPLE_TOKENS.get(token)
        return self._pictures.get(token) if number is None else example(number)


def read_picture(content: bytes, max_pixels: int) -> Picture:
    """Decode a file that a user sent.

    Raises:
        ImageError: The file is not an image, is damaged, or has too many pixels.
    """
    return make_picture(*decode_turned(content, max_pixels=max_pixels))


def make_picture(pixels: UInt8Image, orientation: int = 1) -> Picture:
    """Return an image from its pixels (H, W, 3), with its view."""
    height, width = pixels.shape[:2]
    scale = min(1.0, VIEW_SIDE / max(height, width))
    view_hw = max(1, round(height * scale)), max(1, round(width * scale))
    view = Image.fromarray(pixels).resize((view_hw[1], view_hw[0]), Image.Resampling.BOX)
    return Picture(pixels, _encoded(view, "JPEG", quality=92), view_hw, orientation)


def example_token(number: int) -> str:
    """Return the token of one of `EXAMPLES`. All users have the same token and so share what is computed for it."""
    return f"example-{number}"


_EXAMPLE_TOKENS = {example_token(number): number for number in EXAMPLES}


@functools.cache
def example(number: int) -> Picture:
    """Return one of `EXAMPLES`."""
    return make_picture(_SCENES.image(number))


@functools.cache
def example_thumbnail(number: int) -> bytes:
    """Return one of `EXAMPLES`, small, as a JPEG file."""
    small = Image.fromarray(example(number).pixels).resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
    return _encoded(small, "JPEG", quality=85)


def _resampled(mask: BoolMask, image_hw: tuple[int, int]) -> BoolMask:
    """Return a mask at another height and width; each pixel takes the value at its centre."""
    if mask.shape == image_hw:
        return mask
    rows, columns = _centres((mask.shape[0], mask.shape[1]), image_hw)
    resampled: BoolMask = mask[rows[:, None], columns]
    return resampled


def _centres(given_hw: tuple[int, int], wanted_hw: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = (
        ((np.arange(wanted) + 0.5) * given / wanted).astype(np.int64)
        for given, wanted in zip(given_hw, wanted_hw, strict=True)
    )
    return rows, columns


def _encoded(image: Image.Image, file_format: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()
