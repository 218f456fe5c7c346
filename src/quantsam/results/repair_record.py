"""What a search for repairs tried, step by step."""

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
    """One thing that was tried.

    Attributes:
        name: The repairs that were added, `none` for the plan without any, or `float: stage3:4:2, ...`.
        repairs: All repairs of the plan that was tried.
        kept: Whether what follows builds on it.
        mask_loss: 100 less the mean IoU, in percent, of the masks with those of FP32; each image counts alike.
        mask_loss_se: Its standard error.
        gain: By how much `mask_loss` is lower than of what was kept before, paired; None of the first step.
        gain_se: Its standard error.
        size_bytes: Codes, scales and all that stays in float.
        encoder_ms: Median on the engine, all steps in turn; None where none was timed.
        seconds: That the plan and its score took.
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
        """What was tried, in order.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "steps", lambda e: typed(RepairStep, {**e, "repairs": tuple(e["repairs"])}))

    @property
    def last_kept(self) -> RepairStep:
        """The step that gave the plan."""
        return [step for step in self.steps if step.kept][-1]

    def table(self) -> list[dict[str, Any]]:
        """Return the steps as plain values."""
        return [dataclasses.asdict(step) for step in self.steps]
