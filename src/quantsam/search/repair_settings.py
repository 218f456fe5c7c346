"""What a search for repairs is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from quantsam.errors import InputError, one_of
from quantsam.runtime.engines import PYTORCH
from quantsam.schemes.repairs import REPAIRS, RepairName, parse_repairs

FallBack = Literal["float", "w8a16"]
FALL_BACKS: tuple[FallBack, ...] = get_args(FallBack)


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """What a search for repairs does.

    Attributes:
        repairs: Repairs to try.
        goal: Stop when masks lose no more than this against FP32's masks, in points; None tries all.
        minutes: Start no further trial after this time; None for no limit.
        fall_back: Maximum number of layers that may leave the scheme's formats if repairs do not reach the goal.
        fall_back_to: Format of these layers: `float` or `w8a16`.
        engine: Engine that the plan is for and that is timed; `pytorch` is not timed.
        rounds: Number of timed inferences per plan.
    """

    repairs: tuple[RepairName, ...] = REPAIRS
    goal: float | None = None
    minutes: float | None = None
    fall_back: int = 0
    fall_back_to: FallBack = "float"
    engine: str = PYTORCH
    rounds: int = 15

    def check(self) -> None:
        """Check the settings before long work.

        Raises:
            InputError: A value is unknown or out of range.
        """
        if not self.repairs:
            raise InputError(f"repairs to try must be some of {', '.join(REPAIRS)}, got none")
        parse_repairs(self.repairs)
        if self.fall_back_to not in FALL_BACKS:
            raise InputError(one_of("fall_back_to", self.fall_back_to, FALL_BACKS))
        if self.fall_back < 0 or self.rounds < 1:
            raise InputError(
                f"fall_back must be at least 0 and rounds at least 1, got {self.fall_back} and {self.rounds}"
            )
        for name in ("goal", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{name} must be a number from 0 on, got {value}")


USUAL = RepairSettings()
