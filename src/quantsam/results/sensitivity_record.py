"""The results of a sensitivity study, row by row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantsam.errors import InputError
from quantsam.results.record import JsonValue, Record, parsed_items
from quantsam.results.typed import typed

KIND = "sensitivity"
SEARCH = "search"
"""The setting that a study has which a search measured for its own use: the cost that it searched by."""


@dataclass(frozen=True, slots=True)
class RowScore:
    """The effect of quantizing one unit, or all units but one.

    Attributes:
        unit: Name of the unit: `stage3:4:2`, `stage3:4`, `stage3` or a kind.
        kind: Kind of the unit's layers; `mixed` for several.
        part: `both`, `weights` or `activations`.
        layers: Addresses of the unit's layers.
        drop: Points of mIoU lost against FP32, paired; negative for a gain. None if no masks were computed.
        drop_se: Standard error of `drop`.
        mask_loss: 100 minus the mean IoU, in percent, of the masks with FP32's masks; needs no ground truth.
        mask_loss_se: Standard error of `mask_loss`.
        sqnr_db: Power of FP32's embedding over power of the difference from it, in dB; None if nothing differs.
        images: Number of images measured.
        objects: Number of objects measured.
    """

    unit: str
    kind: str
    part: str
    layers: tuple[str, ...]
    drop: float | None
    drop_se: float | None
    mask_loss: float | None
    mask_loss_se: float | None
    sqnr_db: float | None
    images: int
    objects: int

    @property
    def name(self) -> str:
        """The unit, and the part unless it is `both`."""
        return self.unit if self.part == "both" else f"{self.unit} {self.part}"

    @property
    def damage(self) -> float:
        """The rank of a row: its mask loss, or the embedding's noise (-SQNR) if no masks were computed."""
        if self.mask_loss is not None:
            return self.mask_loss
        return -math.inf if self.sqnr_db is None else -self.sqnr_db

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityRecord(Record):
    """A study of which layers hurt."""

    kind: str = KIND

    @property
    def is_of_a_search(self) -> bool:
        """Whether a search measured this study for its own use; older versions did not record this."""
        return SEARCH in self.settings

    @property
    def rows(self) -> list[RowScore]:
        """The rows, in the order of the forward pass.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "rows", lambda e: typed(RowScore, {**e, "layers": tuple(e["layers"])}))

    @property
    def worst_first(self) -> list[RowScore]:
        """The rows, most harmful first."""
        return sorted(self.rows, key=lambda row: -row.damage)

    def table(self) -> list[dict[str, Any]]:
        """Return the rows as plain values."""
        return [dataclasses.asdict(row) for row in self.rows]


@dataclass(frozen=True, slots=True)
class RankAgreement:
    """How well an estimate reproduces the ranking of an exact study.

    Attributes:
        spearman: Rank correlation over the rows that matter; None for fewer than three.
        rows: Number of rows that matter.
        worst_found: Number of the exact study's worst rows that are among the estimate's worst.
        worst: Number of worst rows requested.
    """

    spearman: float | None
    rows: int
    worst_found: int
    worst: int


def compare_ranks(
    exact: Sequence[RowScore], estimate: Sequence[RowScore], *, least_drop: float = 0.1, worst: int = 5
) -> RankAgreement:
    """Compare an estimate's ranking with the drop in mIoU of an exact study.

    Args:
        exact: Rows of the exact study.
        estimate: Rows of the estimate, with the same names, in any order.
        least_drop: Rows with a smaller drop do not matter.
        worst: Number of worst rows that should be found.

    Raises:
        InputError: The rows do not have the same names.
    """
    from scipy.stats import spearmanr

    guessed = {row.name: row.damage for row in estimate}
    truth = {row.name: row.drop for row in exact if row.drop is not None}
    if guessed.keys() != truth.keys():
        odd = sorted(guessed.keys() ^ truth.keys())
        raise InputError(f"studies must have the same rows to be compared, got {len(odd)} in one only, e.g. {odd[:1]}")
    matter = [name for name, drop in truth.items() if drop > least_drop]
    spearman = None
    if len(matter) > 2:
        spearman = float(spearmanr([truth[n] for n in matter], [guessed[n] for n in matter]).statistic)
    top = [set(sorted(scores, key=lambda n: -scores[n])[:worst]) for scores in (truth, guessed)]
    return RankAgreement(spearman, len(matter), len(top[0] & top[1]), len(top[0]))
