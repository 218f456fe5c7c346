"""What a repair changed: results of one plan without and with repairs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from quantsam.report.tables import STANDARD_ERROR, Table, TableRow, number
from quantsam.results.distribution_record import DistributionRecord, SiteDistribution
from quantsam.results.kept import all_but_repairs
from quantsam.results.record import Record
from quantsam.results.sensitivity_record import RowScore, SensitivityRecord

R = TypeVar("R", bound=Record)

_MOST_ROWS = 12


def twins(records: Sequence[R]) -> list[tuple[R, R]]:
    """Return the pairs of records that differ only in repairs, the unrepaired record first.

    Args:
        records: Records of one kind and model, newest first.

    Returns:
        Each unrepaired record with the newest record of each set of repairs, in the order of the repaired records.
    """
    plain: dict[tuple[Any, ...], R] = {}
    for record in records:
        if not record.settings.get("repairs"):
            plain.setdefault(all_but_repairs(record), record)
    found: dict[tuple[str, str], tuple[R, R]] = {}
    for record in records:
        before = plain.get(all_but_repairs(record)) if record.settings.get("repairs") else None
        if before is not None:
            found.setdefault((before.id, str(record.settings["repairs"])), (before, record))
    return list(found.values())


def layer_pairs(before: SensitivityRecord, after: SensitivityRecord) -> list[tuple[RowScore, RowScore]]:
    """Return the rows that two studies share; rows that hurt most without repairs come first."""
    repaired = {row.name: row for row in after.rows}
    return [(row, repaired[row.name]) for row in before.worst_first if row.name in repaired]


def repaired_layers_table(before: SensitivityRecord, after: SensitivityRecord) -> Table:
    """Return a table of the layers that hurt most: their cost before and after repair."""
    rows = [
        TableRow(
            (
                old.name,
                old.kind,
                number(old.mask_loss),
                number(old.mask_loss_se),
                number(new.mask_loss),
                number(new.mask_loss_se),
                number(old.sqnr_db, ".1f"),
                number(new.sqnr_db, ".1f"),
            )
        )
        for old, new in layer_pairs(before, after)[:_MOST_ROWS]
    ]
    by = str(before.settings.get("by", "layer"))
    columns = (by, "kind", ">mask loss", ">± SE", ">repaired", ">± SE", ">SQNR dB", ">repaired")
    title = f"The {by}s that hurt most in {before.label}, and after {_named(after)}"
    return Table(title, columns, tuple(rows), f"Mask loss of a {by} quantized alone. {STANDARD_ERROR}")


def repaired_sites_table(before: DistributionRecord, after: DistributionRecord) -> Table:
    """Return a table of rounded activations with the widest channels or positions, before and after repair."""
    repaired = {site.site: site for site in after.sites}
    rounded = [site for site in before.sites if site.role == "activation" and site.format is not None]
    pairs = [(site, repaired[site.site]) for site in rounded if site.site in repaired]
    pairs.sort(key=lambda pair: -max(pair[0].outlier_ratio or 0.0, pair[0].position_ratio or 0.0))
    rows = [TableRow(_site_cells(old, new)) for old, new in pairs[:_MOST_ROWS]]
    columns = ("site", "kind", ">outlier ratio", ">repaired", ">position ratio", ">repaired", ">clipped", ">repaired")
    title = f"Values that are hard to quantize in {before.label}, and after {_named(after)}"
    note = (
        "Outlier ratio: how many times as far the widest channel reaches as the median one; position ratio: the same "
    )
    note += "of the positions of an image. `reflect` moves massive positions into one channel."
    return Table(title, columns, tuple(rows), note)


def _site_cells(old: SiteDistribution, new: SiteDistribution) -> tuple[str, ...]:
    ratios = ((s.outlier_ratio, s.position_ratio) for s in (old, new))
    (outliers, positions), (outliers_after, positions_after) = ratios
    clipped = ("" if s.clipped is None else f"{100 * s.clipped:.2g} %" for s in (old, new))
    figures = (outliers, outliers_after, positions, positions_after)
    return (old.site, old.kind, *(number(value, ".1f") for value in figures), *clipped)


def _named(record: Record) -> str:
    repairs = record.settings.get("repairs")
    return ", ".join(map(str, repairs)) if isinstance(repairs, list) else ""
