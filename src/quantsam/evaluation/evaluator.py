"""Score a model on a dataset: prompt it for each object, and compare the answer with the annotation by IoU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from quantsam.data.dataset import Annotation, BoolMask, Dataset, NamedDataset
from quantsam.data.detections import DetectionFile
from quantsam.data.subset import WithoutCrowds
from quantsam.errors import DatasetError
from quantsam.evaluation.detector import DetectorInterview, detection_figures
from quantsam.evaluation.journal import Outcome, Outcomes, open_journal
from quantsam.evaluation.prompts import Answer, Prompt, answers, parse_prompt
from quantsam.evaluation.record_fields import engine_of, formats_by_layer, is_described, plan_fields, sizes, switches
from quantsam.evaluation.runner import Interview, run, times
from quantsam.files import storable
from quantsam.metrics.iou import box_mask, mask_iou
from quantsam.metrics.summary import AREA_RANGES, ObjectScore, summarize
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.predictor import Predictor
from quantsam.progress import Progress
from quantsam.results.kept import find_evaluation
from quantsam.results.object_names import ObjectNames
from quantsam.results.record import JsonValue, Record, new_id
from quantsam.results.store import ResultStore
from quantsam.runtime.engines import surroundings


def evaluate(
    model: EfficientViTSam,
    dataset: Dataset,
    *,
    prompts: str = "box",
    detections: DetectionFile | None = None,
    store: ResultStore | None = None,
    progress: Progress | None = None,
    settings: dict[str, JsonValue] | None = None,
    again: bool = False,
) -> Record:
    """Score a model with prompts made from the ground truth, or with a detector's boxes.

    With ground-truth prompts, the model gives three masks for each object with an annotated area of at least one square
    pixel, crowds included. The mask with the highest predicted IoU is compared with the annotation at the image's
    resolution (the protocol of the EfficientViT-SAM authors). The record holds the mean IoU and the score of every
    object. `data.subset.without_crowds` excludes crowds; the record's dataset name then says so.

    With detections, each box becomes a mask with the box's category and score. The record holds the average precision
    as COCO or LVIS defines it.

    Args:
        model: The float model, or a model with an encoder from `simulate` or `make_engine_encoder`.
        dataset: The dataset to score on.
        prompts: `box`, the annotated box; `click`, one click at the object's centre; or `clicks:N`, each click after
            the first where the answer is most wrong. Ignored if `detections` is given.
        detections: A detector's boxes for the dataset's images.
        store: The store that receives the record. If it already holds the same evaluation, that record is returned.
            During the evaluation, each image's outcome is kept beside the store: repeat the call to resume an
            interrupted evaluation, with the same figures.
        progress: Wraps the iteration over the images.
        settings: Added to the record's settings.
        again: Evaluate again even if the store holds the record.

    Returns:
        The record. Repeating the call gives the same figures.

    Raises:
        InputError: The kind of prompt is unknown.
        DatasetError: The dataset has no object to score.
        StoreError: The store cannot be written, or another process runs the same evaluation.
    """
    evaluation = Evaluation(model, dataset, prompts=prompts, detections=detections)
    known = store is not None and not again and is_described(model)
    found = find_evaluation(store, evaluation.depends_on) if store is not None and known else None
    if store is not None and found is not None:
        keep_names(store, dataset)
        return found
    keeper = open_journal(journals_of(store), evaluation.depends_on) if store else nullcontext(Outcomes())
    with keeper as outcomes:
        left = [image_id for image_id in dataset.image_ids if image_id not in outcomes.done]
        for outcome in evaluation.run(left, progress):
            outcomes.append(outcome)
        record = evaluation.record(outcomes, settings=settings)
        if store is not None:
            keep_names(store, dataset)
            store.append(record)
    return record


class Evaluation:
    """An evaluation in parts: images may be scored in any order and by any process, and give one record in the end.

    Attributes:
        depends_on: Everything that the outcomes depend on.
    """

    def __init__(
        self, model: EfficientViTSam, dataset: Dataset, *, prompts: str = "box", detections: DetectionFile | None = None
    ) -> None:
        """Prepare the evaluation; see `evaluate` for the arguments."""
        prompt = parse_prompt(prompts)
        self._model, self._dataset, self._detections = model, dataset, detections
        self._predictor = Predictor(model)
        self._interview: Interview[Any] = (
            _PromptInterview(dataset, prompt) if detections is None else DetectorInterview(detections)
        )
        self._fields: dict[str, Any] = {
            "model": model.name,
            "weights_digest": model.weights_digest(),
            "dataset": dataset.name,
            "dataset_digest": dataset.digest,
            "prompt": prompt.name if detections is None else "detections",
            **plan_fields(model),
        }
        engine = engine_of(model)
        self._environment = surroundings(engine)
        self._more: dict[str, JsonValue] = {
            "threads": torch.get_num_threads(),
            "device": str(self._predictor.device),
            **switches(model),
            **({"crowds": not isinstance(dataset, WithoutCrowds)} if detections is None else {}),
            **({} if detections is None else {"detections": detections.name, "detections_digest": detections.digest}),
        }
        self.depends_on: dict[str, JsonValue] = self._fields | self._more | self._environment

    def run(self, image_ids: Sequence[int], progress: Progress | None = None) -> Iterator[Outcome]:
        """Score some images, one by one."""
        return run(self._predictor, self._dataset, self._interview, image_ids, progress)

    def record(
        self, outcomes: Outcomes, *, record_id: str | None = None, settings: dict[str, JsonValue] | None = None
    ) -> Record:
        """Return the record, after all images of the dataset have an outcome; the order does not matter.

        Args:
            outcomes: Outcomes of all images.
            record_id: The record's id; a new one if None.
            settings: Added to the record's settings.

        Raises:
            DatasetError: The dataset has no object to score.
        """
        ids = self._dataset.image_ids
        scores: tuple[ObjectScore, ...] = ()
        if self._detections is None:
            figures, scores = _figures(outcomes.in_order(ids), self._dataset)
        else:
            figures = detection_figures(outcomes.in_order(ids), self._dataset)
        return Record(
            id=record_id or new_id(),
            **self._fields,
            figures=figures | sizes(self._model),
            times=times(outcomes.in_order(ids)),
            environment=self._environment,
            settings=self._more | (settings or {}),
            results=formats_by_layer(self._model),
            scores=scores,
        )


def journals_of(store: ResultStore) -> Path:
    """Return the folder of unfinished evaluations that belongs to a store."""
    return store.path.with_name(f"{store.path.name}-unfinished")


def keep_names(store: ResultStore, dataset: Dataset) -> None:
    """Keep a dataset's names of objects and images in a store, if the store does not have them yet.

    Raises:
        StoreError: The store cannot be written.
    """
    if not isinstance(dataset, NamedDataset) or store.names(dataset.digest) is not None:
        return
    ids = dataset.image_ids
    files = {image_id: storable(name) for image_id in ids if (name := dataset.file_name(image_id)) is not None}
    categories = {category_id: storable(name) for category_id, name in dataset.category_names.items()}
    objects = {a.id: a.category_id for image_id in ids for a in dataset.annotations(image_id)}
    store.keep_names(dataset.digest, ObjectNames(categories, objects, files))


def scored_annotations(dataset: Dataset, image_id: int) -> list[Annotation]:
    """Return the objects of an image that are scored: those with an annotated area of at least 1, including crowds.

    This is the rule in the authors' `eval_efficientvit_sam_model.py`, which never reads `iscrowd`.
    """
    return [a for a in dataset.annotations(image_id) if a.area >= 1]


class _PromptInterview:
    """Prompts from the ground truth; a row is annotation id, area, IoU, predicted IoU, the filled box's IoU."""

    def __init__(self, dataset: Dataset, prompt: Prompt) -> None:
        self._dataset, self._prompt = dataset, prompt

    def asks(self, image_id: int) -> bool:
        return bool(scored_annotations(self._dataset, image_id))

    def questions(self, image_id: int) -> Sequence[tuple[Annotation, BoolMask]]:
        return [(a, self._dataset.mask(a)) for a in scored_annotations(self._dataset, image_id)]

    def answers(self, predictor: Predictor, questions: Sequence[tuple[Annotation, BoolMask]]) -> Iterable[Answer]:
        return answers(predictor, self._prompt, [a for a, _ in questions], [truth for _, truth in questions])

    def row(self, question: tuple[Annotation, BoolMask], answer: Answer) -> list[JsonValue]:
        annotation, truth = question
        filled = mask_iou(box_mask(annotation.box_xyxy, truth.shape), truth)
        return [annotation.id, annotation.area, mask_iou(answer.mask, truth), answer.predicted_iou, filled]


