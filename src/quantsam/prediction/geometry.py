"""Convert between an image's pixels, the encoder's input and the prompt frame, in NumPy and without PyTorch."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PIXEL_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
PIXEL_STD = np.array([58.395, 57.12, 57.375], np.float32)

Float32 = NDArray[np.float32]


def scaled_hw(image_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the longer side is `longest`, rounded half up.

    >>> scaled_hw((480, 640), 1024)
    (768, 1024)
    """
    height, width = image_hw
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def encoder_input(image: NDArray[np.uint8], size: int) -> Float32:
    """Turn an image into the encoder's input.

    Resizes the longer side to `size` (bilinear with antialiasing, on uint8, as the official
    implementation does), normalizes, and pads with zeros at the bottom and right.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: Side of the encoder's input in pixels.

    Returns:
        (1, 3, size, size) float32.
    """
    height, width = scaled_hw((image.shape[0], image.shape[1]), size)
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    x = np.zeros((1, 3, size, size), np.float32)
    scale = np.float32(255)
    mean, std = (PIXEL_MEAN / scale).reshape(3, 1, 1), (PIXEL_STD / scale).reshape(3, 1, 1)
    x[0, :, :height, :width] = (image.transpose(2, 0, 1).astype(np.float32) / scale - mean) / std
    return x


def prompt_scale(image_hw: tuple[int, int], prompt_size: int) -> tuple[float, float]:
    """Return the factors that convert x and y from pixels of the image to pixels of the prompt frame.

    >>> prompt_scale((480, 640), 1024)
    (1.6, 1.6)
    """
    height, width = image_hw
    new_height, new_width = scaled_hw(image_hw, prompt_size)
    return new_width / width, new_height / height


@functools.lru_cache(maxsize=64)
def resize_matrix(low: int, prompt_size: int, kept: int, side: int) -> Float32:
    """Return the matrix that resizes low-resolution logits along one side of an image.

    The official code up-samples to the prompt frame, cuts off the padding and resizes to the image, with bilinear
    interpolation both times. Each step is linear, so one matrix does both.

    Args:
        low: Side of the decoder's logits.
        prompt_size: Side of the prompt frame.
        kept: Number of pixels of the prompt frame that are not padding.
        side: Number of pixels along the image's side.

    Returns:
        (side, n) float32; logits from index `n` on do not count.
    """
    matrix = _bilinear(kept, side) @ _bilinear(low, prompt_size)[:kept]
    last = int(np.flatnonzero(matrix.any(axis=0)).max()) + 1
    found: Float32 = np.ascontiguousarray(matrix[:, :last], np.float32)
    found.flags.writeable = False
    return found


def _bilinear(source: int, target: int) -> NDArray[np.float64]:
    """Return the matrix (target, source) of PyTorch's bilinear resizing along one side, without antialiasing."""
    scale, half = np.float32(source) / np.float32(target), np.float32(0.5)  # in float32, as PyTorch computes it
    centre = np.maximum((np.arange(target, dtype=np.float32) + half) * scale - half, np.float32(0))
    low = np.minimum(centre.astype(np.int64), source - 1)
    high = np.minimum(low + 1, source - 1)
    share = (centre - low.astype(np.float32)).astype(np.float64)
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix
