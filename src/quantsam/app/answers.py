"""Answers to a request for masks: FP32's first, then each scheme's beside it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quantsam.app.candidates import Candidate, ObjectMasks, iou_table
from quantsam.app.catalogue import FP32, where
from quantsam.app.jobs import Job
from quantsam.app.limits import Limits
from quantsam.app.lru import Lru
from quantsam.app.pictures import Picture
from quantsam.app.quantized import QuantizedModel, QuantizedModels
from quantsam.app.segmenting import Encoded, Everything, Prompted, segment_everything, segment_prompts
from quantsam.data.dataset import BoolMask
from quantsam.errors import QuantsamError
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.transforms import preprocess
from quantsam.runtime.picture import PictureMask, PicturePrompts, agreements


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


class Answers:
    """Answers requests, one at a time; to be used by one thread."""

    def __init__(self, models: QuantizedModels, limits: Limits) -> None:
        self._models, self._limits = models, limits
        self._encoded: Lru[tuple[str, str, str, str], Encoded] = Lru(limits.embeddings, limits.embedding_bytes)
        self._found: Lru[tuple[str, str, str, str, GridSettings], Everything] = Lru(limits.found, limits.found_bytes)

    def answer(self, request: MaskRequest, picture: Picture, job: Job) -> None:
        """Tell the job a panel for FP32 and for each scheme, in order.

        A scheme that cannot run gives a panel with an error; the others go on. Without FP32 there are none.

        Raises:
            AbandonedError: Nobody waits any more.
        """
        reference: Answer | None = None
        for scheme in (FP32.name, *request.schemes):
            job.check()
            try:
                answer = self.segment(request, scheme, picture, job)
            except QuantsamError as error:
                job.tell({"event": "panel", "name": scheme, "error": " ".join(str(error).split())})
                if reference is None:
                    return
                continue
            compared = _compared(reference, answer, scheme, job)
            reference = reference or answer
            job.tell({"event": "panel", "name": scheme, **answer.panel(picture), **compared})

    def segment(self, request: MaskRequest, scheme: str, picture: Picture, job: Job) -> Answer:
        """Return the masks of FP32 or a scheme.

        Raises:
            AbandonedError: Nobody waits any more.
            QuantsamError: The scheme cannot run.
        """
        quantized = self._models.get(request.model, scheme, request.engine, job)
        encoded = self._encode(request, picture, scheme, quantized, job)
        segmented = self._segment(request, picture, scheme, quantized, encoded, job)
        found = None
        if isinstance(segmented, Everything):
            found = segmented.masks()
            if segmented.left_out:
                count, kept = len(found) + segmented.left_out, len(found)
                job.status(f"{scheme} found {count} masks; the best {kept} are kept")
        return Answer(encoded.encoder_ms, quantized.size_bytes, segmented, found)

    def _encode(
        self, request: MaskRequest, picture: Picture, scheme: str, quantized: QuantizedModel, job: Job
    ) -> Encoded:
        key = (request.token, request.model, scheme, request.engine)
        encoded = self._encoded.get(key)
        if encoded is None:
            job.status(f"encoding the picture with {scheme} {where(request.engine)}")
            encoded = _encode(quantized.model, picture)
            self._encoded.put(key, encoded, encoded.embedding.nbytes)
        return encoded

    def _segment(
        self,
        request: MaskRequest,
        picture: Picture,
        scheme: str,
        quantized: QuantizedModel,
        encoded: Encoded,
        job: Job,
    ) -> Prompted | Everything:
        job.status(f"segmenting with {scheme}")
        if not request.prompts.everything:
            return segment_prompts(quantized.model, encoded, picture, request.prompts, job.check)
        key = (request.token, request.model, scheme, request.engine, request.grid)
        everything = self._found.get(key)
        if everything is None:
            steps = job.steps(f"segmenting everything with {scheme}, batch")
            everything = segment_everything(quantized.model, encoded, picture, request.grid, self._limits.masks, steps)
            self._found.put(key, everything, everything.size_bytes)
        return everything


@torch.inference_mode()
def _encode(model: EfficientViTSam, picture: Picture) -> Encoded:
    x = preprocess(picture.pixels, model.variant.input_size).to(model.device)
    start = time.perf_counter()
    embedding = model.image_encoder(x)
    if embedding.is_cuda:
        torch.cuda.synchronize(embedding.device)
    return Encoded(embedding, 1e3 * (time.perf_counter() - start))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """FP32's masks or a scheme's.

    Attributes:
        encoder_ms: What the encoder took.
        size_bytes: Of the encoder's weights.
        segmented: The masks.
        found: Those of everything, unpacked.
    """

    encoder_ms: float
    size_bytes: int
    segmented: Prompted | Everything
    found: list[PictureMask] | None

    def panel(self, picture: Picture) -> dict[str, Any]:
        """Return what the page is told, but for the comparison with FP32."""
        segmented = self.segmented
        if isinstance(segmented, Prompted):
            masks = [_prompted(masks, picture) for masks in segmented.objects]
        else:
            masks = [_mask(mask.mask, mask.area, mask.predicted_iou, picture) for mask in self.found or ()]
        return {
            "encoder_ms": self.encoder_ms,
            "decoder_ms": segmented.decoder_ms,
            "size_bytes": self.size_bytes,
            "left_out": 0 if isinstance(segmented, Prompted) else segmented.left_out,
            "masks": masks,
        }


def _compared(reference: Answer | None, answer: Answer, scheme: str, job: Job) -> dict[str, Any]:
    """Return the IoU of FP32's masks with a scheme's: of the best ones, and of all candidates in tables."""
    if reference is None:
        return {"ious": None, "iou_tables": None}
    steps = job.steps(f"comparing {scheme} with FP32, mask")
    fp32, own = reference.segmented, answer.segmented
    if isinstance(fp32, Prompted) and isinstance(own, Prompted):
        pairs = list(zip(fp32.objects, own.objects, strict=True))
        tables = [iou_table(*pair) for pair in steps(pairs, len(pairs))]
        best = [table[a.best][b.best] for (a, b), table in zip(pairs, tables, strict=True)]
        return {"ious": best, "iou_tables": tables}
    ious = agreements(reference.found or [], answer.found or [], paired=False, progress=steps)
    return {"ious": ious, "iou_tables": None}


def _prompted(masks: ObjectMasks, picture: Picture) -> dict[str, Any]:
    """Return the best mask, and under `others` the other ones; `number` is the model's output."""

    def shown(number: int) -> dict[str, Any]:
        candidate: Candidate = masks.candidates[number]
        return {"number": number, **_mask(candidate.mask(), candidate.area, candidate.predicted_iou, picture)}

    others = [shown(number) for number in range(len(masks.candidates)) if number != masks.best]
    return {**shown(masks.best), "others": others}


def _mask(mask: BoolMask, area: int, predicted_iou: float, picture: Picture) -> dict[str, Any]:
    return {"runs": run_lengths(picture.to_view(mask)), "area": area, "predicted_iou": predicted_iou}


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