def _figures(
    outcomes: Iterable[Outcome], dataset: Dataset
) -> tuple[dict[str, float | int | None], tuple[ObjectScore, ...]]:
    """Return mean IoU, count and standard error by size, and the baseline that answers with the filled box."""
    scores: list[ObjectScore] = []
    filled: list[ObjectScore] = []
    for outcome in outcomes:
        for annotation_id, area, iou, predicted_iou, fill in outcome["rows"]:
            scores.append(ObjectScore(outcome["image_id"], annotation_id, area, iou, predicted_iou))
            filled.append(ObjectScore(outcome["image_id"], annotation_id, area, fill, None))
    if not scores:
        raise DatasetError(
            f"dataset {dataset.name} must have an object to score, got none: an annotated area must be at least 1"
        )
    summary, baseline = summarize(scores), summarize(filled)
    figures: dict[str, float | int | None] = {}
    for name in AREA_RANGES:
        suffix = "" if name == "all" else f"_{name}"
        figures[f"miou{suffix}"] = summary[name].mean_iou_percent
        figures[f"count{suffix}"] = summary[name].count
        figures[f"standard_error{suffix}"] = summary[name].standard_error
        figures[f"box_fill_miou{suffix}"] = baseline[name].mean_iou_percent
    return figures, tuple(scores)
