"""The result of comparing engine and simulation: equivalence within a margin, not absence of a difference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quantsam.results.record import Record, parsed_items

KIND = "agree"

Answer = Literal["agrees", "does not agree", "too few objects to tell"]
AGREES: Answer = "agrees"
DIFFERS: Answer = "does not agree"
UNDECIDED: Answer = "too few objects to tell"

MARGIN = 0.1
"""Points of mIoU within which the whole 95 % interval of the gap must lie."""

LEAST_OBJECTS = 30
"""Fewer objects say nothing, whatever their interval: it is made of a normal distribution."""

_NEAR = 2.0  # allowed distance from the same masks, as a multiple of the noise floor's
_SLACK = 0.5  # points of mask IoU


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one engine.

    Attributes:
        answer: `agrees` if the gap certainly lies within the margin and the masks are as similar as rounding noise
            allows; `does not agree` if either certainly fails; else `too few objects to tell`.
        reason: Why the engine does not agree, in a few words; empty if it agrees.
    """

    answer: Answer
    reason: str = ""

    def __str__(self) -> str:
        """Return the answer with its reason."""
        return f"{self.answer}: {self.reason}" if self.reason else self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRecord(Record):
    """An engine compared with the simulation of its plan."""

    kind: str = KIND

    @property
    def verdict(self) -> Verdict:
        """The comparison's verdict on the engine; see `Verdict`."""
        return _verdict(self)

    @property
    def silently_float(self) -> list[str]:
        """Layers that the plan quantizes but the engine ran in float.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "silently_float", str)

    @property
    def between(self) -> list[str]:
        """Other engines that ran the same scheme; the figures `between_ENGINE_...` compare this engine with them.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "between", str)


def engines_between(figures: Mapping[str, Any]) -> list[str]:
    """Return the other engines that a record of an earlier version compares with, read from its figures' names."""
    ends = [re.fullmatch(r"between_(.+)_gap", name) for name in figures]
    return [found[1] for found in ends if found]


def _verdict(record: Record) -> Verdict:
    """Judge a comparison.

    If the simulation in exact integers was compared too, that comparison counts: it is what the plan promises, and it
    has less noise.
    """
    figures = record.figures
    prefix = "exact_" if figures.get("exact_gap_low") is not None else ""
    low, high, masks = (figures.get(f"{prefix}{name}") for name in ("gap_low", "gap_high", "mask_iou"))
    count = figures.get("count") or 0
    if count < LEAST_OBJECTS:
        return Verdict(UNDECIDED, f"{count} objects, at least {LEAST_OBJECTS} are needed")
    if low is None or high is None or masks is None:
        return Verdict(UNDECIDED, "the record has no interval of the gap: run agree again")
    interval = f"margin {MARGIN:g} points, 95 % interval {low:+.2f} to {high:+.2f}"
    if low > MARGIN or high < -MARGIN:
        return Verdict(DIFFERS, interval + cause(record))
    floor = mask_floor(figures)
    if floor is None:
        return Verdict(UNDECIDED, "the noise of rounding was not measured: run agree again with --noise-images")
    if masks < floor:
        reason = f"masks have an IoU of {masks:.1f} % with the simulation's, noise leaves {floor:.1f} %"
        return Verdict(DIFFERS, reason + cause(record))
    return Verdict(AGREES) if low >= -MARGIN and high <= MARGIN else Verdict(UNDECIDED, interval)


def mask_floor(figures: Mapping[str, float | int | None]) -> float | None:
    """Return the least mask IoU, in percent, that counts as rounding noise; None if the noise was not measured.

    The noise is the distance between the simulation in floats and the same simulation in integers.
    """
    measured = figures.get("rounding_mask_iou")
    return None if measured is None else 100 - _NEAR * (100 - measured) - _SLACK


def cause(record: Record) -> str:
    """Return a disagreement's known cause and its remedy, after a semicolon; empty if the cause is unknown."""
    if record.settings.get("exact") is False:
        return "; sums of products saturate on this processor: take --processors any"
    ran, planned = (record.figures.get(f"convolutions_{what}") for what in ("integer", "quantized"))
    if ran is not None and planned is not None and ran < planned:
        return f"; the engine computed {planned - ran} of {planned} quantized convolutions in float"
    return ""
