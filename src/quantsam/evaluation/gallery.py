"""Make images of the objects that a scheme changed most, least and in between."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from quantsam.data.coco_masks import encode_mask
from quantsam.data.dataset import Annotation, BoolMask, Dataset, UInt8Image
from quantsam.evaluation.clicks import next_click
from quantsam.evaluation.prompts import Prompt, answers, parse_prompt
from quantsam.metrics.iou import mask_iou
from quantsam.metrics.summary import ObjectScore
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.predictor import Predictor
from quantsam.results.gallery import COMPARED, RANKS, GalleryEntry, Rank
from quantsam.results.kept import find_baseline, find_unrepaired
from quantsam.results.record import Record
from quantsam.results.store import ResultStore

_LONGEST = 512
_QUALITY = 80


def make_gallery(
    model: EfficientViTSam,
    record: Record,
    dataset: Dataset,
    reference: Sequence[ObjectScore] = (),
    *,
    each: int = 3,
    beside: Sequence[GalleryEntry] = (),
) -> list[GalleryEntry]:
    """Ask a model and FP32 again about some objects of the model's record, and keep both answers.

    Args:
        model: The quantized model that was scored.
        record: The model's record, with the scores of its objects.
        dataset: The dataset that the model was scored on.
        reference: FP32's scores of the same objects. Objects are ranked by their loss against these scores; without
            them, by their IoU.
        each: Number of objects from each group: the worst, those around the median, and the best.
        beside: Another record's gallery whose objects are included, so that the two can be shown side by side.

    Returns:
        The objects, worst first, then those of `beside`; each at most once, however few there are.
    """
    chosen = _chosen(record.scores, {score.annotation_id: score.iou for score in reference}, each)
    scores, taken = {s.annotation_id: s for s in record.scores}, {s.annotation_id for s, _ in chosen}
    others = [e.annotation_id for e in beside if e.annotation_id in scores.keys() - taken]
    chosen += [(scores[annotation_id], COMPARED) for annotation_id in others]
    prompt = parse_prompt(str(record.prompt))
    predictors = (Predictor(model.with_encoder(model.float_encoder)), Predictor(model))
    entries: dict[int, GalleryEntry] = {}
    for image_id in {score.image_id: None for score, _ in chosen}:
        ranks = {score.annotation_id: rank for score, rank in chosen if score.image_id == image_id}
        annotations = [a for a in dataset.annotations(image_id) if a.id in ranks]
        picture = dataset.image(image_id)
        truths = [dataset.mask(a) for a in annotations]
        masks: list[list[BoolMask]] = []
        for predictor in predictors:
            predictor.set_image(picture)
            masks.append([answer.mask for answer in answers(predictor, prompt, annotations, truths)])
        small = _jpeg(picture)
        for annotation, truth, fp32, quantized in zip(annotations, truths, *masks, strict=True):
            entries[annotation.id] = _entry(ranks[annotation.id], prompt, annotation, truth, fp32, quantized, small)
    return [entries[score.annotation_id] for score, _ in chosen]


def keep_gallery(
    store: ResultStore, model: EfficientViTSam, record: Record, dataset: Dataset, *, each: int = 3
) -> None:
    """Make the gallery of a record and keep it in the record's store.

    Objects are ranked against the newest FP32 record of the same weights, data and prompt in the store, if it has one.
    A repaired plan's gallery also includes the objects of the unrepaired plan's gallery, if there is one.

    Raises:
        StoreError: The store cannot be written.
    """
    baseline = find_baseline(store, record)
    reference = () if baseline is None else baseline.scores
    galleries = (store.gallery(before.id) for before in find_unrepaired(store, record))
    beside = next((entries for entries in galleries if entries), [])
    entries = make_gallery(model, record, dataset, reference, each=each, beside=beside)
    store.keep_gallery(record.id, entries)


def _chosen(scores: Sequence[ObjectScore], reference: Mapping[int, float], each: int) -> list[tuple[ObjectScore, Rank]]:
    """Return the objects to show, each with the rank that it was chosen for."""
    ranked = sorted(scores, key=lambda s: (s.iou - reference.get(s.annotation_id, 0.0), s.annotation_id))
    middle = max(0, (len(ranked) - each) // 2)
    parts = (ranked[:each], ranked[middle : middle + each], ranked[-each:])
    found: dict[int, tuple[ObjectScore, Rank]] = {}
    for part, rank in zip(parts, RANKS, strict=True):
        for score in part:
            found.setdefault(score.annotation_id, (score, rank))
    return list(found.values())


def _entry(
    rank: Rank,
    prompt: Prompt,
    annotation: Annotation,
    truth: BoolMask,
    fp32: BoolMask,
    quantized: BoolMask,
    picture: bytes,
) -> GalleryEntry:
    click = next_click(np.zeros_like(truth), truth, []) if prompt.clicks else None
    height, width = truth.shape
    return GalleryEntry(
        rank=rank,
        image_id=annotation.image_id,
        annotation_id=annotation.id,
        image_hw=(height, width),
        box_xyxy=annotation.box_xyxy,
        click_xy=None if click is None else (click.x, click.y),
        truth=encode_mask(truth),
        fp32=encode_mask(fp32),
        quantized=encode_mask(quantized),
        fp32_iou=mask_iou(fp32, truth),
        iou=mask_iou(quantized, truth),
        picture=picture,
    )


def _jpeg(picture: UInt8Image) -> bytes:
    """Return an image as JPEG with at most `_LONGEST` pixels per side."""
    image = Image.fromarray(picture)
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_QUALITY, optimize=True)
    return data.getvalue()
