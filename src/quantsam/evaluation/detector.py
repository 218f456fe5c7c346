"""Use a detector's boxes as prompts: each box becomes a mask, and the masks are scored as in COCO or LVIS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from quantsam.data.coco_masks import encode_mask
from quantsam.data.dataset import Dataset
from quantsam.data.detections import Detection, DetectionFile, load_detections
from quantsam.data.indexed import IndexedDataset
from quantsam.data.lvis import LvisDataset
from quantsam.data.subset import WithoutCrowds
from quantsam.errors import DatasetError, InputError
from quantsam.evaluation.journal import Outcome
from quantsam.evaluation.prompts import Answer, answer_boxes
from quantsam.metrics.average_precision import coco_precision
from quantsam.metrics.lvis_precision import MAX_DETECTIONS, lvis_precision
from quantsam.prediction.predictor import Predictor
from quantsam.results.record import JsonValue
from quantsam.versions import check_version


def open_detections(path: str | Path, dataset: Dataset, *, skip_unknown_images: bool = False) -> DetectionFile:
    """Read a detector's results file for a dataset; for LVIS, only the 300 highest scores per image count.

    Args:
        path: The JSON file; see `load_detections`.
        dataset: A COCO or LVIS dataset.
        skip_unknown_images: Skip detections of images that the dataset's annotation file does not list.

    Raises:
        DatasetError: The dataset has no categories to score, or the file does not fit it.
        InputError: The dataset leaves crowds out.
        VersionError: The scoring package is too old.
    """
    check_version("faster-coco-eval")
    known = _indexed(dataset)
    per_image = MAX_DETECTIONS if isinstance(known, LvisDataset) else None
    return load_detections(
        path,
        image_hw=known.image_hw,
        category_ids=known.category_names,
        per_image=per_image,
        skip_unknown_images=skip_unknown_images,
    )


class DetectorInterview:
    """Boxes as prompts; a row is category id, score, and the mask as a compressed RLE's counts."""

    def __init__(self, detections: DetectionFile) -> None:
        self._detections = detections

    def asks(self, image_id: int) -> bool:
        """Return whether the detector found anything in the image."""
        return bool(self._detections.detections(image_id))

    def questions(self, image_id: int) -> Sequence[Detection]:
        """Return the image's detections."""
        return self._detections.detections(image_id)

    def answers(self, predictor: Predictor, questions: Sequence[Detection]) -> Iterable[Answer]:
        """Answer each box."""
        return answer_boxes(predictor, [detection.box_xyxy for detection in questions])

    def row(self, question: Detection, answer: Answer) -> list[JsonValue]:
        """Return what the scores need."""
        return [question.category_id, question.score, encode_mask(answer.mask)["counts"]]


def detection_figures(outcomes: Iterable[Outcome], dataset: Dataset) -> dict[str, float | int | None]:
    """Return the average precision and recall of the masks, in percent, and their `count`."""
    known = _indexed(dataset)
    results = [
        {
            "image_id": outcome["image_id"],
            "category_id": category_id,
            "score": score,
            "segmentation": {"size": list(known.image_hw[outcome["image_id"]]), "counts": counts},
        }
        for outcome in outcomes
        for category_id, score, counts in outcome["rows"]
    ]
    score = lvis_precision if isinstance(known, LvisDataset) else coco_precision
    return {"count": len(results), **score(_ground_truth(known), results, "segm")}


def _ground_truth(dataset: IndexedDataset) -> dict[str, Any]:
    """Return the dataset in the form of an annotation file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in dataset.image_ids:
        height, width = dataset.image_hw[image_id]
        images.append({"id": image_id, "height": height, "width": width})
        if isinstance(dataset, LvisDataset):
            images[-1]["neg_category_ids"] = list(dataset.negative_category_ids(image_id))
            images[-1]["not_exhaustive_category_ids"] = list(dataset.not_exhaustive_category_ids(image_id))
        for annotation in dataset.annotations(image_id):
            left, top, right, bottom = annotation.box_xyxy
            annotations.append(
                {
                    "id": annotation.id,
                    "image_id": image_id,
                    "category_id": annotation.category_id,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": annotation.area,
                    "iscrowd": int(annotation.is_crowd),
                    "segmentation": annotation.segmentation,
                }
            )
    categories: list[dict[str, Any]] = [{"id": key, "name": name} for key, name in dataset.category_names.items()]
    if isinstance(dataset, LvisDataset):
        categories = [c | {"frequency": dataset.category_frequency[c["id"]]} for c in categories]
    return {"images": images, "annotations": annotations, "categories": categories}


def _indexed(dataset: Dataset) -> IndexedDataset:
    if isinstance(dataset, WithoutCrowds):
        raise InputError(f"average precision has COCO's own rule for crowds, got {dataset.name}: open it with crowds")
    if not isinstance(dataset, IndexedDataset):
        raise DatasetError(
            f"a detector's boxes need COCO's or LVIS's annotations to be scored, got {dataset.name}: give a COCO "
            "or LVIS folder"
        )
    return dataset
