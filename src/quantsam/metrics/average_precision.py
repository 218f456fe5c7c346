"""COCO's average precision and average recall of boxes or masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import COCO, COCOeval_faster
from numpy.typing import NDArray

from quantsam.metrics.instances import (
    Entry,
    GroundTruth,
    Kind,
    check_kind,
    parse_ground_truth,
    parse_results,
    result_entries,
    with_small_category_ids,
)

SIZES = ("all", "small", "medium", "large")
IOU_50, IOU_75 = 0, 5  # indices into the ten thresholds 0.50, 0.55, ..., 0.95


@dataclass(frozen=True, slots=True)
class CategoryScores:
    """Precision and recall of each category that has an object; NaN if it has none of a size.

    Attributes:
        category_ids: Category ids, ascending.
        precision: (categories, 10 IoU thresholds, 4 sizes), 0..1: mean precision over 101 recalls, with the largest
            number of detections allowed.
        recall: (categories, 10 IoU thresholds, 4 sizes, numbers of detections allowed), 0..1.
    """

    category_ids: tuple[int, ...]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def ap(
        self, size: str = "all", iou: int | None = None, categories: NDArray[np.bool_] | None = None
    ) -> float | None:
        """Return an average precision in percent, or `None` if there is no such object.

        Args:
            size: One of `all`, `small`, `medium`, `large`.
            iou: Index of one IoU threshold; `None` averages over all.
            categories: Bool, (categories,): the categories to average over; `None` takes all.
        """
        values = self.precision[:, :, SIZES.index(size)]
        values = values if iou is None else values[:, iou]
        return _mean_percent(values if categories is None else values[categories])

    def ar(self, size: str = "all", limit: int = -1) -> float | None:
        """Return an average recall in percent, or `None` if there is no such object.

        Args:
            size: One of `all`, `small`, `medium`, `large`.
            limit: Index into the numbers of detections allowed.
        """
        return _mean_percent(self.recall[:, :, SIZES.index(size), limit])


def coco_precision(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Kind
) -> dict[str, float | None]:
    """Score results as the COCO API does (Lin et al., "Microsoft COCO", ECCV 2014, and its `cocoeval.py`).

    A category's average precision is the mean, over 101 recalls from 0 to 1, of the highest precision at that recall or
    beyond; the reported numbers are means over categories and over ten IoU thresholds, 0.50 to 0.95.

    Args:
        ground_truth: Lists `images` (`id`, for masks also `height` and `width` in pixels), `categories` (`id`) and
            `annotations` (`image_id`, `category_id`, `area` in square pixels, `iscrowd`, and `bbox` or `segmentation`)
            as in an annotation file. For a part of a dataset, give the lists of that part. Not modified.
        results: `image_id`, `category_id`, `score`, and `bbox` (x, y, width, height in pixels) or `segmentation` (an
            RLE of the image's size, `counts` a list or COCO's string). Not modified.
        kind: `bbox` compares boxes, `segm` masks.

    Returns:
        In percent, 0..100: average precision `ap`; `ap50` and `ap75` at one IoU threshold; `ap_small`, `ap_medium`,
        `ap_large` by annotated area (up to 32², up to 96², above); average recall `ar1`, `ar10`, `ar100` with 1, 10 and
        100 detections per category and image; and `ar_small`, `ar_medium`, `ar_large` with 100. `None` if the ground
        truth has no such object (the COCO API gives -1).

    Raises:
        DatasetError: An image or category id is unknown, or a field is missing or out of range.
        InputError: `kind` is neither `bbox` nor `segm`.

    >>> images, categories = [{"id": 1}], [{"id": 5}]
    >>> box = {"image_id": 1, "category_id": 5, "bbox": [10, 10, 40, 50]}
    >>> truth = {"images": images, "categories": categories, "annotations": [{**box, "area": 2000}]}
    >>> scores = coco_precision(truth, [{**box, "bbox": [10, 10, 40, 38], "score": 0.9}], "bbox")
    >>> scores["ap"], scores["ap75"], scores["ap_large"]  # an IoU of 0.76: six of ten thresholds
    (60.0, 100.0, None)
    """
    check_kind(kind)
    ground_truth, results = with_small_category_ids(ground_truth, results)
    truth = parse_ground_truth(ground_truth, kind)
    columns = parse_results(results, truth)
    entries = result_entries(results, columns, range(len(results)), truth, kind)
    scores = score_categories(truth, entries, kind, max_detections=(1, 10, 100))
    return {
        "ap": scores.ap(),
        "ap50": scores.ap(iou=IOU_50),
        "ap75": scores.ap(iou=IOU_75),
        **{f"ap_{size}": scores.ap(size) for size in SIZES[1:]},
        "ar1": scores.ar(limit=0),
        "ar10": scores.ar(limit=1),
        "ar100": scores.ar(limit=2),
        **{f"ar_{size}": scores.ar(size) for size in SIZES[1:]},
    }


def score_categories(
    truth: GroundTruth,
    entries: Mapping[int, list[Entry]],
    kind: Kind,
    *,
    max_detections: Sequence[int],
    lvis_style: bool = False,
) -> CategoryScores:
    """Match results to objects, category by category.

    All categories at once would take memory for every pair of an image and a category. LVIS has 24 million pairs, and
    far fewer than one in a hundred holds anything.

    Args:
        truth: The ground-truth objects.
        entries: The results by category id, as `result_entries` gives them.
        kind: `bbox` or `segm`.
        max_detections: Numbers of detections allowed per category and image (those with the highest scores), ascending.
        lvis_style: Whether to ignore a result that matches nothing if its category is in the image's
            `not_exhaustive_category_ids`.
    """
    category_ids = tuple(truth.objects)
    precision = np.full((len(category_ids), 10, len(SIZES)), np.nan)
    recall = np.full((*precision.shape, len(max_detections)), np.nan)
    for index, category_id in enumerate(category_ids):
        evaluation = _evaluate(truth, category_id, entries.get(category_id, []), kind, max_detections, lvis_style)
        # (IoU thresholds, recalls, 1, sizes, limits) and (IoU thresholds, 1, sizes, limits); -1 without objects
        precision[index] = evaluation["precision"][:, :, 0, :, -1].mean(axis=1)
        recall[index] = evaluation["recall"][:, 0]
    precision[precision < 0], recall[recall < 0] = np.nan, np.nan
    return CategoryScores(category_ids, precision, recall)


def _evaluate(
    truth: GroundTruth,
    category_id: int,
    entries: list[Entry],
    kind: Kind,
    max_detections: Sequence[int],
    lvis_style: bool,
) -> dict[str, NDArray[np.float64]]:
    """Run the evaluator on one category and the images that contain it."""
    objects = truth.objects[category_id]
    images = [truth.images[index] for index in sorted({entry["image_id"] for entry in (*objects, *entries)})]
    common = {"images": images, "categories": [truth.categories[category_id]]}
    evaluator = COCOeval_faster(
        COCO({**common, "annotations": objects}, print_function=_silent),
        COCO({**common, "annotations": entries}, print_function=_silent),
        kind,
        print_function=_silent,
        lvis_style=lvis_style,
    )
    evaluator.params.maxDets = list(max_detections)
    evaluator.evaluate()
    evaluator.accumulate()
    result: dict[str, NDArray[np.float64]] = evaluator.eval
    return result


def _silent(*_: object) -> None:
    """Print nothing; our users do not need the evaluator's default log."""


def _mean_percent(values: NDArray[np.float64]) -> float | None:
    present = values[~np.isnan(values)]
    return 100.0 * float(present.mean()) if present.size else None
