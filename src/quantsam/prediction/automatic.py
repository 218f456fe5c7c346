"""Segment everything: predict masks at every point of a grid, keep the good ones, and drop duplicates.

Source: Segment Anything (Kirillov et al., 2023, arXiv:2304.02643), appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsam.data.coco_masks import Rle
from quantsam.data.dataset import UInt8Image
from quantsam.data.images import check_image_array
from quantsam.models.image_decoder import ImageDecoder
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.everything import Candidate, FoundMask, find_masks
from quantsam.prediction.grid import Box, GridSettings, usual_settings
from quantsam.prediction.predictor import MASK_THRESHOLD
from quantsam.prediction.tally import Tally
from quantsam.prediction.transforms import MaskResize, mask_resize, preprocess, scale_coordinates
from quantsam.progress import Progress

__all__ = ["FoundMask", "GridSettings", "Progress", "Rle", "segment_everything"]

_LOGITS_AT_ONCE = 2**24  # up-sampled at once, 64 MiB in float32, independent of points_per_batch; at least one mask


def segment_everything(
    model: EfficientViTSam,
    image: UInt8Image,
    settings: GridSettings | None = None,
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> list[FoundMask]:
    """Find the masks of an image without a prompt.

    Every point of a grid over the image gives three masks. So does every point of a grid over each crop,
    if crops are requested. A mask is dropped if its predicted IoU is low, if it changes with the
    threshold on its logits, if a crop's border cuts it, or if it is empty or a duplicate. Equal inputs
    on one machine give equal results.

    Args:
        model: A model in eval mode, with any encoder.
        image: (H, W, 3) uint8 RGB.
        settings: The grid and the thresholds; `usual_settings` of the model if None.
        progress: Wraps the iteration over batches of points, given their number.
        tally: Counts the dropped masks.

    Returns:
        The masks by descending predicted IoU, ties in the order of their points; may be empty.

    Raises:
        InputError: The image has another shape or type.
    """
    check_image_array(image)
    image_hw = (image.shape[0], image.shape[1])

    def open_crop(crop: Box) -> _View:
        x0, y0, x1, y1 = crop
        return _View(model.image_decoder(_encode(model, image, crop)), model.variant.prompt_size, (y1 - y0, x1 - x0))

    return find_masks(image_hw, settings or usual_settings(model.name), open_crop, progress, tally)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """A crop as the mask decoder sees it."""

    decoder: ImageDecoder
    prompt_size: int
    crop_hw: tuple[int, int]

    @property
    def resize(self) -> MaskResize:
        """Resizes logits to the crop's resolution."""
        return mask_resize(self.crop_hw, self.decoder.low_size, self.prompt_size)

    @torch.inference_mode()
    def candidates(self, points: NDArray[np.float64], settings: GridSettings, tally: Tally) -> list[Candidate]:
        """Return the masks of a batch of points (B, 2) that are good and stable, in order."""
        low_res, predicted_iou = self._decode(points)
        # Up-sampling takes most of the time, so masks that cannot pass are dropped first. It mixes neighbours
        # with weights >= 0, so an empty mask stays empty.
        lowest = settings.iou_threshold or -math.inf
        is_full = low_res.amax((1, 2)) > MASK_THRESHOLD
        tally.note_quality(predicted_iou.cpu().numpy(), ~is_full.cpu().numpy(), lowest)
        promising = (predicted_iou > lowest) & is_full
        indices = promising.nonzero()[:, 0]
        at_once = max(1, _LOGITS_AT_ONCE // math.prod(self.crop_hw))
        found: list[Candidate] = []
        for start in range(0, len(indices), at_once):
            chunk = indices[start : start + at_once]
            logits = self.resize(low_res[chunk])  # (K, H, W) of the crop
            stability = _stability(logits, settings.stability_offset)
            tally.note_stability(stability.cpu().numpy(), settings.stability_threshold)
            stable = stability >= settings.stability_threshold
            masks = (logits[stable] > MASK_THRESHOLD).cpu().numpy()
            for index, score, mask in zip(chunk[stable].tolist(), stability[stable].tolist(), masks, strict=True):
                point = index // (len(low_res) // len(points))
                found.append(Candidate(point, float(predicted_iou[index]), score, mask))
        return found

    def _decode(self, points: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return the logits (3 B, h, w) and predicted IoU (3 B,) of points (B, 2), point by point."""
        xy = torch.as_tensor(points, dtype=torch.float32, device=self.decoder.device)[:, None]  # (B, 1, 2)
        xy = scale_coordinates(xy, self.crop_hw, self.prompt_size)
        labels = torch.ones(xy.shape[:2], dtype=torch.long, device=xy.device)
        low_res, predicted_iou = self.decoder.decode(points=(xy, labels), multimask=True, low_hw=self.resize.low_hw)
        return low_res.flatten(0, 1), predicted_iou.flatten()


@torch.inference_mode()
def _encode(model: EfficientViTSam, image: UInt8Image, crop: Box) -> Tensor:
    x0, y0, x1, y1 = crop
    x = preprocess(image[y0:y1, x0:x1], model.variant.input_size)
    return model.image_encoder(x.to(model.device))


def _stability(logits: Tensor, offset: float) -> Tensor:
    """Return (K,) the IoU of masks (K, H, W) with the threshold raised and lowered by `offset`; 0 if empty."""
    inner = (logits > MASK_THRESHOLD + offset).sum((1, 2), dtype=torch.int32)
    outer = (logits > MASK_THRESHOLD - offset).sum((1, 2), dtype=torch.int32)
    return inner.double() / outer.clamp(min=1)
