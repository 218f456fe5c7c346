"""List a record's objects one by one or by category, size or image; alone or compared with another record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from quantsam.errors import InputError, nearest
from quantsam.metrics.summary import AREA_RANGES, mean_and_error
from quantsam.results.compare import check_same_data
from quantsam.results.object_names import ObjectNames
from quantsam.results.record import Record
from quantsam.results.store import ResultStore

Grouping = Literal["category", "size", "image"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)

TIE = 0.5
"""Objects whose IoU differs by no more than this, in points, neither win nor lose."""

TIE_ROUNDED = TIE + 1e-5
"""The same for differences of rounded numbers: 151 of 200 pixels against 150 is a tie, whatever its last digit."""

_ORDERED_TO = 4  # digits: further digits are rounding noise


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object of a record.

    Attributes:
        image_id: Id of the object's image.
        file: Path of the image relative to the image folder; None if it is not a file or not known.
        annotation_id: Id of the object's annotation.
        category: Name of the object's category; None if not known.
        size: `small`, `medium` or `large`.
        area: Annotated area in square pixels.
        iou: IoU of the answer with the annotation, 0..100.
        predicted_iou: The model's estimate of this IoU, 0..100; None if it gives none.
        baseline_iou: IoU of the other record's answer, 0..100; None without another record.
        difference: `iou` minus `baseline_iou`, in points.
    """

    image_id: int
    file: str | None
    annotation_id: int
    category: str | None
    size: str
    area: float
    iou: float
    predicted_iou: float | None
    baseline_iou: float | None
    difference: float | None


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The objects of one category, size or image.

    Attributes:
        group: Name of the group; for an image, its id.
        file: Path of the image; None for other groups.
        objects: Number of objects.
        miou: Mean IoU, 0..100.
        standard_error: Standard error of `miou`, in points; None for one object.
        predicted_iou: Mean of the model's IoU estimates, 0..100; None if it gives none.
        difference: Mean difference from the other record, in points; None without another record.
        difference_se: Standard error of `difference`.
        wins: Number of objects better by more than `TIE`; None without another record.
        losses: Number of objects worse by more than `TIE`.
        ties: Number of other objects.
    """

    group: str
    file: str | None
    objects: int
    miou: float
    standard_error: float | None
    predicted_iou: float | None
    difference: float | None
    difference_se: float | None
    wins: int | None
    losses: int | None
    ties: int | None


def object_rows(store: ResultStore, record: Record, baseline: Record | None = None) -> list[ObjectRow]:
    """Return the objects of a record, by annotation id.

    Args:
        store: The store with the names of the dataset's objects.
        record: The record, with the scores of its objects.
        baseline: Another record of the same objects, with their scores.

    Raises:
        InputError: The record has no objects, or the two records do not score the same objects.
        StoreError: The store cannot be read.
    """
    for one in (record, *([] if baseline is None else [baseline])):
        if not one.scores:
            raise InputError(
                f"record {one.id[:8]} must be an evaluation with prompts from the ground truth, got {one.kind} with "
                f"prompts {one.prompt}: it scores no single objects"
            )
    others: dict[int, float] = {}
    if baseline is not None:
        check_same_data(baseline, record)
        others = {score.annotation_id: score.iou for score in baseline.scores}
        odd = others.keys() ^ {score.annotation_id for score in record.scores}
        if odd:
            raise InputError(
                f"records {baseline.id[:8]} and {record.id[:8]} must be of the same objects, got {len(odd)} in one "
                f"only, the first is annotation {min(odd)}"
            )
    names = store.names(record.dataset_digest) or ObjectNames()
    rows = []
    for score in record.scores:
        other = others.get(score.annotation_id)
        rows.append(
            ObjectRow(
                image_id=score.image_id,
                file=names.files.get(score.image_id),
                annotation_id=score.annotation_id,
                category=names.category(score.annotation_id),
                size=next(name for name, has in AREA_RANGES.items() if name != "all" and has(score.area)),
                area=score.area,
                iou=100 * score.iou,
                predicted_iou=None if score.predicted_iou is None else 100 * score.predicted_iou,
                baseline_iou=None if other is None else 100 * other,
                difference=None if other is None else 100 * (score.iou - other),
            )
        )
    return rows


def worst_first(rows: Sequence[ObjectRow]) -> list[ObjectRow]:
    """Return objects by their loss against the other record, or else by IoU; equal ones by id."""

    def key(row: ObjectRow) -> tuple[float, int]:
        value = row.iou if row.difference is None else row.difference
        return round(value, _ORDERED_TO), row.annotation_id

    return sorted(rows, key=key)


def group_rows(rows: Sequence[ObjectRow], by: Grouping) -> list[GroupRow]:
    """Return means over the objects of each category, size or image; the largest loss, or the worst, comes first.

    Raises:
        InputError: The objects cannot be grouped in this way.
    """
    if by not in GROUPINGS:
        raise InputError(f"objects are grouped by one of {', '.join(GROUPINGS)}, got {by!r}: {nearest(by, GROUPINGS)}")
    if by == "category" and all(row.category is None for row in rows):
        raise InputError(
            "categories of these objects are not known: the store was written by an earlier version, or the dataset "
            "has none; evaluate --again keeps them"
        )
    key: Callable[[ObjectRow], str] = {
        "category": lambda row: row.category or "(none)",
        "size": lambda row: row.size,
        "image": lambda row: str(row.image_id),
    }[by]
    groups: dict[str, list[ObjectRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    found = [_group(name, members, members[0].file if by == "image" else None) for name, members in groups.items()]
    if by == "size":
        order = list(AREA_RANGES)
        return sorted(found, key=lambda group: order.index(group.group))
    return sorted(found, key=lambda group: group.miou if group.difference is None else group.difference)


def whole(rows: Sequence[ObjectRow]) -> GroupRow:
    """Return the means over all objects."""
    return _group("all", rows, None)


def _group(name: str, rows: Sequence[ObjectRow], file: str | None) -> GroupRow:
    miou, standard_error = mean_and_error([row.iou for row in rows])
    predicted = [row.predicted_iou for row in rows if row.predicted_iou is not None]
    differences = [row.difference for row in rows if row.difference is not None]
    group = GroupRow(
        group=name,
        file=file,
        objects=len(rows),
        miou=miou,
        standard_error=standard_error,
        predicted_iou=math.fsum(predicted) / len(predicted) if predicted else None,
        **dict.fromkeys(("difference", "difference_se", "wins", "losses", "ties")),
    )
    if not differences:
        return group
    mean, error = mean_and_error(differences)
    wins, losses = sum(d > TIE_ROUNDED for d in differences), sum(d < -TIE_ROUNDED for d in differences)
    ties = len(differences) - wins - losses
    return dataclasses.replace(group, difference=mean, difference_se=error, wins=wins, losses=losses, ties=ties)
