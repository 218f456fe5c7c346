"""What does the work of a sweep: pictures of points, studies, parts of calibrations; in this process or in another."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from quantsam.data.dataset import Dataset
from quantsam.data.open import ImageSource, open_dataset, open_images
from quantsam.engines.encoder import make_engine_encoder
from quantsam.evaluation.detector import open_detections
from quantsam.evaluation.evaluator import Evaluation
from quantsam.evaluation.journal import Outcome, Outcomes
from quantsam.models.sam import EfficientViTSam
from quantsam.models.zoo import load_model
from quantsam.plans.calibration import Observations
from quantsam.plans.plan import Plan
from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore
from quantsam.sensitivity.study import StudySettings, study
from quantsam.simulation.simulator import simulate
from quantsam.sweeps.point import Point

T = TypeVar("T")


_KEPT = {"model": 1, "dataset": 4, "images": 2}


class Shelf:
    """Models and data that several threads share; the last few used are kept."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kept: dict[str, dict[Any, Any]] = {kind: {} for kind in _KEPT}

    def _get(self, kind: str, key: Any, make: Callable[[], T]) -> T:
        with self._lock:
            kept = self._kept[kind]
            found: T | None = kept.pop(key, None)
            while found is None and len(kept) >= _KEPT[kind]:
                kept.pop(next(iter(kept)))  # the one not used for longest, before the new one takes memory
            found = make() if found is None else found
            kept[key] = found
            return found

    def model(self, point: Point) -> EfficientViTSam:
        """Return a point's model, in float."""
        key = (point.model, point.weights, point.device)
        return self._get("model", key, lambda: load_model(point.model, point.weights, device=point.device))

    def dataset(self, point: Point) -> Dataset:
        """Return what a point is scored on."""
        key = (point.data, point.annotations, point.image_root, point.images, point.seed)

        def make() -> Dataset:
            return open_dataset(
                point.data,
                annotations=point.annotations,
                images=point.image_root,
                limit=point.images,
                seed=point.seed,
            )

        return self._get("dataset", key, make)

    def images(self, point: Point) -> ImageSource:
        """Return what a point is calibrated on."""
        key = (point.calibrated_on, point.limit, point.seed)
        return self._get("images", key, lambda: open_images(key[0], limit=point.limit, seed=point.seed))


class Worker:
    """Does parts of points. Each thread or process has its own; the shelf may be shared by threads."""

    def __init__(self, shelf: Shelf | None = None, *, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._shelf = shelf or Shelf()
        self._evaluation: tuple[Any, Evaluation] | None = None

    def observe(self, point: Point, plan: Plan, start: int, stop: int) -> Observations:
        """Show images `start` to `stop` of a point's calibration data to a plan's observers."""
        images = self._shelf.images(point)
        return plan.bind(self._shelf.model(point)).observe([images[index] for index in range(start, stop)])

    def score(self, point: Point, plan: Plan, image_ids: Sequence[int]) -> list[Outcome]:
        """Score some pictures of a point."""
        return list(self._evaluate(point, plan).run(image_ids))

    def finish(
        self,
        point: Point,
        plan: Plan,
        outcomes: Sequence[Outcome],
        record_id: str,
        settings: dict[str, JsonValue],
    ) -> Record:
        """Make the record of a point of all its outcomes."""
        kept = Outcomes()
        for outcome in outcomes:
            kept.append(outcome)
        return self._evaluate(point, plan).record(kept, record_id=record_id, settings=settings)

    def study(
        self, point: Point, plan: Plan, record_id: str, notes: dict[str, JsonValue], store: ResultStore | None
    ) -> Record:
        """Do a sensitivity study; its record is appended if a store is given."""
        settings = StudySettings(
            point.by, point.mode, point.part, point.method, point.prompts, point.engine, point.first, seed=point.seed
        )
        model, dataset = self._shelf.model(point), self._shelf.dataset(point)
        return study(model, plan.bind(model), dataset, settings, store=store, notes=notes, record_id=record_id)

    def _evaluate(self, point: Point, plan: Plan) -> Evaluation:
        key = (point, plan.digest)
        if self._evaluation is None or self._evaluation[0] != key:
            self._evaluation = None  # before the next one takes its memory
            model, dataset = self._shelf.model(point), self._shelf.dataset(point)
            subject = model
            if point.engine != "pytorch":
                precision: Any = point.precision
                subject = model.with_encoder(
                    make_engine_encoder(model, plan.bind(model), point.engine, precision=precision)
                )
            elif plan.sites:
                subject = model.with_encoder(simulate(model, plan.bind(model)))
            detections = None if point.detections is None else open_detections(point.detections, dataset)
            self._evaluation = (key, Evaluation(subject, dataset, prompts=point.prompts, detections=detections))
        return self._evaluation[1]


def portable(plan: Plan) -> Plan:
    """Return a plan without its encoder, to be sent and bound anew."""
    return dataclasses.replace(plan, encoder=None)
