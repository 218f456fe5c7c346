"""Ask a model about every image of a dataset, and keep the outcomes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol, TypeVar

from quantsam.data.dataset import Dataset, UInt8Image
from quantsam.evaluation.ahead import images_ahead
from quantsam.evaluation.journal import Outcome
from quantsam.evaluation.prompts import Answer
from quantsam.prediction.predictor import Predictor
from quantsam.progress import Progress
from quantsam.results.record import JsonValue

Question = TypeVar("Question")


class Interview(Protocol[Question]):
    """The questions about an image, and the part of the answers to keep."""

    def asks(self, image_id: int) -> bool:
        """Return whether there are questions about an image; an image without questions is not read."""
        ...

    def questions(self, image_id: int) -> Sequence[Question]:
        """Return the questions about an image."""
        ...

    def answers(self, predictor: Predictor, questions: Sequence[Question]) -> Iterable[Answer]:
        """Answer all questions about the image that `predictor` holds, in order."""
        ...

    def row(self, question: Question, answer: Answer) -> list[JsonValue]:
        """Return the part of an answer that is kept."""
        ...


def run(
    predictor: Predictor,
    dataset: Dataset,
    interview: Interview[Question],
    image_ids: Sequence[int],
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Ask about some images.

    Args:
        predictor: Encodes the images and answers the questions.
        dataset: The dataset that holds the images.
        interview: The questions.
        image_ids: Ids of the images to ask about.
        progress: Wraps the iteration over the images.

    Yields:
        `image_id`, `rows` and `wall_s`; if there were questions, also `encoder_ms` per image and `prompt_ms` per
        question.
    """
    pictures: Iterable[Any] = _pictures(dataset, interview, image_ids)
    last = time.perf_counter()
    for image_id, picture in progress(pictures, len(image_ids)) if progress else pictures:
        outcome: Outcome = {"image_id": image_id, "rows": []}
        if picture is not None:
            questions = interview.questions(image_id)
            started = time.perf_counter()
            predictor.set_image(picture)
            outcome["encoder_ms"] = 1000 * (time.perf_counter() - started)
            spent: list[float] = []
            found = _timed(interview.answers(predictor, questions), spent)
            outcome["rows"] = [interview.row(q, a) for q, a in zip(questions, found, strict=True)]
            outcome["prompt_ms"] = 1000 * sum(spent) / len(questions)
        now = time.perf_counter()
        yield outcome | {"wall_s": now - last}
        last = time.perf_counter()


def _pictures(
    dataset: Dataset, interview: Interview[Any], image_ids: Sequence[int]
) -> Iterator[tuple[int, UInt8Image | None]]:
    """Yield the ids in order, with the image if there are questions about it."""
    with closing(images_ahead(dataset, [image_id for image_id in image_ids if interview.asks(image_id)])) as ahead:
        for image_id in image_ids:
            yield image_id, next(ahead)[1] if interview.asks(image_id) else None


def times(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Return `encoder_ms_median`, `prompt_ms_median` and `wall_s`, without the pauses of an interrupted evaluation."""
    samples: dict[str, list[float]] = {"encoder_ms": [], "prompt_ms": [], "wall_s": []}
    for outcome in outcomes:
        for name, values in samples.items():
            values += [outcome[name]] if name in outcome else []
    wall_s = sum(samples.pop("wall_s"))
    medians = {f"{name}_median": statistics.median(values) for name, values in samples.items() if values}
    return {**medians, "wall_s": wall_s}


def _timed(items: Iterable[Answer], spent: list[float]) -> Iterator[Answer]:
    """Yield the items, and note the seconds that each one took."""
    iterator = iter(items)
    while True:
        started = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        finally:
            spent.append(time.perf_counter() - started)
        yield item
