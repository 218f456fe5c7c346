"""Tables of a record's objects and of their means by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantsam.cli.output import print_table

if TYPE_CHECKING:
    from quantsam.results.objects import GroupRow, ObjectRow
    from quantsam.results.record import Record


def summary_line(record: Record, other: Record | None, whole: GroupRow) -> str:
    """Return a record's mIoU over all objects, and its difference from another record."""
    from quantsam.results.objects import TIE

    where = f"{record.model} {record.label} on {record.dataset}, {record.prompt} prompts"
    line = f"{where}: mIoU {_points(whole.miou)} over {whole.objects} objects"
    if other is None or whole.difference is None:
        return line
    error = "" if whole.difference_se is None else f" ± {whole.difference_se:.3f} (SE)"
    engine = "" if other.engine == record.engine else f" ({other.engine})"
    line += f"\nminus {other.model} {other.label}{engine}: {whole.difference:+.3f}{error} points of mIoU; "
    unlike = _unlike(record, other)
    line = line if not unlike else f"{line.removesuffix('; ')} (they differ in more: {unlike}); "
    return line + f"{whole.wins} better, {whole.losses} worse, {whole.ties} within {TIE:g} points"


def _unlike(record: Record, other: Record) -> str:
    """Return what else differs between two compared records: prompts, weights, calibration, placement."""
    pairs = {
        "prompts": (other.prompt, record.prompt),
        "weights": (other.weights_digest[:8], record.weights_digest[:8]),
        "calibration": (other.calibration, record.calibration),
        "placement": (other.placement, record.placement),
    }
    told = {name: pair for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]}
    return ", ".join(f"{name} {a} and {b}" for name, (a, b) in told.items())


def groups_table(title: str, groups: Sequence[GroupRow], by: str, other: Record | None, *, wide: bool) -> None:
    """Print means by category, size or image."""
    has_files = any(group.file for group in groups)
    compared = [] if other is None else [f">vs {other.label}", ">± SE", ">better", ">worse", ">ties"]
    columns = [by, *(["file"] if has_files else []), ">objects", ">mIoU", ">± SE", ">predicted", *compared]
    rows = [
        [
            group.group,
            *([group.file] if has_files else []),
            group.objects,
            *map(_points, (group.miou, group.standard_error, group.predicted_iou)),
            *([] if other is None else [_signed(group.difference), _points(group.difference_se)]),
            *([] if other is None else [group.wins, group.losses, group.ties]),
        ]
        for group in groups
    ]
    print_table(title, columns, rows, spare=(">ties", ">predicted", ">± SE"), wide=wide)


def objects_table(rows: Sequence[ObjectRow], record: Record, other: Record | None, *, best: bool, wide: bool) -> None:
    """Print objects one by one."""
    has_files, has_categories = any(row.file for row in rows), any(row.category for row in rows)
    compared = [] if other is None else [f">{other.label}", ">difference"]
    columns = [
        *("object", "image"),
        *(["file"] if has_files else []),
        *(["category"] if has_categories else []),
        *("size", ">area px", f">{record.label}", ">predicted", *compared),
    ]
    cells = [
        [
            *(row.annotation_id, row.image_id),
            *([row.file] if has_files else []),
            *([row.category] if has_categories else []),
            *(row.size, f"{row.area:.0f}", _points(row.iou), _points(row.predicted_iou)),
            *([] if other is None else [_points(row.baseline_iou), _signed(row.difference)]),
        ]
        for row in rows
    ]
    order = "best" if best else "worst"
    by = "difference" if other is not None else "IoU"
    print_table(f"IoU in percent, {order} {by} first", columns, cells, spare=(">area px", "image"), wide=wide)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
