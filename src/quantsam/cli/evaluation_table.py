"""The table of an evaluation: schemes of one model on one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.output import print_json, print_table

if TYPE_CHECKING:
    from quantsam.metrics.summary import PairedDifference
    from quantsam.results.record import Record

_PRECISION = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "small",
    "ap_medium": "medium",
    "ap_large": "large",
    "ap_rare": "rare",
    "ap_common": "common",
    "ap_frequent": "frequent",
    "ar100": "AR100",
    "ar300": "AR300",
}


def report(records: Sequence[Record], as_json: bool, baseline: Record | None = None) -> None:
    """Print records of one model and dataset, compared with FP32: a table, or JSON.

    Args:
        records: Records with the scores of their objects.
        as_json: Print JSON, of these records only.
        baseline: FP32's record, if it is not one of `records`; it is then shown first. If there is no FP32 record at
            all, the others are compared with the first.
    """
    from quantsam.results.kept import is_float

    own = next((record for record in records if is_float(record)), None)
    first = own or baseline or records[0]
    shown = records if first in records else [first, *records]
    if "ap" in first.figures:
        _report_precision(records, shown, first, as_json)
        return
    differences = {record.id: _difference(record, first) for record in shown}
    if as_json:
        print_json([_json(record, first, differences[record.id]) for record in records])
        return
    alone = len(shown) == 1
    columns = [
        "scheme",
        ">mIoU",
        ">± SE",
        ">small",
        ">medium",
        ">large",
        *([] if alone else [f">vs {first.label}"]),
        ">saved MiB",
        ">encoder MiB",
    ]
    rows: list[list[object]] = [_cells(record, differences[record.id], alone) for record in shown]
    figures = first.figures
    fills = [_points(figures[f"box_fill_miou{size}"]) for size in ("", "_small", "_medium", "_large")]
    rows.append(["(filled box)", fills[0], "", *fills[1:], *([] if alone else [""]), "", ""])
    counts = ", ".join(f"{figures[f'count_{size}']} {size}" for size in ("small", "medium", "large"))
    title = f"{first.model} on {first.dataset}, {first.prompt} prompts: {figures['count']} objects ({counts})"
    print_table(title, columns, rows, spare=(">saved MiB", ">± SE"))
    _print_calibration(records)


def _report_precision(records: Sequence[Record], shown: Sequence[Record], first: Record, as_json: bool) -> None:
    """Print average precision with a detector's boxes. LVIS's records have other columns than COCO's."""
    if as_json:
        print_json([record.to_json_dict() for record in records])
        return
    kinds = {name: title for name, title in _PRECISION.items() if name in first.figures}
    alone = len(shown) == 1
    columns = ["scheme", *(f">{title}" for title in kinds.values()), *([] if alone else [f">vs {first.label}"])]
    columns += [">saved MiB", ">encoder MiB"]
    rows: list[list[object]] = [
        [
            record.label,
            *(_points(record.figures[name]) for name in kinds),
            *([] if alone else [_versus(record, first)]),
            *_size_cells(record),
        ]
        for record in shown
    ]
    boxes = f"{first.figures['count']} boxes of {first.settings['detections']}"
    title = f"{first.model} on {first.dataset}, {boxes}: average precision of masks"
    print_table(title, columns, rows, spare=(">saved MiB", ">AR300", ">AR100", ">AP75", ">encoder MiB", ">AP50"))
    _print_calibration(records)


def _difference(record: Record, first: Record) -> PairedDifference | None:
    from quantsam.results.compare import compare

    return None if record is first else compare(first, record)


def _versus(record: Record, first: Record) -> str:
    return "" if record is first else f"{_number(record.figures['ap']) - _number(first.figures['ap']):+.2f}"


def _print_calibration(records: Sequence[Record]) -> None:
    calibrated = {f"calibrated on {r.calibration}; placement {r.placement}": None for r in records if r.calibration}
    for line in calibrated:
        click.echo(f"\n{line}")


def _points(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cells(record: Record, difference: PairedDifference | None, alone: bool) -> list[object]:
    figures = record.figures
    paired = ""
    if difference is not None:
        error = "" if difference.standard_error is None else f" ± {difference.standard_error:.2f}"
        paired = f"{difference.mean_difference:+.2f}{error}"
    by_size = [_points(figures[f"miou_{size}"]) for size in ("small", "medium", "large")]
    return [
        record.label,
        _points(figures["miou"]),
        _points(figures["standard_error"]),
        *by_size,
        *([] if alone else [paired]),
        *_size_cells(record),
    ]


def _size_cells(record: Record) -> list[str]:
    saved_mib, size_bytes = (_number(record.figures[name]) for name in ("saved_mib", "size_bytes"))
    return [f"{saved_mib:.2f}", f"{size_bytes / 2**20:.2f}"]


def _number(value: float | int | None) -> float:
    return 0.0 if value is None else float(value)


def _json(record: Record, first: Record, difference: PairedDifference | None) -> dict[str, Any]:
    """Return a record and its difference from the baseline, whose id is `compared_with`."""
    import dataclasses

    found = None if difference is None else {**dataclasses.asdict(difference), "compared_with": first.id}
    return record.to_json_dict() | {"paired_difference": found}
