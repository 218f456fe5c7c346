"""Results of rows, image by image, and the pass over the images that measures them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from quantsam.data.dataset import Dataset
from quantsam.errors import DatasetError
from quantsam.evaluation.ahead import images_ahead
from quantsam.evaluation.evaluator import scored_annotations
from quantsam.evaluation.journal import Outcome, Outcomes
from quantsam.metrics.summary import mean_and_error
from quantsam.progress import Progress
from quantsam.results.sensitivity_record import RowScore
from quantsam.sensitivity.measure import RowMeter
from quantsam.sensitivity.rows import Row


class RowTable:
    """Results of all images so far.

    Attributes:
        losses: Mean loss of masks against FP32's masks, in points, keyed by row and image.
        images: Number of images so far.
    """

    def __init__(self) -> None:
        self.losses: dict[str, dict[int, float]] = {}
        self._drops: dict[str, list[float]] = {}
        self._mask_losses: dict[str, list[float]] = {}
        self._noise: dict[str, float] = {}
        self._signal: dict[str, float] = {}
        self._float: list[float] = []
        self.images = 0

    def take(self, outcome: dict[str, Any]) -> None:
        """Add the results of an image."""
        self.images += 1
        ious = [iou for _, _, iou in outcome["objects"]]
        self._float += ious
        for name, (noise, own, same) in outcome["rows"].items():
            loss = [100 * (1 - s) for s in same]
            self.losses.setdefault(name, {})[outcome["image_id"]] = math.fsum(loss) / len(loss)
            self._mask_losses.setdefault(name, []).extend(loss)
            drops = [100 * (a - b) for a, b in zip(ious, own, strict=True)]
            self._drops.setdefault(name, []).extend(drops)
            self._noise[name] = self._noise.get(name, 0.0) + noise
            self._signal[name] = self._signal.get(name, 0.0) + outcome["signal"]

    def score(self, row: Row) -> RowScore:
        """Return the score of a row."""
        name = row.name
        drop, drop_se = mean_and_error(self._drops[name])
        loss, loss_se = mean_and_error(self._mask_losses[name])
        noise, signal = self._noise[name], self._signal[name]
        sqnr = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None
        images, objects = len(self.losses[name]), len(self._drops[name])
        return RowScore(row.unit, row.kind, row.part, row.layers, drop, drop_se, loss, loss_se, sqnr, images, objects)

    def figures(self) -> dict[str, float | int | None]:
        """Return the record's figures."""
        miou, error = mean_and_error([100 * iou for iou in self._float])
        count = len(self._float)
        return {"miou_fp32": miou, "standard_error": error, "count": count, "images": self.images}


class RowPass:
    """Measures rows on images; results that a journal already holds are reused."""

    def __init__(
        self, meter: RowMeter, rows: Sequence[Row], dataset: Dataset, outcomes: Outcomes, part: int | str = 0
    ) -> None:
        """Read the known results of this pass.

        Args:
            meter: Meter of these rows.
            rows: The rows.
            dataset: Dataset with the images.
            outcomes: Journal of the results per image, shared by several passes.
            part: Label that distinguishes this pass from others.
        """
        self.table = RowTable()
        self._meter, self._dataset, self._outcomes, self._part = meter, dataset, outcomes, part
        self._numbers = {row.name: index for index, row in enumerate(rows)}
        self._known = {o["image_id"]: o for o in outcomes.outcomes() if o["part"] == part}

    def visit(
        self, image_ids: Iterable[int], names: Iterable[str] | None = None, progress: Progress | None = None
    ) -> None:
        """Measure some rows, or all, on some images, and add the results to the table."""
        wanted = list(self._numbers.values()) if names is None else [self._numbers[name] for name in names]
        todo = []
        for image_id in image_ids:
            if image_id in self._known:
                self.table.take(self._known[image_id])
            else:
                todo.append(image_id)
        pictures: Iterable[Any] = images_ahead(self._dataset, todo)
        for image_id, picture in progress(pictures, len(todo)) if progress and todo else pictures:
            outcome: Outcome = self._meter.measure(self._dataset, image_id, picture, wanted) | {"part": self._part}
            self._outcomes.append(outcome)
            self.table.take(outcome)


def pictures_with_objects(dataset: Dataset) -> list[int]:
    """Return the ids of the images that show an object to score.

    Raises:
        DatasetError: No image shows one.
    """
    ids = [image_id for image_id in dataset.image_ids if scored_annotations(dataset, image_id)]
    if not ids:
        raise DatasetError(
            f"dataset {dataset.name} must have an object to score, got none: an annotated area must be at least 1"
        )
    return ids
