"""The data that a page needs to compare any two results of a task, object by object."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantsam.metrics.summary import AREA_RANGES, ObjectScore
from quantsam.report.tasks import Result, Task
from quantsam.results.objects import TIE_ROUNDED, ObjectRow, object_rows
from quantsam.results.store import ResultStore

MOST_RESULTS = 12
MOST_OBJECTS = 40_000
"""Of a task: all 36,781 of COCO val2017."""
MOST_IOUS = 2_500_000
"""Of a page: each takes four letters."""

_WHOLE = 2**24 - 1  # stands for an IoU of 1 on the page: finer than the digits that are shown
_NONE = 2**16 - 1  # stands for "no category"
_SIZES = tuple(name for name in AREA_RANGES if name != "all")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of one task with the IoUs of the same objects.

    Attributes:
        results: Results in the order of the task.
        ious: For each result, the IoU of each object, 0..1.
        rows: Objects of the pair that is shown first: `second` beside `first`.
        first: Number of a result: FP32 if it is there, or else the best result.
        second: Number of the result that differs most from `first`.
        objects: Number of scored objects. If there are fewer `rows`, they are evenly spaced among these objects.
        left_out: Number of results with scores that are left out.
    """

    results: tuple[Result, ...]
    ious: tuple[tuple[float, ...], ...]
    rows: tuple[ObjectRow, ...]
    first: int
    second: int
    objects: int
    left_out: int

    @property
    def size(self) -> int:
        """Number of IoUs."""
        return len(self.results) * len(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the data for the page's script: every column once, numbers as base64 of their bytes."""
        categories = list(dict.fromkeys(row.category for row in self.rows if row.category is not None))
        numbers = {name: number for number, name in enumerate(categories[:_NONE])}
        images = {row.image_id: row.file for row in self.rows}
        places = {image_id: number for number, image_id in enumerate(images)}
        return {
            "tie": TIE_ROUNDED,
            "whole": _WHOLE,
            "results": [
                {"id": result.record.id, "name": name_of(result), "ious": _packed((round(_WHOLE * i) for i in ious), 3)}
                for result, ious in zip(self.results, self.ious, strict=True)
            ],
            "sizes": _SIZES,
            "categories": categories[:_NONE],
            "images": [image_name(image_id, file) for image_id, file in images.items()],
            "size": _packed((_SIZES.index(row.size) for row in self.rows), 1),
            "category": _packed((numbers.get(row.category or "", _NONE) for row in self.rows), 2),
            "image": _packed((places[row.image_id] for row in self.rows), 3),
            "annotation": " ".join(str(row.annotation_id) for row in self.rows),
        }


def is_comparable(task: Task) -> bool:
    """Whether a task may have results to compare: its objects have an IoU, and there are at least two results."""
    return task.metric == "mIoU" and len(task.results) > 1


def make_comparison(store: ResultStore, task: Task) -> Comparison | None:
    """Return a comparison of a task's results that have scores; None if fewer than two have scores.

    Raises:
        StoreError: Scores are damaged.
    """
    if not is_comparable(task):
        return None
    found, left_out = _scored(store, task)
    if len(found) < 2:
        return None
    results = [result for result in task.results if result.record.id in found]
    count = len(found[results[0].record.id])
    kept = [found[result.record.id][:: -(-count // MOST_OBJECTS)] for result in results]
    first = next((n for n, r in enumerate(results) if r is task.baseline), None)
    if first is None:
        first = max(range(len(results)), key=lambda n: results[n].score)
    second = _furthest(results, first)
    records = [dataclasses.replace(results[n].record, scores=tuple(kept[n])) for n in (second, first)]
    return Comparison(
        results=tuple(results),
        ious=tuple(tuple(score.iou for score in scores) for scores in kept),
        rows=tuple(object_rows(store, *records)),
        first=first,
        second=second,
        objects=count,
        left_out=left_out,
    )


def _scored(store: ResultStore, task: Task) -> tuple[dict[str, list[ObjectScore]], int]:
    """Return scores by record (FP32, the largest change, then the newest), and how many results are left out."""
    newest = sorted(task.results, key=lambda r: r.record.created_utc, reverse=True)
    changed = max(task.results, key=lambda r: abs(r.change or 0.0))
    wanted = {r.record.id: r for r in (task.baseline, changed, *newest) if r is not None}
    found: dict[str, list[ObjectScore]] = {}
    ids: list[int] = []
    left_out = 0
    for record_id in wanted:
        scores = store.scores(record_id) if len(found) < MOST_RESULTS else []
        own = [score.annotation_id for score in scores]
        ids = ids or own
        if scores and own == ids:
            found[record_id] = scores
        left_out += len(found) == MOST_RESULTS and record_id not in found
    return found, left_out


def _furthest(results: Sequence[Result], first: int) -> int:
    """Return the number of the result whose score is furthest from the score of result `first`."""
    others = [number for number in range(len(results)) if number != first]
    return max(others, key=lambda n: abs(results[n].score - results[first].score))


def name_of(result: Result) -> str:
    """Return a result's name, which is unique in its task."""
    return f"{result.label}, {result.way}"


def image_name(image_id: int, file: str | None) -> str:
    """Return the name of an image: its file, or else its id."""
    return f"image {image_id}" if file is None else file


def _packed(numbers: Iterable[int], width: int) -> str:
    """Return whole numbers as base64 of their bytes, the highest byte first."""
    whole = np.array([*numbers], ">u4").view(np.uint8).reshape(-1, 4)
    return base64.b64encode(whole[:, 4 - width :].tobytes()).decode()
