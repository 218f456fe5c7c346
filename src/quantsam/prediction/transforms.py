"""Pre- and post-processing: between a picture's pixels, the encoder's input and the prompt frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsam.prediction import geometry
from quantsam.prediction.geometry import encoder_input, prompt_scale, resize_matrix, scaled_hw

PIXEL_MEAN = torch.from_numpy(geometry.PIXEL_MEAN)
PIXEL_STD = torch.from_numpy(geometry.PIXEL_STD)


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
    return torch.from_numpy(encoder_input(image, size))


def scale_coordinates(xy: Tensor, image_hw: tuple[int, int], prompt_size: int) -> Tensor:
    """Move coordinates (..., 2), x y in pixels of the picture, into the prompt frame.

    >>> scale_coordinates(torch.tensor([320.0, 240.0]), (480, 640), 1024).tolist()
    [512.0, 384.0]
    """
    return xy * xy.new_tensor(prompt_scale(image_hw, prompt_size))


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
        torch.from_numpy(resize_matrix(low_size, prompt_size, kept, side).copy())
        for kept, side in zip(scaled_hw(image_hw, prompt_size), image_hw, strict=True)
    )
    return MaskResize(rows, columns.T)
