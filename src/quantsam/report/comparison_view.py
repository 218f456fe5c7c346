"""Two results side by side: the tables that the page shows first, and the data for its script to make others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantsam.report.comparison import Comparison, image_name, name_of
from quantsam.report.findings import points
from quantsam.report.tables import Table, TableRow
from quantsam.results.objects import TIE, GroupRow, ObjectRow, group_rows, whole, worst_first

MOST_WORST = 10
_GROUP = (">objects", ">first %", ">second %", ">difference", ">better", ">worse", ">alike")
_ERROR = "Difference: second less first, ± one standard error, over the same objects."


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """What the page shows of a comparison.

    Attributes:
        name: Name of its place on the page and of its data.
        options: Names of the results that a reader can choose.
        first: Number of the first result.
        second: Number of the second result.
        summary: How the two results differ over all objects.
        command: Command that prints the same.
        tables: Tables by their names in the page's script: `size`, `category` if categories are known, `worst`.
        notes: Notes on what was left out.
        data: Data for the page's script.
    """

    name: str
    options: tuple[str, ...]
    first: int
    second: int
    summary: str
    command: str
    tables: dict[str, Table]
    notes: tuple[str, ...]
    data: dict[str, Any]


def comparison_view(name: str, comparison: Comparison) -> ComparisonView:
    """Return the view of a comparison."""
    rows, results = comparison.rows, comparison.results
    first, second = results[comparison.first], results[comparison.second]
    tables = {"size": _group_table("By size", "size", group_rows(rows, "size"))}
    if any(row.category is not None for row in rows):
        tables["category"] = _group_table("By category", "category", group_rows(rows, "category"))
    tables["worst"] = _worst_table(worst_first(rows)[:MOST_WORST])
    return ComparisonView(
        name=name,
        options=tuple(name_of(result) for result in results),
        first=comparison.first,
        second=comparison.second,
        summary=_summary(name_of(first), name_of(second), whole(rows)),
        command=f"quantsam results --compare {first.record.id[:8]} {second.record.id[:8]}",
        tables=tables,
        notes=tuple(_notes(comparison)),
        data={**comparison.to_json(), "worst": MOST_WORST},
    )


def _summary(first: str, second: str, all_objects: GroupRow) -> str:
    change = points(all_objects.difference or 0.0, all_objects.difference_se)
    text = f"{second} less {first}: {change} points of mIoU over {all_objects.objects:,} objects. "
    better, worse, alike = all_objects.wins, all_objects.losses, all_objects.ties
    return text + f"{better:,} objects are better, {worse:,} worse, {alike:,} within {TIE:g} points."


def _group_table(title: str, by: str, groups: Sequence[GroupRow]) -> Table:
    rows = []
    for group in groups:
        difference = group.difference or 0.0
        counts = (f"{count:,}" for count in (group.wins, group.losses, group.ties))
        means = (f"{group.miou - difference:.2f}", f"{group.miou:.2f}")
        cells = (group.group, f"{group.objects:,}", *means, points(difference, group.difference_se), *counts)
        rows.append(TableRow(cells))
    note = f"{_ERROR} Better, worse: objects whose IoU differs by more than {TIE:g} points."
    return Table(title, (by, *_GROUP), tuple(rows), note)


def _worst_table(rows: Sequence[ObjectRow]) -> Table:
    cells = [
        (
            str(row.annotation_id),
            row.category or "",
            image_name(row.image_id, row.file),
            row.size,
            f"{row.baseline_iou or 0.0:.2f}",
            f"{row.iou:.2f}",
            f"{row.difference or 0.0:+.2f}",
        )
        for row in rows
    ]
    columns = ("object", "category", "image", "size", ">first %", ">second %", ">difference")
    return Table("Objects that lose most", columns, tuple(map(TableRow, cells)), "IoU with the ground truth.")


def _notes(comparison: Comparison) -> list[str]:
    notes = []
    if len(comparison.rows) < comparison.objects:
        text = f"The page holds {len(comparison.rows):,} of {comparison.objects:,} objects, evenly spaced by their id: "
        notes.append(text + "figures here are of those alone.")
    if comparison.left_out:
        notes.append(f"{comparison.left_out} older results cannot be chosen here; the command takes any two.")
    if all(row.category is None for row in comparison.rows):
        notes.append("The store does not know the categories: evaluate --again keeps them.")
    return notes
