"""Masks of one encoded image, for prompts or for everything in it, and the time they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from quantsam.app.candidates import Candidate, ObjectMasks, packed
from quantsam.app.pictures import Picture
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.everything import FoundMask
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.predictor import CandidateMasks
from quantsam.prediction.segmenter import Float32, ModelSegmenter
from quantsam.progress import Progress
from quantsam.runtime.picture import PictureMask, PicturePrompts


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An encoded image.

    Attributes:
        model: Model with this encoder.
        embedding: (1, C, h, w).
        encoder_ms: Time of the encoder.
        size_bytes: Size of the encoder's weights.
    """

    model: EfficientViTSam
    embedding: Tensor
    encoder_ms: float
    size_bytes: int

    def segmenter(self) -> ModelSegmenter:
        """Return a segmenter that answers prompts and does not read the image's pixels again."""
        return ModelSegmenter(self.model.with_encoder(lambda _: self.embedding))


@dataclass(frozen=True, slots=True, eq=False)
class Prompted:
    """Masks of prompts.

    Attributes:
        objects: The three masks of each prompt.
        decoder_ms: Time of everything except the encoder, for the best masks only.
    """

    objects: tuple[ObjectMasks, ...]
    decoder_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class Everything:
    """Masks that were found without a prompt, at the view's resolution, by descending predicted IoU.

    Attributes:
        found: Compressed masks.
        left_out: Number of masks that were left out.
        decoder_ms: Time of everything except the encoder.
    """

    found: tuple[FoundMask, ...]
    left_out: int
    decoder_ms: float

    @property
    def size_bytes(self) -> int:
        """Approximate size in memory."""
        return sum(500 + len(mask.rle["counts"]) for mask in self.found)

    def masks(self) -> list[PictureMask]:
        """Return the masks, unpacked."""
        return [PictureMask(m.mask(), m.area, m.box_xyxy, m.predicted_iou, found=m) for m in self.found]


def segment_prompts(encoded: Encoded, picture: Picture, prompts: PicturePrompts, check: Callable[[], None]) -> Prompted:
    """Return the three masks of each prompt.

    Args:
        encoded: The encoded image.
        picture: The same image.
        prompts: Checked prompts; not empty.
        check: Called before each prompt's masks; raises an error if nobody waits any more.
    """
    start = time.perf_counter()
    full = _decoded(encoded, picture, prompts)
    decoder_ms = 1e3 * (time.perf_counter() - start)
    view = full.sampled(*picture.view_centres)
    objects = []
    for prompt, ious in enumerate(full.predicted_iou.tolist()):
        check()
        best = int(np.argmax(ious))
        start = time.perf_counter()
        mask = full.mask(prompt, best)
        decoder_ms += 1e3 * (time.perf_counter() - start)
        shown = [picture.to_view(mask) if number == best else view.mask(prompt, number) for number in range(len(ious))]
        candidates = tuple(packed(*pair) for pair in zip(shown, ious, strict=True))
        objects.append(ObjectMasks(candidates, best, packed(mask, ious[best])))
    return Prompted(tuple(objects), decoder_ms)


def full_masks(
    encoded: Encoded,
    picture: Picture,
    prompts: PicturePrompts,
    meant: Iterable[tuple[int, int | None]],
    check: Callable[[], None],
) -> list[Candidate]:
    """Return some masks at the image's resolution.

    Args:
        encoded: The encoded image.
        picture: The same image.
        prompts: Checked prompts; not empty.
        meant: For each mask, the number of the prompt and the number of the mask; None is the best mask.
        check: Called before each mask; raises an error if nobody waits any more.
    """
    found = _decoded(encoded, picture, prompts)
    masks = []
    for prompt, number in meant:
        check()
        ious = found.predicted_iou[prompt].tolist()
        number = int(np.argmax(ious)) if number is None else number
        masks.append(packed(found.mask(prompt, number), ious[number]))
    return masks


def segment_everything(
    encoded: Encoded, picture: Picture, grid: GridSettings, most: int, progress: Progress
) -> Everything:
    """Find the masks of an image without a prompt, and keep at most `most` masks of highest predicted IoU.

    Masks are found at the view's resolution, because hundreds of masks of a large image would take seconds each.
    """
    # the image is encoded already, so only the height and width of this array matter
    pixels = np.zeros((*picture.view_hw, 3), np.uint8)
    start = time.perf_counter()
    found = encoded.segmenter().segment_everything(pixels, grid, progress)
    decoder_ms = 1e3 * (time.perf_counter() - start)
    return Everything(tuple(found[:most]), max(0, len(found) - most), decoder_ms)


def _decoded(encoded: Encoded, picture: Picture, prompts: PicturePrompts) -> CandidateMasks:
    segmenter = encoded.segmenter()
    segmenter.set_embedding(encoded.embedding, picture.image_hw)
    return segmenter.candidates(**_arrays(prompts.within(picture.image_hw)))


def _arrays(prompts: PicturePrompts) -> dict[str, Float32 | None]:
    """Return prompts as a batch: all points together are one prompt; without points, each box is one prompt."""
    boxes = np.asarray(prompts.boxes_xyxy, np.float32) if prompts.boxes_xyxy else None
    if not prompts.points_xy:
        return {"boxes": boxes}
    points, labels = (np.asarray([values], np.float32) for values in (prompts.points_xy, prompts.labels))
    return {"points": points, "labels": labels, "boxes": boxes}
