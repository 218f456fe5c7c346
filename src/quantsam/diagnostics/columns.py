"""Compute the same embeddings in several ways in one pass over a dataset, and compare the masks per object."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from quantsam.data.dataset import Annotation, BoolMask, Dataset
from quantsam.engines.encoder import make_engine_encoder
from quantsam.engines.executed import executed
from quantsam.errors import DatasetError
from quantsam.evaluation.ahead import images_ahead
from quantsam.evaluation.evaluator import scored_annotations
from quantsam.evaluation.prompts import Prompt, answers
from quantsam.metrics.iou import mask_iou
from quantsam.metrics.summary import ObjectScore, PairedDifference, compare_paired
from quantsam.models.encoder import Encoder
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.prediction.predictor import Predictor
from quantsam.prediction.transforms import preprocess
from quantsam.progress import Progress
from quantsam.runtime.sessions import Executed
from quantsam.simulation.simulator import simulate

FLOAT, SIMULATED, EXACT, SATURATING, ENGINE = "fp32", "simulated", "exact", "saturating", "engine"


@dataclass(frozen=True, slots=True, eq=False)
class Deployed:
    """A plan and the engine that runs it."""

    plan: Plan
    engine: str

    @classmethod
    def of(cls, plan: Plan, engine: str | None = None) -> Deployed:
        """Return a plan on an engine; by default the engine of the plan's placement."""
        return cls(plan, engine or get_placement(plan.placement).engine)

    @property
    def place(self) -> str:
        """The placement's name; or the engine's name if the engine uses another engine's placement."""
        return self.plan.placement if get_placement(self.plan.placement).engine == self.engine else self.engine

    @property
    def name(self) -> str:
        """The name that the columns use."""
        return f"{self.plan.scheme}/{self.place}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two ways of computing the same masks, on the same objects.

    Attributes:
        gap: Points of mIoU, second minus first, paired.
        count: Number of objects.
        mask_iou_percent: Mean IoU between the two ways' masks, 0..100, over objects.
        identical_percent: Percentage of masks that are equal in every pixel.
    """

    gap: PairedDifference
    count: int
    mask_iou_percent: float
    identical_percent: float


@dataclass(slots=True)
class Column:
    """One way of computing embeddings, and its scores by prompt."""

    encoder: Encoder
    threads: int | None = None
    most_images: int | None = None
    scores: dict[str, list[ObjectScore]] = field(default_factory=dict)


@dataclass(slots=True)
class Meeting:
    """A comparison of two columns' masks, by prompt: their IoU per object."""

    first: str
    second: str
    ious: dict[str, list[float]] = field(default_factory=dict)


