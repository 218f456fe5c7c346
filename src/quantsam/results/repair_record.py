"""The steps of a search for repairs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from quantsam.results.record import JsonValue, Record, parsed_items
from quantsam.results.typed import typed

KIND = "repair"
UNREPAIRED = "none"
"""The step that the others are compared with."""


@dataclass(frozen=True, slots=True)
class RepairStep:
    """One step of a search for repairs.

    Attributes:
        name: The added repairs, `none` for the plan without repairs, or `float: stage3:4:2, ...`.
        repairs: All repairs of the plan in this step.
        kept: Whether later steps build on this one.
        mask_loss: 100 minus the mean IoU, in percent, of the masks with FP32's masks; all images have equal weight.
        mask_loss_se: Standard error of `mask_loss`.
        gain: Decrease of `mask_loss` from the last kept step, paired; None for the first step.
        gain_se: Standard error of `gain`.
        size_bytes: Size of codes, scales and everything that stays in float.
        encoder_ms: Median encoder time on the engine, measured in turn with all steps; None if not timed.
        seconds: Time to make and score the plan.
    """

    name: str
    repairs: tuple[str, ...]
    kept: bool
    mask_loss: float
    mask_loss_se: float | None
    gain: float | None
    gain_se: float | None
    size_bytes: int
    encoder_ms: float | None
    seconds: float

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord(Record):
    """A search for repairs."""

    kind: str = KIND

    @property
    def steps(self) -> list[RepairStep]:
        """The steps, in order.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "steps", lambda e: typed(RepairStep, {**e, "repairs": tuple(e["repairs"])}))

    @property
    def last_kept(self) -> RepairStep:
        """The step that gave the final plan."""
        return [step for step in self.steps if step.kept][-1]

    @property
    def untried(self) -> tuple[str, ...]:
        """The repairs that were asked for and that no step had: the goal was reached or the time was over before."""
        untried = self.results.get("untried")
        return tuple(map(str, untried)) if isinstance(untried, list) else ()

    @property
    def out_of_time(self) -> bool:
        """Whether the search stopped because its time was over."""
        return bool(self.results.get("out_of_time"))

    @property
    def minutes(self) -> float:
        """The time that the search had; infinite if it had no limit."""
        asked = self.settings.get("tried")
        minutes = asked.get("minutes") if isinstance(asked, dict) else None
        return float(minutes) if isinstance(minutes, (int, float)) else float("inf")

    def table(self) -> list[dict[str, Any]]:
        """Return the steps as plain values."""
        return [dataclasses.asdict(step) for step in self.steps]
