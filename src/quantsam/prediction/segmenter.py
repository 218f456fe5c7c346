"""A segmenter that runs the full model on one image at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from quantsam.data.dataset import UInt8Image
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.automatic import segment_everything
from quantsam.prediction.everything import FoundMask
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.predictor import PROMPTS_A_BATCH, CandidateMasks, Predictor
from quantsam.prediction.tally import Tally
from quantsam.progress import Progress

Float32 = NDArray[np.float32]


class ModelSegmenter:
    """A `Segmenter` that uses the model; its encoder may be float, simulated or an engine's."""

    def __init__(self, model: EfficientViTSam) -> None:
        self._predictor = Predictor(model)

    def set_image(self, image: UInt8Image) -> None:
        """Encode an image (H, W, 3)."""
        self._predictor.set_image(image)

    def set_embedding(self, embedding: torch.Tensor, image_hw: tuple[int, int]) -> None:
        """Use an image that is already encoded; see `Predictor.set_embedding`."""
        self._predictor.set_embedding(embedding, image_hw)

    def best_masks(
        self, *, points: Float32 | None = None, labels: Float32 | None = None, boxes: Float32 | None = None
    ) -> tuple[NDArray[np.bool_], Float32]:
        """Return the best mask of each prompt, (B, H, W), and its predicted IoU (B,)."""
        given = {"points": points, "labels": labels, "boxes": boxes}
        count = max(len(values) for values in given.values() if values is not None)
        found = []
        for start in range(0, count, PROMPTS_A_BATCH):
            part = slice(start, start + PROMPTS_A_BATCH)
            tensors = {k: None if v is None else torch.from_numpy(v[part]) for k, v in given.items()}
            found.append(self._predictor.best_masks(**tensors))
        masks, iou = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
        return masks, iou

    def candidates(
        self, *, points: Float32 | None = None, labels: Float32 | None = None, boxes: Float32 | None = None
    ) -> CandidateMasks:
        """Return all three low-resolution masks per prompt and their predicted IoU; see `Predictor.candidates`."""
        given = {"points": points, "labels": labels, "boxes": boxes}
        return self._predictor.candidates(**{k: None if v is None else torch.from_numpy(v) for k, v in given.items()})

    def segment_everything(
        self, image: UInt8Image, settings: GridSettings | None, progress: Progress | None, tally: Tally | None = None
    ) -> list[FoundMask]:
        """Find the masks of an image without a prompt."""
        return segment_everything(self._predictor.model, image, settings, progress, tally)