class Table:
    """All columns and meetings of one pass."""

    def __init__(self, model: EfficientViTSam, deployed: Sequence[Deployed], exact: bool, noise_images: int) -> None:
        self.predictor = Predictor(model)
        self.columns: dict[str, Column] = {FLOAT: Column(model.image_encoder)}
        self.meetings: dict[str, Meeting] = {}
        self.ran: dict[str, tuple[Executed, ...]] = {}
        for one in deployed:
            name, plan, target = one.name, one.plan, one.engine
            engine = make_engine_encoder(model, plan, target)
            simulated = simulate(model, plan)
            self.ran[name] = executed(engine.graph, engine.session)
            self.columns[f"{name}/{SIMULATED}"] = Column(simulated)
            self.columns[f"{name}/{ENGINE}"] = Column(engine)
            self._meet(f"{name}/", f"{name}/{SIMULATED}", f"{name}/{ENGINE}")
            if exact or noise_images:
                most = None if exact else noise_images
                self.columns[f"{name}/{EXACT}"] = Column(simulate(model, plan, exact=True), most_images=most)
                self._meet(f"{name}/rounding_", f"{name}/{SIMULATED}", f"{name}/{EXACT}")
            if exact:
                self._meet(f"{name}/exact_", f"{name}/{EXACT}", f"{name}/{ENGINE}")
            if exact and not engine.exact:
                self.columns[f"{name}/{SATURATING}"] = Column(simulate(model, plan, saturate=True))
                self._meet(f"{name}/saturating_", f"{name}/{SATURATING}", f"{name}/{ENGINE}")
            if noise_images:
                single = make_engine_encoder(model, plan, target, threads=1)
                self._noise(name, SIMULATED, Column(simulated, 1, noise_images))
                self._noise(name, ENGINE, Column(single, 1, noise_images))
        alike = [(a, b) for a, b in itertools.permutations(deployed, 2) if a.plan.scheme == b.plan.scheme]
        self.beside = {a.name: [b.place for first, b in alike if first is a] for a in deployed}
        for a, b in alike:
            self._meet(f"{a.name}/between_{b.place}_", f"{a.name}/{ENGINE}", f"{b.name}/{ENGINE}")

    def _meet(self, key: str, first: str, second: str) -> None:
        self.meetings[key] = Meeting(first, second)

    def _noise(self, name: str, way: str, column: Column) -> None:
        self.columns[f"{name}/{way} on one thread"] = column
        self._meet(f"{name}/threads_{way}_", f"{name}/{way}", f"{name}/{way} on one thread")

    def fill(self, dataset: Dataset, prompts: Sequence[Prompt], progress: Progress | None) -> None:
        """Compute every column on every image that has objects, and compare the masks."""
        objects = {image_id: scored_annotations(dataset, image_id) for image_id in dataset.image_ids}
        ids = [image_id for image_id, annotations in objects.items() if annotations]
        if not ids:
            raise DatasetError(
                f"dataset {dataset.name} must have an object to score, got none: an annotated area must be at least 1"
            )
        pictures = images_ahead(dataset, ids)
        for number, (image_id, picture) in enumerate(progress(pictures, len(ids)) if progress else pictures):
            annotations = objects[image_id]
            truths = [dataset.mask(a) for a in annotations]
            x = preprocess(picture, self.predictor.model.variant.input_size).to(self.predictor.device)
            masks: dict[tuple[str, str], list[BoolMask]] = {}
            for name, column in self.columns.items():
                if column.most_images is not None and number >= column.most_images:
                    continue
                with _threads(column.threads), torch.inference_mode():
                    self.predictor.set_embedding(column.encoder(x), (picture.shape[0], picture.shape[1]))
                for prompt in prompts:
                    masks[name, prompt.name] = self._score(column, prompt, annotations, truths)
            self._compare(masks, prompts)

    def _score(
        self, column: Column, prompt: Prompt, annotations: Sequence[Annotation], truths: Sequence[BoolMask]
    ) -> list[BoolMask]:
        """Answer a prompt for every object, keep the scores and return the masks."""
        scores = column.scores.setdefault(prompt.name, [])
        masks = []
        for annotation, truth, answer in zip(
            annotations, truths, answers(self.predictor, prompt, annotations, truths), strict=True
        ):
            iou = mask_iou(answer.mask, truth)
            scores.append(ObjectScore(annotation.image_id, annotation.id, annotation.area, iou, answer.predicted_iou))
            masks.append(answer.mask)
        return masks

    def _compare(self, masks: dict[tuple[str, str], list[BoolMask]], prompts: Sequence[Prompt]) -> None:
        for meeting, prompt in itertools.product(self.meetings.values(), prompts):
            first, second = masks.get((meeting.first, prompt.name)), masks.get((meeting.second, prompt.name))
            if first is not None and second is not None:
                found = meeting.ious.setdefault(prompt.name, [])
                found += [_same(a, b) for a, b in zip(first, second, strict=True)]

    def comparison(self, key: str, prompt: str) -> Comparison:
        """Return the result of a meeting."""
        meeting = self.meetings[key]
        ious = np.asarray(meeting.ious[prompt])
        first, second = (self.columns[name].scores[prompt][: len(ious)] for name in (meeting.first, meeting.second))
        return Comparison(
            compare_paired(first, second), len(ious), 100 * float(ious.mean()), 100 * float((ious == 1).mean())
        )


def _same(a: BoolMask, b: BoolMask) -> float:
    """Return the IoU of two answers; two empty masks agree."""
    return mask_iou(a, b) if a.any() or b.any() else 1.0


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads within the block."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
