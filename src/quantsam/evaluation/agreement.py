"""Does an engine give the accuracy that the simulation promised? Both on the same objects, mask by mask."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from quantsam.data.dataset import Annotation, BoolMask, Dataset
from quantsam.engines.encoder import EngineEncoder, make_engine_encoder
from quantsam.engines.executed import Executed, executed, quantized_but_float
from quantsam.errors import DatasetError, InputError
from quantsam.evaluation.ahead import images_ahead
from quantsam.evaluation.evaluator import scored_annotations
from quantsam.evaluation.prompts import Prompt, answers, parse_prompt
from quantsam.evaluation.runner import Progress
from quantsam.evaluation.subject import exactness, plan_fields, sizes
from quantsam.metrics.iou import mask_iou
from quantsam.metrics.summary import ObjectScore, PairedDifference, compare_paired
from quantsam.models.encoder import Encoder
from quantsam.models.predictor import Predictor
from quantsam.models.sam import EfficientViTSam
from quantsam.models.transforms import preprocess
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.results.machine import environment
from quantsam.results.record import JsonValue, Record
from quantsam.results.store import ResultStore
from quantsam.simulation.simulator import simulate

FLOAT, SIMULATED, EXACT, SATURATING, ENGINE = "fp32", "simulated", "exact", "saturating", "engine"
_CONFIDENCE_95 = 1.96


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two ways of computing the same masks, on the same objects.

    Attributes:
        gap: Points of mIoU, second less first, paired.
        count: Objects.
        mask_iou_percent: Mean IoU of the masks of the two, 0..100, over objects.
        identical_percent: Of the masks, those equal in every pixel.
    """

    gap: PairedDifference
    count: int
    mask_iou_percent: float
    identical_percent: float


@dataclass(slots=True)
class _Column:
    """One way of computing embeddings, and what came of it, by prompt."""

    encoder: Encoder
    threads: int | None = None
    most_images: int | None = None
    scores: dict[str, list[ObjectScore]] = field(default_factory=dict)


@dataclass(slots=True)
class _Meeting:
    """The masks of two columns compared, by prompt: their IoU, object by object."""

    first: str
    second: str
    ious: dict[str, list[float]] = field(default_factory=dict)


def agree(
    model: EfficientViTSam,
    plans: Sequence[Plan],
    dataset: Dataset,
    *,
    prompts: Sequence[str] = ("box",),
    exact: bool = False,
    noise_images: int = 0,
    store: ResultStore | None = None,
    progress: Progress | None = None,
    settings: dict[str, JsonValue] | None = None,
) -> list[Record]:
    """Score plans in the simulator and on their engines, in one pass over a dataset.

    Args:
        model: In float.
        plans: Calibrated; the placement of each names its engine, each pair of scheme and engine once.
        dataset: What to score on.
        prompts: Kinds of prompts.
        exact: Simulate in exact integers too.
        noise_images: On so many images, compute the noise floor: simulation and engine on one thread too, and the
            simulation in exact integers.
        store: Where the records are appended.
        progress: Wraps the iteration over the images.
        settings: Added to each record's settings.

    Returns:
        A record of kind `agree` for each plan and prompt. Figures: `miou_fp32`, `miou_simulated`, `miou` (of the
        engine), `gap` (engine less simulation, in points) with `gap_standard_error` and the bounds of its 95 %
        interval `gap_low`, `gap_high`, `mask_iou` (mean IoU of the two masks) and `identical` (masks equal in
        every pixel, in percent); of exact integers the same with `exact_` before them, and where sums saturate on this
        processor, of their simulation `saturating_...`; the noise floor `threads_simulated_...`, `threads_engine_...`
        and, of the simulation in floats and in integers, `rounding_...`; of another engine with the same scheme
        `between_ENGINE_...`;
        and `convolutions`, `convolutions_quantized`, `convolutions_integer`, counted in the graph that ran.

    Raises:
        InputError: There is no such prompt, or a scheme is given twice for an engine.
        PlanError: A plan is not one for its engine.
        EngineError: An engine is not installed.
        DatasetError: There is no object to score.
    """
    kinds = [parse_prompt(prompt) for prompt in prompts]
    names = [f"{plan.scheme}/{plan.placement}" for plan in plans]
    if len(set(names)) < len(names):
        raise InputError(f"plans must differ in scheme or engine, got {_twice(names)} twice: leave one out")
    table = _Table(model, plans, exact, noise_images)
    table.fill(dataset, kinds, progress)
    records = [
        _record(model, table, plan, prompt.name, dataset, settings or {})
        for plan, prompt in itertools.product(plans, kinds)
    ]
    if store is not None:
        for record in records:
            store.append(record)
    return records


