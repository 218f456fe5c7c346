"""Turn the scores of single objects into means by size, and into the difference of two evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from quantsam.errors import InputError

CONFIDENCE_95 = 1.96
"""Standard errors on either side that hold 95 % of a normal distribution."""

AREA_RANGES: dict[str, Callable[[float], bool]] = {
    "all": lambda area: True,
    "small": lambda area: area < 32**2,
    "medium": lambda area: 32**2 <= area <= 96**2,
    "large": lambda area: area > 96**2,
}
"""Which annotated areas (square pixels) belong to which size.

Each object is of exactly one size, so the counts add up. EfficientViT's own evaluation (and COCO's)
puts an object of exactly 32² or 96² square pixels into both neighbours.
"""


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """The score of one object.

    Attributes:
        image_id: The id of its image.
        annotation_id: The id of its annotation, unique in its dataset.
        area: Area in square pixels, as annotated.
        iou: Intersection over union with the annotated mask, 0..1.
        predicted_iou: The model's estimate of its IoU; `None` if the predictor gives none.

    Raises:
        InputError: `iou` is outside 0..1 or `area` is negative or not a number.
    """

    image_id: int
    annotation_id: int
    area: float
    iou: float
    predicted_iou: float | None

    def __post_init__(self) -> None:
        if not 0.0 <= self.iou <= 1.0:
            raise InputError(f"iou of annotation {self.annotation_id} must be in 0..1, got {self.iou}")
        if not self.area >= 0.0:
            raise InputError(f"area of annotation {self.annotation_id} must be >= 0, got {self.area}")


@dataclass(frozen=True, slots=True)
class AreaSummary:
    """The mean IoU of the objects of one size.

    Attributes:
        mean_iou_percent: Mean over objects, 0..100; `None` when there is no object.
        count: Number of objects.
        standard_error: Standard error of the mean, in percentage points: std(ddof=1) / sqrt(count) over objects; `None`
            for fewer than two objects. It assumes independent objects; objects in the same image are not quite
            independent, so it is slightly too small.
    """

    mean_iou_percent: float | None
    count: int
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How two evaluations of the same objects differ.

    Attributes:
        mean_difference: Mean of b - a over objects, in points of IoU (-100..100).
        standard_error: Standard error of that mean, in points, over the objects' differences; `None` for one object.
        count: Number of objects.
    """

    mean_difference: float
    standard_error: float | None
    count: int


def summarize(scores: Iterable[ObjectScore]) -> dict[str, AreaSummary]:
    """Return mean IoU, count and standard error for each of `AREA_RANGES`.

    All objects have equal weight, regardless of their image. The order of the scores makes no difference.

    >>> scores = [ObjectScore(1, 1, 900.0, 0.5, None), ObjectScore(1, 2, 5000.0, 0.75, None)]
    >>> summarize(scores)["all"]
    AreaSummary(mean_iou_percent=62.5, count=2, standard_error=12.5)
    >>> summarize(scores)["small"]
    AreaSummary(mean_iou_percent=50.0, count=1, standard_error=None)
    """
    kept = list(scores)
    summaries = {}
    for name, belongs in AREA_RANGES.items():
        percents = [100.0 * score.iou for score in kept if belongs(score.area)]
        mean, error = mean_and_error(percents) if percents else (None, None)
        summaries[name] = AreaSummary(mean, len(percents), error)
    return summaries


def compare_paired(a: Iterable[ObjectScore], b: Iterable[ObjectScore]) -> PairedDifference:
    """Compare two evaluations object by object, matched by annotation id.

    Objects differ from one another far more than two models differ on one object. Taking the difference per object
    removes the variation between objects. So a small change shows long before the two standard errors of `summarize`
    would separate.

    Args:
        a: Scores of the reference evaluation.
        b: Scores of the same objects in the other evaluation.

    Raises:
        InputError: There are no objects, one is scored twice, or the two do not score the same objects.

    >>> a = [ObjectScore(1, 7, 900.0, 0.25, None), ObjectScore(1, 8, 900.0, 0.75, None)]
    >>> b = [ObjectScore(1, 8, 900.0, 0.875, None), ObjectScore(1, 7, 900.0, 0.375, None)]
    >>> compare_paired(a, b)  # each object gains 12.5 points: certain, though the objects differ by 50
    PairedDifference(mean_difference=12.5, standard_error=0.0, count=2)
    """
    iou_a, iou_b = _by_annotation(a, "first"), _by_annotation(b, "second")
    unmatched = sorted(iou_a.keys() ^ iou_b.keys())
    if unmatched:
        where = "first" if unmatched[0] in iou_a else "second"
        raise InputError(
            f"paired evaluations must score the same objects, got {len(unmatched)} scored by only one: "
            f"the first is annotation {unmatched[0]}, only in the {where}"
        )
    if not iou_a:
        raise InputError("paired evaluations must have at least one object, got none")
    differences = [100.0 * (iou_b[key] - iou) for key, iou in iou_a.items()]
    return PairedDifference(*mean_and_error(differences), len(differences))


def _by_annotation(scores: Iterable[ObjectScore], which: str) -> dict[int, float]:
    ious: dict[int, float] = {}
    for score in scores:
        if score.annotation_id in ious:
            raise InputError(f"the {which} evaluation must score annotation {score.annotation_id} once, got it twice")
        ious[score.annotation_id] = score.iou
    return ious


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error, std(ddof=1) / sqrt(count); None for fewer than two values."""
    # fsum is exact, so the order in which workers finish cannot change the last digit.
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
