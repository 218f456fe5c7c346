"""Answers to a request for masks: first FP32's masks, then each scheme's for comparison."""

from __future__ import annotations

import time

import torch

from quantsam.app.asked import MaskRequest, SaveRequest
from quantsam.app.candidates import Candidate, packed
from quantsam.app.catalogue import FP32, where
from quantsam.app.jobs import Job
from quantsam.app.limits import Limits
from quantsam.app.lru import Lru
from quantsam.app.panels import Answer, compared
from quantsam.app.pictures import Picture
from quantsam.app.quantized import QuantizedModel, QuantizedModels
from quantsam.app.segmenting import Encoded, Everything, Prompted, full_masks, segment_everything, segment_prompts
from quantsam.errors import InputError, QuantsamError
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.transforms import preprocess

_MASKS_A_PROMPT = 3


class Answers:
    """Answers requests, one at a time. Only one thread may use it."""

    def __init__(self, models: QuantizedModels, limits: Limits) -> None:
        self._models, self._limits = models, limits
        self._encoded: Lru[tuple[str, str, str, str], Encoded] = Lru(limits.embeddings, limits.embedding_bytes)
        self._found: Lru[tuple[str, str, str, str, GridSettings], Everything] = Lru(limits.found, limits.found_bytes)

    def answer(self, request: MaskRequest, picture: Picture, job: Job) -> None:
        """Send a panel for FP32 and for each scheme to the job, in order.

        A scheme that cannot run gives a panel with an error, and the others continue. If FP32 cannot run, there are no
        further panels.

        Raises:
            AbandonedError: Nobody waits for the job any more.
        """
        reference: Answer | None = None
        for scheme in (FP32.name, *request.schemes):
            job.check()
            try:
                answer = self._answer(request, scheme, picture, job)
            except QuantsamError as error:
                job.tell({"event": "panel", "name": scheme, "error": " ".join(str(error).split())})
                if reference is None:
                    return
                continue
            comparison = compared(reference, answer, scheme, job)
            reference = reference or answer
            job.tell({"event": "panel", "name": scheme, **answer.panel(picture), **comparison})

    def meant(self, request: SaveRequest, picture: Picture, job: Job) -> list[Candidate]:
        """Return the masks to save, at the image's resolution.

        Raises:
            AbandonedError: Nobody waits for the job any more.
            QuantsamError: The scheme cannot run, or there is no such object or mask.
        """
        encoded = self._encode(request.masks, picture, request.scheme, job)
        if not request.masks.prompts.everything:
            return full_masks(encoded, picture, request.masks.prompts, _meant(request), job.check)
        if request.numbers:
            raise InputError("numbers are of prompts, and everything was segmented: leave them out")
        masks = self._everything(request.masks, picture, request.scheme, encoded, job).masks()
        chosen = [masks[number] for number in _chosen(request, len(masks))]
        return [packed(picture.from_view(mask.mask), mask.predicted_iou) for mask in chosen]

    def _answer(self, request: MaskRequest, scheme: str, picture: Picture, job: Job) -> Answer:
        encoded = self._encode(request, picture, scheme, job)
        job.status(f"segmenting with {scheme}")
        segmented: Prompted | Everything
        if not request.prompts.everything:
            segmented = segment_prompts(encoded, picture, request.prompts, job.check)
            return Answer(encoded, segmented, [])
        segmented = self._everything(request, picture, scheme, encoded, job)
        if segmented.left_out:
            kept = len(segmented.found)
            job.status(f"{scheme} found {kept + segmented.left_out} masks; the best {kept} are kept")
        return Answer(encoded, segmented, segmented.masks())

    def _encode(self, request: MaskRequest, picture: Picture, scheme: str, job: Job) -> Encoded:
        quantized = self._models.get(request.model, scheme, request.engine, job)
        key = (request.token, request.model, scheme, request.engine)
        encoded = self._encoded.get(key)
        if encoded is None:
            job.status(f"encoding the image with {scheme} {where(request.engine)}")
            encoded = _encode(quantized, picture)
            self._encoded.put(key, encoded, encoded.embedding.nbytes)
        return encoded

    def _everything(
        self, request: MaskRequest, picture: Picture, scheme: str, encoded: Encoded, job: Job
    ) -> Everything:
        key = (request.token, request.model, scheme, request.engine, request.grid)
        everything = self._found.get(key)
        if everything is None:
            steps = job.steps(f"segmenting everything with {scheme}, batch")
            everything = segment_everything(encoded, picture, request.grid, self._limits.masks, steps)
            self._found.put(key, everything, everything.size_bytes)
        return everything


def _meant(request: SaveRequest) -> list[tuple[int, int | None]]:
    """Return which masks a request means: the number of each prompt, and the number of its mask."""
    prompts = request.masks.prompts
    count = 1 if prompts.points_xy else len(prompts.boxes_xyxy)
    numbers = request.numbers or (None,) * count
    if len(numbers) != count:
        raise InputError(f"there must be one number for each of {count} objects, got {len(numbers)}")
    for number in request.numbers:
        if number >= _MASKS_A_PROMPT:
            raise InputError(f"a prompt has masks 0 to {_MASKS_A_PROMPT - 1}, got {number}: choose one of them")
    return [(prompt, numbers[prompt]) for prompt in _chosen(request, count)]


def _chosen(request: SaveRequest, count: int) -> range:
    if request.chosen is None:
        return range(count)
    if request.chosen >= count:
        raise InputError(f"there are {count} objects, counted from 0, got {request.chosen}: choose one of them")
    return range(request.chosen, request.chosen + 1)


@torch.inference_mode()
def _encode(quantized: QuantizedModel, picture: Picture) -> Encoded:
    model = quantized.model
    x = preprocess(picture.pixels, model.variant.input_size).to(model.device)
    start = time.perf_counter()
    embedding = model.image_encoder(x)
    if embedding.is_cuda:
        torch.cuda.synchronize(embedding.device)
    return Encoded(model, embedding, 1e3 * (time.perf_counter() - start), quantized.size_bytes)
