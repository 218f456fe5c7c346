"""The workers of a sweep: they score images, do studies and observe calibration images, in this process or another."""

from __future__ import annotations

import dataclasses
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from quantsam.data.dataset import Dataset
from quantsam.data.open import ImageSource
from quantsam.errors import InputError
from quantsam.evaluation.detector import open_detections
from quantsam.evaluation.evaluator import Evaluation
from quantsam.evaluation.journal import Outcome, Outcomes
from quantsam.evaluation.quantized import quantized_model
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.calibration import observe
from quantsam.plans.observation import Observations
from quantsam.plans.plan import Plan
from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore
from quantsam.runs.run import open_calibration, open_data, open_model
from quantsam.runtime.engines import surroundings
from quantsam.sensitivity.study import StudySettings, measure_sensitivity
from quantsam.sweeps.point import Point

T = TypeVar("T")


_KEPT = {"model": 1, "dataset": 4, "images": 2}


class Shelf:
    """Models and data that several threads share; the most recently used are kept."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kept: dict[str, dict[Any, Any]] = {kind: {} for kind in _KEPT}

    def _get(self, kind: str, key: Any, make: Callable[[], T]) -> T:
        with self._lock:
            kept = self._kept[kind]
            found: T | None = kept.pop(key, None)
            while found is None and len(kept) >= _KEPT[kind]:
                kept.pop(next(iter(kept)))  # the least recently used, before the new one takes memory
            found = make() if found is None else found
            kept[key] = found
            return found

    def model(self, point: Point) -> EfficientViTSam:
        """Return a point's float model."""
        return self._get("model", point.model_source, lambda: open_model(point.model_source))

    def dataset(self, point: Point) -> Dataset:
        """Return the dataset that a point is scored on."""
        return self._get("dataset", point.data_source, lambda: open_data(point.data_source))

    def images(self, point: Point) -> ImageSource:
        """Return a point's calibration images."""
        source = dataclasses.replace(point.calibration_source, spec=point.calibration_source.spec_for(point.model))
        return self._get("images", source, lambda: open_calibration(source, point.model))


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A point as workers get it.

    Attributes:
        point: The point.
        plan: The point's plan, without the encoder. It is calibrated, except for observing calibration images.
        expected: What the point's identity was made of: digests of `weights`, `dataset`, `calibration` and
            `detections`, and the version of each package. A worker that has something else refuses the job.
    """

    point: Point
    plan: Plan
    expected: Mapping[str, str]


class Worker:
    """Does parts of points. Each thread or process has its own worker; threads may share the shelf."""

    def __init__(
        self, shelf: Shelf | None = None, *, threads: int = 1, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Set the number of threads.

        Args:
            shelf: Models and data; the worker's own if None.
            threads: Number of threads of this worker.
            stopped: Returns whether to give up; called between images.
        """
        torch.set_num_threads(threads)
        self._shelf, self._threads, self._stopped = shelf or Shelf(), threads, stopped
        self._evaluation: tuple[Any, Evaluation] | None = None

    def ping(self) -> bool:
        """Answer, to show that the worker is ready."""
        return True

    def observe(self, job: Job, start: int, stop: int) -> Observations:
        """Show images `start` to `stop` of a point's calibration data to a plan's observers."""
        images = self._shelf.images(job.point)
        _same(f"calibration images {images.name}", images.digest, job.expected["calibration"])
        pictures = (images[index] for index in range(start, stop))
        return observe(self._model(job), job.plan, self._until_stopped(pictures))

    def score(self, job: Job, image_ids: Sequence[int]) -> list[Outcome]:
        """Score some images of a point."""
        return list(self._until_stopped(self._evaluate(job).run(image_ids)))

    def finish(self, job: Job, outcomes: Sequence[Outcome], record_id: str, settings: dict[str, JsonValue]) -> Record:
        """Make a point's record from all its outcomes."""
        kept = Outcomes()
        for outcome in outcomes:
            kept.append(outcome)
        return self._evaluate(job).record(kept, record_id=record_id, settings=settings)

    def study(self, job: Job, record_id: str, notes: dict[str, JsonValue], store: ResultStore | None) -> Record:
        """Do a sensitivity study. With a store, the study can be resumed, and its record is appended."""
        model, dataset = self._model(job), self._dataset(job)
        return measure_sensitivity(
            model,
            job.plan,
            dataset,
            study_settings(job.point),
            store=store,
            progress=lambda label: lambda pictures, total: self._until_stopped(pictures),
            notes=notes,
            record_id=record_id,
            workers=self._threads,
        )

    def _evaluate(self, job: Job) -> Evaluation:
        point, plan = job.point, job.plan
        key = (point, plan.digest)
        if self._evaluation is None or self._evaluation[0] != key:
            self._evaluation = None  # free its memory before the next one is made
            model, dataset = self._model(job), self._dataset(job)
            precision: Any = point.precision
            quantized = quantized_model(model, plan, point.engine, precision)
            detections = None if point.detections is None else open_detections(point.detections, dataset)
            if detections is not None:
                _same("detections", detections.digest, job.expected["detections"])
            self._evaluation = (key, Evaluation(quantized, dataset, prompts=point.prompts, detections=detections))
        return self._evaluation[1]

    def _model(self, job: Job) -> EfficientViTSam:
        model = self._shelf.model(job.point)
        _same("weights", model.weights_digest(), job.expected["weights"])
        for name, version in versions(job.point).items():
            _same(name, version, job.expected[name])
        return model

    def _dataset(self, job: Job) -> Dataset:
        dataset = self._shelf.dataset(job.point)
        _same(f"data {dataset.name}", dataset.digest, job.expected["dataset"])
        return dataset

    def _until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self._stopped():
                raise CancelledError
            yield item


def versions(point: Point) -> dict[str, str]:
    """Return the versions of the packages that a point's numbers depend on."""
    found = surroundings(point.engine)
    names = ("quantsam", "torch", "numpy", point.engine)
    return {name: version for name, version in found.items() if name in names}


def study_settings(point: Point) -> StudySettings:
    """Return the study settings of a point of kind `sensitivity`."""
    return StudySettings(
        point.by, point.mode, point.part, point.method, point.prompts, point.engine, point.first, seed=point.seed
    )


def _same(what: str, mine: str, expected: str) -> None:
    if mine != expected:
        raise InputError(
            f"all workers must have the same {what}, got {mine[:12]} on {platform.node()} and {expected[:12]} where "
            "the sweep was started: install and copy the same everywhere"
        )
