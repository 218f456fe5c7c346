"""Pre- and post-processing: convert between an image's pixels, the encoder's input and the prompt frame."""

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
    """Turn an image into the encoder's input.

    Resizes the longer side to `size` (bilinear with antialiasing, on uint8, as the official
    implementation does), normalizes, and pads with zeros at the bottom and right.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: Side of the encoder's input in pixels.

    Returns:
        (1, 3, size, size) float32.
    """
    return torch.from_numpy(encoder_input(image, size))


def scale_coordinates(xy: Tensor, image_hw: tuple[int, int], prompt_size: int) -> Tensor:
    """Scale coordinates (..., 2), x y in pixels of the image, to the prompt frame.

    >>> scale_coordinates(torch.tensor([320.0, 240.0]), (480, 640), 1024).tolist()
    [512.0, 384.0]
    """
    return xy * xy.new_tensor(prompt_scale(image_hw, prompt_size))


@dataclass(frozen=True, slots=True, eq=False)
class MaskResize:
    """Resizes low-resolution logits to the image's resolution with two matrices.

    The official code up-samples to the prompt frame, cuts off the padding and resizes to the image, with bilinear
    interpolation both times. Each step is linear along rows and along columns, so one matrix per side does all three.
    The numbers are the same except for rounding, without the detour through the prompt frame.

    Attributes:
        rows: (H, h) float32; h is the number of rows of the logits that count. The others are padding.
        columns: (w, W) float32; w is the number of columns of the logits that count.
    """

    rows: Tensor
    columns: Tensor

    @property
    def low_hw(self) -> tuple[int, int]:
        """Number of rows and columns of the logits that count."""
        return self.rows.shape[1], self.columns.shape[0]

    def __call__(self, masks: Tensor) -> Tensor:
        """Resize logits (..., >= h, >= w) to (..., H, W)."""
        height, width = self.low_hw
        return self.rows.to(masks) @ (masks[..., :height, :width] @ self.columns.to(masks))


def mask_resize(image_hw: tuple[int, int], low_size: int, prompt_size: int) -> MaskResize:
    """Return the resizing of masks to the image's resolution.

    Args:
        image_hw: Height and width of the image.
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
