"""The answer to a prompt on a picture. Without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Masks of one prompt.

    Attributes:
        masks: (M, H, W) bool, or float32 logits where those were asked for.
        predicted_iou: (M,) float32, the model's own estimate of each mask's quality.
        low_res_logits: (M, 4 * embed_size, 4 * embed_size) float32; one of them may be the next `mask_input`.
    """

    masks: NDArray[np.bool_] | NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
    low_res_logits: NDArray[np.float32]

    @property
    def best(self) -> int:
        """The number of the mask of highest predicted IoU."""
        return int(self.predicted_iou.argmax())
