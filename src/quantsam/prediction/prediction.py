"""The prediction for a prompt on an image. This module does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Masks of one prompt.

    Attributes:
        masks: (M, H, W) bool, or float32 logits if requested.
        predicted_iou: (M,) float32, the model's own estimate of each mask's quality.
        low_res_logits: (M, 4 * embed_size, 4 * embed_size) float32; the next `mask_input` can be one of them.
    """

    masks: NDArray[np.bool_] | NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
    low_res_logits: NDArray[np.float32]

    @property
    def best(self) -> int:
        """Index of the mask with the highest predicted IoU."""
        return int(self.predicted_iou.argmax())
