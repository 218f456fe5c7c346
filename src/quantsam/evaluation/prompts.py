"""Prompts from the ground truth, and a model's answers to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantsam.data.dataset import Annotation, BoolMask
from quantsam.errors import InputError, nearest
from quantsam.evaluation.clicks import Click, next_click
from quantsam.prediction.predictor import PROMPTS_A_BATCH, Predictor

MAX_CLICKS = 100
BoxXyxy = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A kind of prompt from the ground truth.

    Attributes:
        clicks: Number of clicks; 0 for the annotated box.
    """

    clicks: int

    @property
    def name(self) -> str:
        """`box`, `click`, `clicks:3`, ..."""
        return {0: "box", 1: "click"}.get(self.clicks, f"clicks:{self.clicks}")


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The model's answer to one prompt: the mask with the highest predicted IoU of three.

    Attributes:
        mask: (H, W) bool, at the image's resolution.
        predicted_iou: The model's own estimate of the IoU.
    """

    mask: BoolMask
    predicted_iou: float


def parse_prompt(text: str) -> Prompt:
    """Read `box`, `click` or `clicks:N`.

    Raises:
        InputError: The text is none of these, or N is out of range.

    >>> parse_prompt("clicks:3")
    Prompt(clicks=3)
    """
    if text in ("box", "click"):
        return Prompt(int(text == "click"))
    match = re.fullmatch(r"clicks:(\d{1,9})", text, re.ASCII)
    if match is None:
        hint = nearest(text, ("box", "click"))
        raise InputError(f"prompts must be box, click or clicks:N, e.g. clicks:3, got {text!r}: {hint}")
    if not 1 <= int(match[1]) <= MAX_CLICKS:
        raise InputError(f"prompts clicks:N must have N from 1 to {MAX_CLICKS}, got {text!r}: write e.g. clicks:3")
    return Prompt(int(match[1]))


def answers(
    predictor: Predictor, prompt: Prompt, annotations: Sequence[Annotation], truths: Sequence[BoolMask]
) -> Iterator[Answer]:
    """Yield the answer to each object's prompt, in the image that `predictor` holds.

    Args:
        predictor: A predictor with its image set.
        prompt: The kind of prompt; with several clicks, the answer is the one after the last click.
        annotations: The objects.
        truths: The objects' masks, (H, W) bool each.
    """
    if prompt.clicks == 0:
        yield from answer_boxes(predictor, [a.box_xyxy for a in annotations])
        return
    for start in range(0, len(truths), PROMPTS_A_BATCH):
        yield from _answer_clicks(predictor, truths[start : start + PROMPTS_A_BATCH], prompt.clicks)


def answer_boxes(predictor: Predictor, boxes_xyxy: Sequence[BoxXyxy]) -> Iterator[Answer]:
    """Yield the answer to each box, in pixels of the image that `predictor` holds."""
    for start in range(0, len(boxes_xyxy), PROMPTS_A_BATCH):
        boxes = torch.tensor(boxes_xyxy[start : start + PROMPTS_A_BATCH], dtype=torch.float32)
        yield from _unbatched(predictor.best_masks(boxes=boxes))


def _answer_clicks(predictor: Predictor, truths: Sequence[BoolMask], count: int) -> list[Answer]:
    """Click on all objects at the same time, each where the object's own answer is wrong.

    An object keeps its answer if every wrong pixel was clicked before.
    """
    clicks: list[list[Click]] = [[] for _ in truths]
    found = [Answer(np.zeros_like(truth), 0.0) for truth in truths]
    active = list(range(len(truths)))
    for _ in range(count):
        nexts = {i: next_click(found[i].mask, truths[i], clicks[i]) for i in active}
        active = [i for i, click in nexts.items() if click is not None]
        if not active:
            break
        for i in active:
            clicks[i].append(nexts[i])  # type: ignore[arg-type]  # None was left out
        points = torch.tensor([[(c.x, c.y) for c in clicks[i]] for i in active], dtype=torch.float32)
        labels = torch.tensor([[int(c.positive) for c in clicks[i]] for i in active])
        result = predictor.best_masks(points=points, labels=labels)
        for i, answer in zip(active, _unbatched(result), strict=True):
            found[i] = answer
    return found


def _unbatched(result: tuple[Tensor, Tensor]) -> Iterable[Answer]:
    masks, iou = result
    return [Answer(mask, quality) for mask, quality in zip(masks.cpu().numpy(), iou.tolist(), strict=True)]
