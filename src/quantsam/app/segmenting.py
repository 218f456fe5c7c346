"""Masks of one encoded picture, by prompts or of everything in it, and how long they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from quantsam.app.candidates import ObjectMasks, packed
from quantsam.app.pictures import Picture
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.everything import FoundMask
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.segmenter import Float32, ModelSegmenter
from quantsam.progress import Progress
from quantsam.runtime.picture import PictureMask, PicturePrompts


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An embedding (1, C, h, w) and how long the encoder took for it."""

    embedding: Tensor
    encoder_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class Prompted:
    """Masks of prompts, each with its candidates; `decoder_ms` is without the masks that are not the best."""

    objects: tuple[ObjectMasks, ...]
    decoder_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class Everything:
    """What was found without a prompt, at the view's resolution, by descending predicted IoU.

    Attributes:
        found: The masks, compressed.
        left_out: How many more there were.
        decoder_ms: What all but the encoder took.
    """

    found: tuple[FoundMask, ...]
    left_out: int
    decoder_ms: float

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return sum(500 + len(mask.rle["counts"]) for mask in self.found)

    def masks(self) -> list[PictureMask]:
        """Return the masks, unpacked."""
        return [PictureMask(m.mask(), m.area, m.box_xyxy, m.predicted_iou, found=m) for m in self.found]


def segment_prompts(
    model: EfficientViTSam, encoded: Encoded, picture: Picture, prompts: PicturePrompts, check: Callable[[], None]
) -> Prompted:
    """Return the three masks of each prompt.

    Args:
        model: Decodes.
        encoded: The picture, by the model's encoder.
        picture: The same.
        prompts: Checked, and not empty.
        check: Called before each prompt's masks; raises if nobody waits any more.
    """
    start = time.perf_counter()
    segmenter = _segmenter(model, encoded)
    segmenter.set_embedding(encoded.embedding, picture.image_hw)
    found = segmenter.candidates(**_arrays(prompts.within(picture.image_hw)))
    decoder_ms = 1e3 * (time.perf_counter() - start)
    objects = []
    for prompt, ious in enumerate(found.predicted_iou.tolist()):
        check()
        best = int(np.argmax(ious))
        candidates = []
        for number, iou in enumerate(ious):
            start = time.perf_counter()
            mask = found.mask(prompt, number)
            decoder_ms += 1e3 * (time.perf_counter() - start) if number == best else 0.0
            candidates.append(packed(mask, iou))
        objects.append(ObjectMasks(tuple(candidates)))
    return Prompted(tuple(objects), decoder_ms)


def segment_everything(
    model: EfficientViTSam,
    encoded: Encoded,
    picture: Picture,
    grid: GridSettings,
    most: int,
    progress: Progress,
) -> Everything:
    """Find the masks of a picture without a prompt, and keep at most so many: those of highest predicted IoU.

    They are found at the view's resolution: hundreds of masks of a large picture would take seconds each.
    """
    # the picture is encoded already, so only the height and width of this array matter
    pixels = np.zeros((*picture.view_hw, 3), np.uint8)
    start = time.perf_counter()
    found = _segmenter(model, encoded).segment_everything(pixels, grid, progress)
    decoder_ms = 1e3 * (time.perf_counter() - start)
    return Everything(tuple(found[:most]), max(0, len(found) - most), decoder_ms)


def _segmenter(model: EfficientViTSam, encoded: Encoded) -> ModelSegmenter:
    return ModelSegmenter(model.with_encoder(lambda _: encoded.embedding))


def _arrays(prompts: PicturePrompts) -> dict[str, Float32 | None]:
    """Return prompts as a batch: all points together are one prompt, boxes alone are one each."""
    boxes = np.asarray(prompts.boxes_xyxy, np.float32) if prompts.boxes_xyxy else None
    if not prompts.points_xy:
        return {"boxes": boxes}
    points, labels = (np.asarray([values], np.float32) for values in (prompts.points_xy, prompts.labels))
    return {"points": points, "labels": labels, "boxes": boxes}
