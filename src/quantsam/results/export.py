"""Export records, and rows of any kind, as tables (CSV, Parquet, Markdown) or in full (JSON)."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from quantsam.errors import InputError
from quantsam.files import atomic_write
from quantsam.results.record import RECORD_FIELDS, Record

Cell: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Cell]

MARKDOWN_COLUMNS = (
    *("model", "scheme", "placement", "engine", "dataset", "prompt", "count", "miou", "standard_error"),
    *("miou_small", "miou_medium", "miou_large", "saved_mib", "encoder_ms_median"),
)
"""What a Markdown export shows, where any record has it; the other formats hold everything."""

_MAPPINGS = {
    **{"figures": "", "times": "", "environment": "environment."},
    **{"settings": "settings.", "results": "results."},
}


def records_to_rows(records: Iterable[Record]) -> list[Row]:
    """Flatten records into rows that all have the same columns in the same order.

    Fields, figures and times keep their names (`miou`, `wall_s`). Other mappings put their name in front
    (`environment.torch`, `settings.seed`). A value that a record lacks is `None`. A list or mapping among the settings
    becomes JSON text.
    """
    kept = list(records)
    columns = _columns(kept)
    rows = []
    for record in kept:
        row: Row = {name: getattr(record, name, None) for name in columns}
        for group, prefix in _MAPPINGS.items():
            row |= {f"{prefix}{key}": _cell(value) for key, value in getattr(record, group).items()}
        rows.append(row)
    return rows


def _columns(records: Iterable[Record]) -> list[str]:
    columns = {name: None for name in RECORD_FIELDS if name not in _MAPPINGS}  # a dict keeps its order
    for group, prefix in _MAPPINGS.items():
        columns |= {f"{prefix}{key}": None for record in records for key in getattr(record, group)}
    return list(columns)


def _cell(value: Any) -> Cell:
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value


def markdown_table(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str]) -> str:
    """Return rows as a Markdown table; columns of numbers are aligned to the right.

    Args:
        rows: The rows; a missing or `None` value leaves its cell empty.
        columns: Names of the columns, in order.

    Returns:
        The table, with a line break at its end.

    >>> rows = [{"scheme": "int8", "miou": 38.6, "count": None}]
    >>> print(markdown_table(rows, ["scheme", "miou", "count"]), end="")
    | scheme | miou | count |
    | --- | ---: | --- |
    | int8 | 38.60 |  |
    """
    lines = [[_escape(column) for column in columns]]
    lines.append(["---:" if _is_numeric(row.get(column) for row in rows) else "---" for column in columns])
    lines += [[_shown(row.get(column)) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _is_numeric(values: Iterable[Cell]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present)


def _shown(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # Two decimals suit percents and milliseconds; below 1 they would hide small standard errors.
        return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    return _escape(str(value))


def _escape(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def export(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write records to a file in the format of its suffix: `.csv`, `.parquet`, `.md` or `.json`.

    CSV and Parquet hold the columns of `records_to_rows`, Markdown those of `MARKDOWN_COLUMNS`, JSON a list of
    `Record.to_json_dict`. The file is written completely or not at all.

    Raises:
        InputError: The suffix is none of these.
        OutputError: The file cannot be written.
    """
    write = _WRITERS.get(Path(path).suffix.lower())
    if write is None:
        raise InputError(f"export path must end in {', '.join(_WRITERS)}, got {os.fspath(path)!r}")
    with atomic_write(path) as aside:
        write(list(records), aside)


def export_rows(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> int:
    """Write rows with the same columns to a file in the format of its suffix, as `export` does.

    A list or mapping in a cell becomes JSON text; in JSON it stays as it is. CSV and JSON are written row by row.

    Returns:
        The number of rows.

    Raises:
        InputError: The suffix is none of these.
        OutputError: The file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(f"export path must end in {', '.join(_WRITERS)}, got {os.fspath(path)!r}")
    count = 0

    def counted() -> Iterator[Mapping[str, Any]]:
        nonlocal count
        for row in rows:
            count += 1
            yield row if suffix == ".json" else {name: _cell(value) for name, value in row.items()}

    with atomic_write(path) as aside:
        if suffix == ".csv":
            _stream_csv(counted(), aside)
        elif suffix == ".json":
            _stream_json(counted(), aside)
        else:
            kept = [dict(row) for row in counted()]
            names = list(kept[0]) if kept else []
            if suffix == ".md":
                aside.write_text(markdown_table(kept, names), encoding="utf-8")
            else:
                _rows_to_parquet(kept, names, aside)
    return count


def _stream_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)


def _stream_json(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        before = "[\n"
        for row in rows:
            file.write(before + json.dumps(dict(row), ensure_ascii=False))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def _write_csv(records: list[Record], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _columns(records), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records_to_rows(records))


def _write_parquet(records: list[Record], path: Path) -> None:
    _rows_to_parquet(records_to_rows(records), _columns(records), path)


def _rows_to_parquet(rows: Sequence[Mapping[str, Cell]], names: Sequence[str], path: Path) -> None:
    import pyarrow as pa  # imported here, because it takes longer than the rest of quantsam.results
    from pyarrow import parquet

    columns = {}
    for name in names:
        values = [row[name] for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if not kinds:  # no values to infer a type from, and a column of Arrow's null type cannot be joined
            columns[name] = pa.array(values, pa.string() if name in RECORD_FIELDS else pa.float64())
        elif len(kinds) == 1:
            columns[name] = pa.array(values)
        elif kinds == {int, float}:
            columns[name] = pa.array(values, pa.float64())
        else:  # a setting such as `limit`, which is a number in some records and a word in others
            columns[name] = pa.array([None if value is None else str(value) for value in values], pa.string())
    with path.open("wb") as file:  # given a path, Arrow cannot write a file whose folder is not UTF-8
        parquet.write_table(pa.table(columns), file)


def _write_markdown(records: list[Record], path: Path) -> None:
    rows = records_to_rows(records)
    columns = [name for name in MARKDOWN_COLUMNS if not rows or any(row.get(name) is not None for row in rows)]
    path.write_text(markdown_table(rows, columns), encoding="utf-8")


def _write_json(records: list[Record], path: Path) -> None:
    text = json.dumps([record.to_json_dict() for record in records], indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[list[Record], Path], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".md": _write_markdown,
    ".json": _write_json,
}
