"""What answers prompts on a picture, and its answer. Without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray


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


class PicturePredictor(Protocol):
    """What segments one picture at a time: `Predictor`, with PyTorch, and what `load_bundle` gives, without.

    Attributes:
        image_hw: Height and width of the picture; None until one is set.
    """

    image_hw: tuple[int, int] | None

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode a picture (H, W, 3) uint8 RGB."""
        ...

    def predict(
        self,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        multimask: bool = True,
        logits: bool = False,
    ) -> Prediction:
        """Segment what one prompt points at: points (N, 2) with labels (N,), a box (4,), or both."""
        ...
