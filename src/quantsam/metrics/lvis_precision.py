"""LVIS's average precision and recall: each image counts only for the categories it is annotated for."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantsam.errors import DatasetError
from quantsam.metrics.average_precision import IOU_50, IOU_75, SIZES, score_categories
from quantsam.metrics.instances import (
    Entry,
    GroundTruth,
    Kind,
    ResultColumns,
    check_kind,
    parse_ground_truth,
    parse_results,
    result_entries,
    with_small_category_ids,
)

MAX_DETECTIONS = 300
"""How many of an image's results count, over all categories."""

_FREQUENCIES = {"r": "ap_rare", "c": "ap_common", "f": "ap_frequent"}


def lvis_precision(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Kind
) -> dict[str, float | None]:
    """Score results as the `lvis` package does (Gupta et al., "LVIS", CVPR 2019, section 3).

    This works like `coco_precision`, but LVIS is a federation of small datasets, one per category. A result counts only
    if annotators looked for its category: if the image has an object of the category or lists it in `neg_category_ids`.
    If `not_exhaustive_category_ids` lists the category, a result that matches nothing is not a false positive. In each
    image the 300 highest scores count. Objects and results of area 0 do not count.

    Args:
        ground_truth: As for `coco_precision`, without crowds; images also have `neg_category_ids` and
            `not_exhaustive_category_ids`, categories have `frequency`: `r`, `c` or `f`. Not modified.
        results: As for `coco_precision`. Not modified.
        kind: `bbox` compares boxes, `segm` masks.

    Returns:
        In percent, 0..100: `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`; `ap_rare`, `ap_common`,
        `ap_frequent` for categories with the `frequency` `r`, `c` and `f` (up to 10, up to 100, and more training
        images); and `ar300`, `ar300_small`, `ar300_medium`, `ar300_large`. `None` if there is no such object.

    Raises:
        DatasetError: An image or category id is unknown, or a field is missing or out of range.
        InputError: `kind` is neither `bbox` nor `segm`.
    """
    check_kind(kind)
    ground_truth, results = with_small_category_ids(ground_truth, results)
    truth = _without_empty(parse_ground_truth(ground_truth, kind))
    groups = _frequency_groups(truth)
    columns = parse_results(results, truth)
    # The order matters: a result of a category that was not looked for still takes one of the image's 300 places.
    counts = _highest_scores(columns) & _is_looked_for(columns, truth)
    entries = result_entries(results, columns, np.flatnonzero(counts).tolist(), truth, kind)
    entries = {key: [entry for entry in found if entry["area"] > 0] for key, found in entries.items()}
    scores = score_categories(truth, entries, kind, max_detections=(MAX_DETECTIONS,), lvis_style=True)
    return {
        "ap": scores.ap(),
        "ap50": scores.ap(iou=IOU_50),
        "ap75": scores.ap(iou=IOU_75),
        **{f"ap_{size}": scores.ap(size) for size in SIZES[1:]},
        **{name: scores.ap(categories=groups[letter]) for letter, name in _FREQUENCIES.items()},
        "ar300": scores.ar(),
        **{f"ar300_{size}": scores.ar(size) for size in SIZES[1:]},
    }


def _without_empty(truth: GroundTruth) -> GroundTruth:
    """Return the objects that have an area; LVIS has no crowds, so `iscrowd` is ignored."""
    kept: dict[int, list[Entry]] = {}
    for category_id, objects in truth.objects.items():
        present = [{**entry, "iscrowd": 0} for entry in objects if entry["area"] > 0]
        if present:
            kept[category_id] = present
    return GroundTruth(truth.image_index, truth.images, truth.categories, kept)


def _frequency_groups(truth: GroundTruth) -> dict[str, NDArray[np.bool_]]:
    """Return which of the categories with objects are rare, common and frequent."""
    for category_id, category in truth.categories.items():
        if category.get("frequency") not in tuple(_FREQUENCIES):  # a tuple, since a list is not hashable
            raise DatasetError(
                f"category {category_id} of the ground truth: `frequency` must be 'r', 'c' or 'f', got "
                f"{reprlib.repr(category.get('frequency'))}: give LVIS's annotations, or score as COCO"
            )
    letters = np.array([truth.categories[category_id]["frequency"] for category_id in truth.objects], np.str_)
    return {letter: letters == letter for letter in _FREQUENCIES}


def _highest_scores(columns: ResultColumns) -> NDArray[np.bool_]:
    """Return which results are among the highest scores of their image; of equal scores the earlier one."""
    order = np.lexsort((-columns.score, columns.image_index))  # by image, then score; stable
    images = columns.image_index[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)  # within its image
    kept = np.zeros(len(order), np.bool_)
    kept[order[rank < MAX_DETECTIONS]] = True
    return kept


def _is_looked_for(columns: ResultColumns, truth: GroundTruth) -> NDArray[np.bool_]:
    """Return which results have a category that their image is annotated for."""
    annotated = [set(ids) for ids in _category_lists(truth, "neg_category_ids")]
    _category_lists(truth, "not_exhaustive_category_ids")  # the evaluator reads them
    for category_id, objects in truth.objects.items():
        for entry in objects:
            annotated[entry["image_id"]].add(category_id)
    pairs = zip(columns.image_index.tolist(), columns.category_id.tolist(), strict=True)
    return np.array([category_id in annotated[image] for image, category_id in pairs], np.bool_)


def _category_lists(truth: GroundTruth, key: str) -> list[list[int]]:
    for image_id, index in truth.image_index.items():
        ids = truth.images[index].get(key)
        if not isinstance(ids, list) or not all(type(category_id) is int for category_id in ids):
            raise DatasetError(
                f"image {image_id} of the ground truth: `{key}` must be a list of category ids, got "
                f"{reprlib.repr(ids)}: give LVIS's annotations, or score as COCO"
            )
    return [image[key] for image in truth.images]