class _Table:
    """All columns and meetings of one pass."""

    def __init__(self, model: EfficientViTSam, plans: Sequence[Plan], exact: bool, noise_images: int) -> None:
        self.predictor = Predictor(model)
        self.columns: dict[str, _Column] = {FLOAT: _Column(model.image_encoder)}
        self.meetings: dict[str, _Meeting] = {}
        self.ran: dict[str, tuple[Executed, ...]] = {}
        for plan in plans:
            name = _name(plan)
            target = get_placement(plan.placement).engine
            engine = make_engine_encoder(model, plan, target)
            simulated = simulate(model, plan)
            self.ran[name] = executed(engine.graph, engine.session)
            self.columns[f"{name}/{SIMULATED}"] = _Column(simulated)
            self.columns[f"{name}/{ENGINE}"] = _Column(engine)
            self._meet(f"{name}/", f"{name}/{SIMULATED}", f"{name}/{ENGINE}")
            if exact or noise_images:
                most = None if exact else noise_images
                self.columns[f"{name}/{EXACT}"] = _Column(simulate(model, plan, exact=True), most_images=most)
                self._meet(f"{name}/rounding_", f"{name}/{SIMULATED}", f"{name}/{EXACT}")
            if exact:
                self._meet(f"{name}/exact_", f"{name}/{EXACT}", f"{name}/{ENGINE}")
            if exact and not engine.exact:
                self.columns[f"{name}/{SATURATING}"] = _Column(simulate(model, plan, saturate=True))
                self._meet(f"{name}/saturating_", f"{name}/{SATURATING}", f"{name}/{ENGINE}")
            if noise_images:
                single = make_engine_encoder(model, plan, target, threads=1)
                self._noise(name, SIMULATED, _Column(simulated, 1, noise_images))
                self._noise(name, ENGINE, _Column(single, 1, noise_images))
        for a, b in itertools.permutations(plans, 2):
            if a.scheme == b.scheme:
                self._meet(f"{_name(a)}/between_{b.placement}_", f"{_name(a)}/{ENGINE}", f"{_name(b)}/{ENGINE}")

    def _meet(self, key: str, first: str, second: str) -> None:
        self.meetings[key] = _Meeting(first, second)

    def _noise(self, name: str, way: str, column: _Column) -> None:
        self.columns[f"{name}/{way} on one thread"] = column
        self._meet(f"{name}/threads_{way}_", f"{name}/{way}", f"{name}/{way} on one thread")

    def fill(self, dataset: Dataset, prompts: Sequence[Prompt], progress: Progress | None) -> None:
        """Compute every column on every picture that has objects, and compare."""
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
        self, column: _Column, prompt: Prompt, annotations: Sequence[Annotation], truths: Sequence[BoolMask]
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
        """Return what a meeting came to."""
        meeting = self.meetings[key]
        ious = np.asarray(meeting.ious[prompt])
        first, second = (self.columns[name].scores[prompt][: len(ious)] for name in (meeting.first, meeting.second))
        return Comparison(
            compare_paired(first, second), len(ious), 100 * float(ious.mean()), 100 * float((ious == 1).mean())
        )


def _record(
    model: EfficientViTSam, table: _Table, plan: Plan, prompt: str, dataset: Dataset, settings: dict[str, JsonValue]
) -> Record:
    name = _name(plan)
    engine = table.columns[f"{name}/{ENGINE}"]
    assert isinstance(engine.encoder, EngineEncoder)
    subject = model.with_encoder(engine.encoder)
    ways = {"miou_fp32": FLOAT, "miou_simulated": f"{name}/{SIMULATED}", "miou": f"{name}/{ENGINE}"}
    figures: dict[str, float | int | None] = {k: _miou(table.columns[c].scores[prompt]) for k, c in ways.items()}
    figures["count"] = len(engine.scores[prompt])
    for key in table.meetings:
        if key.startswith(f"{name}/"):
            prefix = key.removeprefix(f"{name}/")
            figures |= {f"{prefix}{k}": v for k, v in _figures(table.comparison(key, prompt)).items()}
    ran = table.ran[name]
    planned = {site.key for site in plan.sites}
    figures["convolutions"] = len(ran)
    figures["convolutions_quantized"] = sum({f"{e.layer}weight", f"{e.layer}input"} <= planned for e in ran)
    figures["convolutions_integer"] = sum(e.is_integer for e in ran)
    more: dict[str, JsonValue] = {
        "threads": torch.get_num_threads(),
        "silently_float": list(quantized_but_float(plan, ran)),
        **exactness(engine.encoder),
        **settings,
    }
    return Record(
        kind="agree",
        model=model.name,
        weights_digest=model.weights_digest(),
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        prompt=prompt,
        figures=figures | sizes(subject),
        environment=environment(engine.encoder.engine),
        settings=more,
        scores=tuple(engine.scores[prompt]),
        **plan_fields(subject),
    )


def _figures(found: Comparison) -> dict[str, float | int | None]:
    gap, error = found.gap.mean_difference, found.gap.standard_error
    half = None if error is None else _CONFIDENCE_95 * error
    return {
        "gap": gap,
        "gap_standard_error": error,
        "gap_low": None if half is None else gap - half,
        "gap_high": None if half is None else gap + half,
        "mask_iou": found.mask_iou_percent,
        "objects": found.count,
        "identical": found.identical_percent,
    }


def _same(a: BoolMask, b: BoolMask) -> float:
    """Return the IoU of two answers; two empty ones agree."""
    return mask_iou(a, b) if a.any() or b.any() else 1.0


def _miou(scores: Sequence[ObjectScore]) -> float:
    return 100 * sum(score.iou for score in scores) / len(scores)


def _name(plan: Plan) -> str:
    return f"{plan.scheme}/{plan.placement}"


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
