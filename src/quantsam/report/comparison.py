"""What a page needs to compare any two results of a task object by object."""

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

_WHOLE = 2**24 - 1  # what an IoU of 1 is on the page: finer than the digits that are shown
_NONE = 2**16 - 1  # the number of no category
_SIZES = tuple(name for name in AREA_RANGES if name != "all")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of one task with the IoUs of the same objects.

    Attributes:
        results: In the order of the task.
        ious: Of each result, by object, 0..1.
        rows: The objects, of the pair that is shown first: `second` beside `first`.
        first: Number of a result: FP32 if it is there, else the best.
        second: Number of the result that differs most from it.
        objects: How many objects were scored; `rows` are evenly spaced among them if they are fewer.
        left_out: How many results with scores are not here.
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
        """How many IoUs it has."""
        return len(self.results) * len(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return what the page's script reads: every column once, numbers as base64 of their bytes."""
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
    """Whether a task may have results to compare: objects have an IoU, and there are two."""
    return task.metric == "mIoU" and len(task.results) > 1


def make_comparison(store: ResultStore, task: Task) -> Comparison | None:
    """Return a task's results that have scores; None if fewer than two have.

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
    """Return scores by record, of FP32, of what changed most and then of the newest; and how many are left out."""
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
    """Return the number of the result whose score is furthest from that of another."""
    others = [number for number in range(len(results)) if number != first]
    return max(others, key=lambda n: abs(results[n].score - results[first].score))


def name_of(result: Result) -> str:
    """Return a result's name, which no other one of its task has."""
    return f"{result.label}, {result.way}"


def image_name(image_id: int, file: str | None) -> str:
    """Return what to call an image: its file, or else its id."""
    return f"image {image_id}" if file is None else file


def _packed(numbers: Iterable[int], width: int) -> str:
    """Return whole numbers as base64 of their bytes, the highest byte first."""
    whole = np.array([*numbers], ">u4").view(np.uint8).reshape(-1, 4)
    return base64.b64encode(whole[:, 4 - width :].tobytes()).decode()
