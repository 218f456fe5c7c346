"""What a comparison of engine and simulation says: equivalence within a margin, not the absence of a difference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quantsam.results.record import Record

Answer = Literal["agrees", "does not agree", "too few objects to tell"]
AGREES: Answer = "agrees"
DIFFERS: Answer = "does not agree"
UNDECIDED: Answer = "too few objects to tell"

MARGIN = 0.1
"""Points of mIoU within which the whole 95 % interval of the gap must lie."""

WIDEST_MARGIN = 0.3
"""Points of mIoU that no noise excuses."""

LEAST_OBJECTS = 30
"""Fewer objects say nothing, whatever their interval: it is made of a normal distribution."""

_FLOORS = ("threads_simulated_", "threads_engine_", "rounding_")
_CONFIDENCE_95 = 1.96
_NEAR = 2.0  # times as far from the same masks as the noise floor's
_SLACK = 0.5  # points of mask IoU


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one engine.

    Attributes:
        answer: `agrees` if the gap surely lies within the margin and the masks are as alike as the noise floor lets
            them be; `does not agree` if one of both surely fails; else `too few objects to tell`.
        margin: The margin that held, in points of mIoU.
        reason: Why not, in a few words; empty where it agrees.
    """

    answer: Answer
    margin: float
    reason: str = ""

    def __str__(self) -> str:
        """The answer with its reason."""
        return f"{self.answer}: {self.reason}" if self.reason else self.answer


def agreement_verdict(record: Record) -> Verdict:
    """Judge a record of kind `agree`.

    The margin is 0.1 points. Where the noise of rounding alone may move the mean over as many objects by more than half
    of that, it is twice that noise, but at most 0.3 points.

    Raises:
        KeyError: The record has no gap.
    """
    figures = record.figures
    noise = max(noise_reach(figures, floor) for floor in _FLOORS)
    margin = min(max(MARGIN, 2 * noise), WIDEST_MARGIN)
    gap, low, high = (figures[name] for name in ("gap", "gap_low", "gap_high"))
    count = figures.get("count") or 0
    if gap is None or low is None or high is None or count < LEAST_OBJECTS:
        return Verdict(UNDECIDED, margin, f"{count} objects, at least {LEAST_OBJECTS} are needed")
    if low > margin or high < -margin:
        reason = f"the gap is beyond {margin:.2g} points, 95 % interval {low:+.2f} to {high:+.2f}"
        return Verdict(DIFFERS, margin, reason + cause(record))
    floor, masks = mask_floor(figures), figures.get("mask_iou")
    if floor is not None and masks is not None and masks < floor:
        return Verdict(
            DIFFERS, margin, f"masks have an IoU of {masks:.1f} %, noise leaves {floor:.1f} %" + cause(record)
        )
    if -margin <= low and high <= margin:
        return Verdict(AGREES, margin)
    return Verdict(UNDECIDED, margin, f"95 % interval {low:+.2f} to {high:+.2f}, margin {margin:.2g} points")


def noise_reach(figures: Mapping[str, float | int | None], floor: str) -> float:
    """Return how far the noise floor alone reaches over all objects, in points of mIoU; 0 where it was not measured.

    It may have been measured on fewer objects: its standard error shrinks with the root of their number.
    """
    error, objects = figures.get(f"{floor}gap_standard_error"), figures.get(f"{floor}objects")
    if error is None or not objects:
        return 0.0
    return _CONFIDENCE_95 * error * math.sqrt(objects / (figures.get("count") or objects))


def mask_floor(figures: Mapping[str, float | int | None]) -> float | None:
    """Return the least mask IoU, in percent, that counts as near the noise floor; None where that was not measured."""
    measured = [value for floor in _FLOORS if (value := figures.get(f"{floor}mask_iou")) is not None]
    return None if not measured else 100 - _NEAR * (100 - min(measured)) - _SLACK


def cause(record: Record) -> str:
    """Return the cause of a disagreement where it is known, with the way out, behind a semicolon; else nothing."""
    if record.settings.get("exact") is False:
        return "; sums of products saturate on this processor: take --processors any"
    ran, planned = (record.figures.get(f"convolutions_{what}") for what in ("integer", "quantized"))
    if ran is not None and planned is not None and ran < planned:
        return f"; the engine computed {planned - ran} of {planned} quantized convolutions in float"
    return ""
