"""Score a model on a dataset: a prompt for each object, the IoU of the answer with the annotation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from quantsam.data.dataset import Annotation, BoolMask, Dataset
from quantsam.errors import DatasetError
from quantsam.evaluation.prompts import PROMPTS, PromptBatch, check_prompt
from quantsam.metrics.iou import box_mask, mask_iou
from quantsam.metrics.summary import AREA_RANGES, ObjectScore, summarize
from quantsam.models.encoder import ImageEncoder
from quantsam.models.predictor import Predictor
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.plans.sizes import account
from quantsam.results.record import JsonValue, Record
from quantsam.simulation.simulator import SimulatedEncoder

Progress = Callable[[Iterable[Any], int | None], Iterable[Any]]

PROMPTS_A_BATCH = 16


def evaluate(
    model: EfficientViTSam,
    dataset: Dataset,
    *,
    prompts: str = "box",
    progress: Progress | None = None,
    settings: dict[str, JsonValue] | None = None,
) -> Record:
    """Score a model with prompts made from the ground truth.

    For each object that is no crowd and has an annotated area of at least one square pixel, the model
    gives three masks; the one of highest predicted IoU is compared with the annotation, at the
    picture's resolution (the protocol of the EfficientViT-SAM authors).

    Args:
        model: In float, or with the encoder that `simulate` gave.
        dataset: What to score on.
        prompts: `box`, the annotated box, or `click`, one click at the object's centre.
        progress: Wraps the iteration over the images.
        settings: Added to the record's settings.

    Returns:
        The record, with its figures and the score of every object. The same call gives the same figures.

    Raises:
        InputError: There is no such kind of prompt.
        DatasetError: The dataset has no object to score.
    """
    check_prompt(prompts)
    started = time.perf_counter()
    predictor = Predictor(model)
    timer = _Timer()
    scores: list[ObjectScore] = []
    filled: list[ObjectScore] = []
    ids: Iterable[int] = dataset.image_ids
    for image_id in progress(ids, len(dataset.image_ids)) if progress else ids:
        for score, baseline in _image_scores(predictor, dataset, image_id, prompts, timer):
            scores.append(score)
            filled.append(baseline)
    if not scores:
        raise DatasetError(
            f"dataset {dataset.name} must have an object to score, got none (crowds and areas below 1 are left out)"
        )
    times = {**timer.medians(), "wall_s": time.perf_counter() - started}
    figures = _figures(scores, filled) | _sizes(model)
    return Record(
        model=model.name,
        weights_digest=model.weights_digest(),
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        prompt=prompts,
        figures=figures,
        times=times,
        settings={
            "threads": torch.get_num_threads(),
            "device": str(predictor.device),
            **_switches(model),
            **(settings or {}),
        },
        scores=tuple(scores),
        **_plan_fields(model),
    )


def _image_scores(
    predictor: Predictor, dataset: Dataset, image_id: int, prompts: str, timer: _Timer
) -> Iterator[tuple[ObjectScore, ObjectScore]]:
    """Yield the score of each object of an image, and what the filled box scores."""
    annotations = scored_annotations(dataset, image_id)
    if not annotations:
        return
    truths = [dataset.mask(annotation) for annotation in annotations]
    image = dataset.image(image_id)
    with timer.measure("encoder_ms"):
        predictor.set_image(image)
    for answer, predicted_iou, annotation, truth in _answers(predictor, prompts, annotations, truths, timer):
        iou, fill = mask_iou(answer, truth), mask_iou(box_mask(annotation.box_xyxy, truth.shape), truth)
        yield (
            ObjectScore(image_id, annotation.id, annotation.area, iou, predicted_iou),
            ObjectScore(image_id, annotation.id, annotation.area, fill, None),
        )


def scored_annotations(dataset: Dataset, image_id: int) -> list[Annotation]:
    """Return the objects of an image that are scored: no crowds, annotated area at least 1."""
    return [a for a in dataset.annotations(image_id) if not a.is_crowd and a.area >= 1]


def _answers(
    predictor: Predictor,
    prompts: str,
    annotations: Sequence[Annotation],
    truths: Sequence[BoolMask],
    timer: _Timer,
) -> Iterator[tuple[BoolMask, float, Annotation, BoolMask]]:
    """Yield for each object the chosen mask, its predicted IoU, the annotation and its mask."""
    for start in range(0, len(annotations), PROMPTS_A_BATCH):
        part = slice(start, start + PROMPTS_A_BATCH)
        batch: PromptBatch = PROMPTS[prompts](annotations[part], truths[part])
        with timer.measure("prompt_ms", len(annotations[part])):
            masks, iou, _ = predictor.predict_batch(
                points=batch.points, labels=batch.labels, boxes=batch.boxes, best_only=True
            )
            answers = masks[:, 0].cpu().numpy()
        yield from zip(answers, iou[:, 0].tolist(), annotations[part], truths[part], strict=True)


class _Timer:
    """Milliseconds by name; work on several things counts as that many equal shares."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}

    def measure(self, name: str, things: int = 1) -> _Measure:
        return _Measure(self.samples.setdefault(name, []), things)

    def medians(self) -> dict[str, float]:
        return {f"{name}_median": statistics.median(values) for name, values in self.samples.items()}


class _Measure:
    def __init__(self, samples: list[float], things: int) -> None:
        self.samples, self.things = samples, things

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.samples.append(1000 * (time.perf_counter() - self.started) / self.things)


def _figures(scores: Sequence[ObjectScore], filled: Sequence[ObjectScore]) -> dict[str, float | int | None]:
    """Mean IoU, count and standard error by size, and the baseline that answers with the filled box."""
    summary, baseline = summarize(scores), summarize(filled)
    figures: dict[str, float | int | None] = {}
    for name in AREA_RANGES:
        suffix = "" if name == "all" else f"_{name}"
        figures[f"miou{suffix}"] = summary[name].mean_iou_percent
        figures[f"count{suffix}"] = summary[name].count
        figures[f"standard_error{suffix}"] = summary[name].standard_error
        figures[f"box_fill_miou{suffix}"] = baseline[name].mean_iou_percent
    return figures


def _plan_of(model: EfficientViTSam) -> Plan | None:
    return model.image_encoder.plan if isinstance(model.image_encoder, SimulatedEncoder) else None


def _sizes(model: EfficientViTSam) -> dict[str, float | int | None]:
    plan, encoder = _plan_of(model), model.float_encoder
    size = account(encoder, plan.sites if plan else ())
    return {
        "quantized_parameters": size.quantized_parameters,
        "saved_mib": size.saved_mib,
        "size_bytes": size.size_bytes,
        "fp32_bytes": size.fp32_bytes,
    }


def _switches(model: EfficientViTSam) -> dict[str, JsonValue]:
    """Return whether weights and activations are quantized; nothing for the float model."""
    plan = _plan_of(model)
    roles = {site.role for site in plan.sites} if plan else set()
    return {"weights": "weight" in roles, "activations": "activation" in roles} if roles else {}


def _plan_fields(model: EfficientViTSam) -> dict[str, Any]:
    plan = _plan_of(model)
    if plan is None:
        scheme = "fp32" if isinstance(model.image_encoder, ImageEncoder) else type(model.image_encoder).__name__
        return {"scheme": scheme}
    fields: dict[str, Any] = {
        "scheme": plan.scheme,
        "scheme_digest": plan.scheme_digest,
        "plan_digest": plan.digest,
        "placement": plan.placement,
    }
    if plan.calibration is not None:
        fields |= {"calibration": plan.calibration.name, "calibration_digest": plan.calibration.digest}
    return fields
