"""Answers to a request for masks: FP32's first, then each scheme's beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsam.app.catalogue import FP32, where
from quantsam.app.jobs import Job
from quantsam.app.limits import Limits
from quantsam.app.lru import Lru
from quantsam.app.pictures import Picture
from quantsam.app.quantized import QuantizedModel, QuantizedModels
from quantsam.data.dataset import BoolMask, UInt8Image
from quantsam.errors import QuantsamError
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.everything import FoundMask
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.segmenter import ModelSegmenter
from quantsam.prediction.tally import Tally
from quantsam.prediction.transforms import preprocess
from quantsam.progress import Progress
from quantsam.runtime.picture import Float32, PictureMask, PicturePrompts, agreements, segment_picture


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """What to segment and who shall do it.

    Attributes:
        token: Of the picture.
        model: Its name.
        schemes: To compare with FP32.
        engine: What runs all of them.
        prompts: What to segment; none means everything.
        grid: How everything is looked for.
    """

    token: str
    model: str
    schemes: tuple[str, ...]
    engine: str
    prompts: PicturePrompts
    grid: GridSettings


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """An embedding (1, C, h, w) and how long the encoder took for it."""

    embedding: Tensor
    encoder_ms: float


@dataclass(slots=True, eq=False)
class _TimedSegmenter:
    """A `Segmenter` of one encoded picture that notes what it takes beyond the encoder.

    Attributes:
        quantized: The model.
        encoded: The picture, by the model's encoder.
        most_masks: Of everything that is found so many stay: those of highest predicted IoU.
        decoder_ms: What all but the encoder took until now.
        left_out: How many masks of everything did not stay.
    """

    quantized: QuantizedModel
    encoded: _Encoded
    most_masks: int
    decoder_ms: float = 0.0
    left_out: int = 0
    _segmenter: ModelSegmenter = field(init=False)

    def __post_init__(self) -> None:
        embedding = self.encoded.embedding
        self._segmenter = ModelSegmenter(self.quantized.model.with_encoder(lambda _: embedding))

    def set_image(self, image: UInt8Image) -> None:
        """Take the encoded picture, whose pixels are not looked at again."""
        start = time.perf_counter()
        self._segmenter.set_embedding(self.encoded.embedding, (image.shape[0], image.shape[1]))
        self.decoder_ms += 1e3 * (time.perf_counter() - start)

    def best_masks(
        self, *, points: Float32 | None = None, labels: Float32 | None = None, boxes: Float32 | None = None
    ) -> tuple[NDArray[np.bool_], Float32]:
        """Return the best mask of each prompt, (B, H, W), and its predicted IoU (B,)."""
        start = time.perf_counter()
        answer = self._segmenter.best_masks(points=points, labels=labels, boxes=boxes)
        self.decoder_ms += 1e3 * (time.perf_counter() - start)
        return answer

    def segment_everything(
        self, image: UInt8Image, settings: GridSettings | None, progress: Progress | None, tally: Tally | None = None
    ) -> list[FoundMask]:
        """Find the masks of the picture without a prompt, at the resolution of `image`."""
        start = time.perf_counter()
        found = self._segmenter.segment_everything(image, settings, progress, tally)
        self.decoder_ms += 1e3 * (time.perf_counter() - start)
        self.left_out = max(0, len(found) - self.most_masks)
        return found[: self.most_masks]  # they come by descending predicted IoU


class Answers:
    """Answers requests, one at a time; to be used by one thread."""

    def __init__(self, models: QuantizedModels, limits: Limits) -> None:
        self._models, self._limits = models, limits
        self._encoded: Lru[tuple[str, str, str, str], _Encoded] = Lru(limits.embeddings, limits.embedding_bytes)

    def answer(self, request: MaskRequest, picture: Picture, job: Job) -> None:
        """Tell the job a panel for FP32 and for each scheme, in order.

        A scheme that cannot run gives a panel with an error; the others go on. Without FP32 there are none.

        Raises:
            AbandonedError: Nobody waits any more.
        """
        reference: list[PictureMask] | None = None
        for scheme in (FP32.name, *request.schemes):
            job.check()
            try:
                quantized = self._models.get(request.model, scheme, request.engine, job)
                encoded = self._encode(request, picture, scheme, quantized, job)
                segmenter = _TimedSegmenter(quantized, encoded, self._limits.masks)
                masks = self._masks(segmenter, request, picture, scheme, job)
            except QuantsamError as error:
                job.tell({"event": "panel", "name": scheme, "error": " ".join(str(error).split())})
                if reference is None:
                    return
                continue
            ious = None
            if reference is not None:
                steps = job.steps(f"comparing {scheme} with FP32, mask")
                ious = agreements(reference, masks, paired=not request.prompts.everything, progress=steps)
            reference = masks if reference is None else reference
            job.tell({"event": "panel", "name": scheme, **_panel(segmenter, masks, ious, picture)})

    def _encode(
        self, request: MaskRequest, picture: Picture, scheme: str, quantized: QuantizedModel, job: Job
    ) -> _Encoded:
        key = (request.token, request.model, scheme, request.engine)
        encoded = self._encoded.get(key)
        if encoded is None:
            job.status(f"encoding the picture with {scheme} {where(request.engine)}")
            encoded = _encode(quantized.model, picture)
            self._encoded.put(key, encoded, encoded.embedding.nbytes)
        return encoded

    def _masks(
        self, segmenter: _TimedSegmenter, request: MaskRequest, picture: Picture, scheme: str, job: Job
    ) -> list[PictureMask]:
        prompts, pixels = request.prompts, picture.pixels
        if prompts.everything:
            # At the view's resolution: hundreds of masks of a large picture would take seconds each. The
            # picture is encoded already, so only the height and width of this array matter.
            pixels = np.zeros((*picture.view_hw, 3), np.uint8)
        job.status(f"segmenting with {scheme}")
        steps = job.steps(f"segmenting everything with {scheme}, batch")
        masks = segment_picture(segmenter, pixels, prompts, grid=request.grid, progress=steps)
        if segmenter.left_out:
            job.status(f"{scheme} found {len(masks) + segmenter.left_out} masks; the best {len(masks)} are kept")
        return masks


@torch.inference_mode()
def _encode(model: EfficientViTSam, picture: Picture) -> _Encoded:
    x = preprocess(picture.pixels, model.variant.input_size).to(model.device)
    start = time.perf_counter()
    embedding = model.image_encoder(x)
    if embedding.is_cuda:
        torch.cuda.synchronize(embedding.device)
    return _Encoded(embedding, 1e3 * (time.perf_counter() - start))


def _panel(
    segmenter: _TimedSegmenter, masks: list[PictureMask], ious: list[float] | None, picture: Picture
) -> dict[str, Any]:
    return {
        "encoder_ms": segmenter.encoded.encoder_ms,
        "decoder_ms": segmenter.decoder_ms,
        "size_bytes": segmenter.quantized.size_bytes,
        "ious": ious,
        "left_out": segmenter.left_out,
        "masks": [
            {
                "runs": run_lengths(picture.to_view(mask.mask)),
                "area": mask.area,
                "predicted_iou": mask.predicted_iou,
            }
            for mask in masks
        ],
    }


def run_lengths(mask: BoolMask) -> list[int]:
    """Return the lengths of a mask's runs, row by row, the first one of False.

    >>> run_lengths(np.array([[False, True], [True, False]]))
    [1, 2, 1]
    >>> run_lengths(np.array([[True, True]]))
    [0, 2]
    """
    flat = np.concatenate([[False], mask.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return lengths
