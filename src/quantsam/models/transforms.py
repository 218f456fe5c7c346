"""Pre- and post-processing: between a picture's pixels, the encoder's input and the prompt frame."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

PIXEL_MEAN = torch.tensor([123.675, 116.28, 103.53])
PIXEL_STD = torch.tensor([58.395, 57.12, 57.375])


def scaled_hw(image_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the longer side is `longest`, rounded half up.

    >>> scaled_hw((480, 640), 1024)
    (768, 1024)
    """
    height, width = image_hw
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def preprocess(image: NDArray[np.uint8], size: int) -> Tensor:
    """Turn a picture into the encoder's input.

    Resizes the longer side to `size` (bilinear with antialiasing, on uint8, as the official
    implementation does), normalizes, pads with zeros at the bottom and right.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: Side of the encoder's input in pixels.

    Returns:
        (1, 3, size, size) float32.
    """
    height, width = scaled_hw(image.shape[:2], size)
    if image.shape[:2] != (height, width):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    x = (x / 255 - PIXEL_MEAN.reshape(3, 1, 1) / 255) / (PIXEL_STD.reshape(3, 1, 1) / 255)
    return F.pad(x, (0, size - width, 0, size - height)).unsqueeze(0)


def scale_coordinates(xy: Tensor, image_hw: tuple[int, int], prompt_size: int) -> Tensor:
    """Move coordinates (..., 2), x y in pixels of the picture, into the prompt frame.

    >>> scale_coordinates(torch.tensor([320.0, 240.0]), (480, 640), 1024).tolist()
    [512.0, 384.0]
    """
    height, width = image_hw
    new_height, new_width = scaled_hw(image_hw, prompt_size)
    return xy * xy.new_tensor([new_width / width, new_height / height])


@dataclass(frozen=True, slots=True, eq=False)
class MaskResize:
    """How low-resolution logits become those of the picture, as two matrices.

    The official way up-samples to the prompt frame, cuts the padding off and resizes to the picture; bilinear both
    times. Each of these is linear along rows and along columns, so all three together are one matrix on either
    side: the same numbers but for rounding, without the detour over the prompt frame.

    Attributes:
        rows: (H, h) float32, h the rows of the logits that have a say: the others are padding.
        columns: (w, W) float32.
    """

    rows: Tensor
    columns: Tensor

    @property
    def low_hw(self) -> tuple[int, int]:
        """How many rows and columns of the logits have a say."""
        return self.rows.shape[1], self.columns.shape[0]

    def __call__(self, masks: Tensor) -> Tensor:
        """Resize logits (..., >= h, >= w) to (..., H, W)."""
        height, width = self.low_hw
        return self.rows.to(masks) @ (masks[..., :height, :width] @ self.columns.to(masks))


def mask_resize(image_hw: tuple[int, int], low_size: int, prompt_size: int) -> MaskResize:
    """Return how masks come to the picture's resolution.

    Args:
        image_hw: Height and width of the picture.
        low_size: Side of the decoder's logits.
        prompt_size: Side of the prompt frame.

    >>> mask_resize((480, 640), 256, 1024).low_hw
    (193, 256)
    """
    rows, columns = (
        _resize_matrix(low_size, prompt_size, kept, side)
        for kept, side in zip(scaled_hw(image_hw, prompt_size), image_hw, strict=True)
    )
    return MaskResize(rows, columns.T)


@functools.lru_cache(maxsize=64)
def _resize_matrix(low: int, prompt_size: int, kept: int, side: int) -> Tensor:
    """Return what `MaskResize` does along one side, (side, n) float32; pixels from `n` on have no say."""
    with torch.inference_mode(False):
        unit = torch.eye(low)[None, None]  # each column is one low-resolution pixel
        full = F.interpolate(unit, (prompt_size, low), mode="bilinear", align_corners=False)
        matrix = F.interpolate(full[:, :, :kept], (side, low), mode="bilinear", align_corners=False)[0, 0]
        last = int(matrix.any(0).nonzero().max()) + 1
        return matrix[:, :last].contiguous()
