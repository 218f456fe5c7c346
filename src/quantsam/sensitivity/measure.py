"""Measure many rows on an image at once: shared work is computed once, the rest on all cores."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor

from quantsam.data.dataset import Annotation, BoolMask, Dataset, UInt8Image
from quantsam.engines.encoder import make_engine_encoder
from quantsam.evaluation.evaluator import scored_annotations
from quantsam.evaluation.journal import Outcome
from quantsam.evaluation.prompts import Prompt, answers
from quantsam.metrics.iou import mask_iou
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import prepare
from quantsam.prediction.predictor import Predictor
from quantsam.prediction.transforms import preprocess
from quantsam.quant.kernels import threads_may_meet
from quantsam.quant.params import TensorSpec
from quantsam.runtime.engines import PYTORCH
from quantsam.sensitivity.rows import Row
from quantsam.simulation.simulator import assemble
from quantsam.simulation.steps import SharedEncoders

_Encoding = tuple[int, Callable[[], Tensor]]


class RowMeter:
    """Scores rows against FP32 and the ground truth, image by image.

    Rows run in parallel, each on one thread, because the operations of one image are too small to split well. The
    figures are therefore those of an evaluation on one thread, to the last bit.
    """

    def __init__(
        self,
        model: EfficientViTSam,
        base: Plan,
        rows: Sequence[Row],
        *,
        engine: str = PYTORCH,
        prompt: Prompt,
        workers: int | None = None,
    ) -> None:
        """Prepare all rows.

        Args:
            model: The float model.
            base: The plan from which all rows differ in a few modules: without sites, or with all sites.
            rows: Rows of plans calibrated for this model.
            engine: Engine that runs the rows.
            prompt: Kind of prompts.
            workers: Number of rows to compute in parallel; None for the number of processors.
        """
        self._model, self._rows, self._prompt = model, list(rows), prompt
        self._device = model.device
        self._local = threading.local()
        self._encodings: Callable[[Tensor, Sequence[int]], Iterator[_Encoding]]
        for row in rows[:1]:
            row.plan.check_fits(model)
        if engine == PYTORCH:
            prepared = prepare(model, base)
            rounded: dict[tuple[str, TensorSpec], Tensor] = {}
            whole = assemble(prepared, base, rounded=rounded)
            variants = [(assemble(prepared, row.plan, rounded=rounded), row.paths) for row in rows]
            self._encodings = SharedEncoders(whole, variants).tasks
        else:
            encoders = [make_engine_encoder(model, row.plan, engine, threads=1) for row in rows]
            self._encodings = lambda x, wanted: ((i, lambda i=i: encoders[i](x)) for i in wanted)  # type: ignore[misc]
        self._together = self._device.type == "cpu" and threads_may_meet()
        self._workers = (workers or os.cpu_count() or 1) if self._together else 1
        self._pool = ThreadPoolExecutor(
            self._workers, "quantsam-rows", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measure(self, dataset: Dataset, image_id: int, picture: UInt8Image, wanted: Sequence[int]) -> Outcome:
        """Measure some rows on an image.

        Returns:
            `image_id`; `objects`: each object's id, area and IoU in FP32; `signal`: energy of FP32's embedding; `rows`,
            by name: energy of the difference, and each object's IoU with the ground truth and with FP32's mask.
        """
        objects = scored_annotations(dataset, image_id)
        outcome: Outcome = {"image_id": image_id, "objects": [], "signal": 0.0, "rows": {}}
        if not objects:
            return outcome
        truths = [dataset.mask(a) for a in objects]
        with one_thread(), torch.inference_mode():
            x = preprocess(picture, self._model.variant.input_size).to(self._device)
            embedding = self._model.image_encoder(x)
            reference = self._masks(embedding, objects, truths)
            ious = [mask_iou(mask, truth) for mask, truth in zip(reference, truths, strict=True)]
            outcome["objects"] = [[a.id, a.area, iou] for a, iou in zip(objects, ious, strict=True)]
            outcome["signal"] = float(embedding.double().square().sum())
            waiting: deque[tuple[int, Future[list[Any]]]] = deque()
            for index, encode in self._encodings(x, wanted):
                if index < 0:
                    continue
                if self._together:
                    future = self._pool.submit(self._row, encode, embedding, reference, objects, truths)
                else:  # not even in parallel with the base, which this thread computes
                    future = Future()
                    future.set_result(self._row(encode, embedding, reference, objects, truths))
                waiting.append((index, future))
                if len(waiting) > 2 * self._workers:
                    self._take(outcome, waiting)
            while waiting:
                self._take(outcome, waiting)
        return outcome

    def _take(self, outcome: Outcome, waiting: deque[tuple[int, Future[list[Any]]]]) -> None:
        index, future = waiting.popleft()
        outcome["rows"][self._rows[index].name] = future.result()

    @torch.inference_mode()
    def _row(
        self,
        encode: Callable[[], Tensor],
        expected: Tensor,
        reference: Sequence[BoolMask],
        objects: Sequence[Annotation],
        truths: Sequence[BoolMask],
    ) -> list[Any]:
        embedding = encode()
        noise = float((embedding - expected).double().square().sum())
        masks = self._masks(embedding, objects, truths)
        ious = [mask_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
        same = [mask_iou(a, b) if a.any() or b.any() else 1.0 for a, b in zip(masks, reference, strict=True)]
        return [noise, ious, same]

    def _masks(self, embedding: Tensor, objects: Sequence[Annotation], truths: Sequence[BoolMask]) -> list[BoolMask]:
        predictor = getattr(self._local, "predictor", None)
        if predictor is None:
            predictor = self._local.predictor = Predictor(self._model)
        predictor.set_embedding(embedding, (truths[0].shape[0], truths[0].shape[1]))
        return [answer.mask for answer in answers(predictor, self._prompt, objects, truths)]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Make PyTorch use one thread within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
