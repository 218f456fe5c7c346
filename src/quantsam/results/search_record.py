"""The schemes that a search found, beside the hand-made ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantsam.results.record import JsonValue, Record, parsed_items
from quantsam.results.typed import typed

KIND = "search"
FOUND = "found"


@dataclass(frozen=True, slots=True)
class SearchEntry:
    """One scheme.

    Attributes:
        name: Name of the scheme.
        origin: `found`, `hand-made`, or `uniform`: one format everywhere.
        on_front: Whether no other scheme loses less at lower cost, on the images of the search.
        formats: Format of each layer, in the order of the record's `layers`.
        cost: Cost of the scheme, in the record's `unit`.
        size_bytes: Size of the encoder's weights.
        drop: Points of mIoU lost against FP32 on the images of the search, paired.
        drop_se: Standard error of `drop`.
        mask_loss: 100 minus the mean IoU, in percent, of the masks with FP32's masks.
        mask_loss_se: Standard error of `mask_loss`.
        held_out_drop: As `drop`, on images that the search did not see; None if not measured.
        held_out_drop_se: Standard error of `held_out_drop`.
        held_out_mask_loss: As `mask_loss`, on images that the search did not see.
        engine_drop: As `held_out_drop`, computed by the engine.
        measured_ms: Time of the whole encoder on the engine.
    """

    name: str
    origin: str
    on_front: bool
    formats: tuple[str, ...]
    cost: float
    size_bytes: int
    drop: float
    drop_se: float | None
    mask_loss: float
    mask_loss_se: float | None
    held_out_drop: float | None = None
    held_out_drop_se: float | None = None
    held_out_mask_loss: float | None = None
    engine_drop: float | None = None
    measured_ms: float | None = None

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord(Record):
    """A search for schemes."""

    kind: str = KIND

    @property
    def entries(self) -> list[SearchEntry]:
        """The schemes, cheapest first.

        Raises:
            StoreError: The record is damaged.
        """
        return parsed_items(self, "entries", lambda e: typed(SearchEntry, {**e, "formats": tuple(e["formats"])}))

    @property
    def front(self) -> list[SearchEntry]:
        """The schemes that no other scheme beats in cost without a larger mask loss, cheapest first."""
        return [entry for entry in self.entries if entry.on_front]

    @property
    def chosen(self) -> SearchEntry | None:
        """The scheme within the budget or the allowed drop; None if neither was given."""
        return next((entry for entry in self.entries if entry.name == self.scheme), None)

    def table(self) -> list[dict[str, Any]]:
        """Return the schemes as plain values, without their layers' formats."""
        return [{k: v for k, v in dataclasses.asdict(entry).items() if k != "formats"} for entry in self.entries]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other point beats (the Pareto front), by first value.

    >>> pareto([(2.0, 1.0), (1.0, 3.0), (2.0, 2.0), (3.0, 1.0)])
    [1, 0]
    """
    best = float("inf")
    kept = []
    for index in sorted(range(len(points)), key=lambda i: (points[i], i)):
        if points[index][1] < best:
            kept.append(index)
            best = points[index][1]
    return kept


def dominating(entry: SearchEntry, entries: Sequence[SearchEntry]) -> SearchEntry | None:
    """Return the cheapest found scheme that costs less than `entry` and loses no more mIoU, on held-out images.

    If no images were held out, the images of the search count.
    """

    def lost(one: SearchEntry) -> float:
        return one.drop if one.held_out_drop is None else one.held_out_drop

    better = [e for e in entries if e.origin == FOUND and e.cost < entry.cost and lost(e) <= lost(entry)]
    return min(better, key=lambda e: e.cost, default=None)
