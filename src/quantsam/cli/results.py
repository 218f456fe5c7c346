"""`quantsam results`: list what was measured so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.object_tables import groups_table, objects_table, summary_line
from quantsam.cli.options import record_filters
from quantsam.cli.output import counted, json_option, print_json, print_table, wide_option
from quantsam.cli.stores import STORE_HELP
from quantsam.cli.written import check_not_read

if TYPE_CHECKING:
    from quantsam.results.record import Record
    from quantsam.results.store import ResultStore

_FILTERS = ("model", "scheme", "dataset", "prompt", "placement", "engine", "kind")
_MOST_ROWS = 20


@click.command(name="results")
@click.argument("id", required=False)
@record_filters
@click.option("--objects", is_flag=True, help="For ID or --compare: list every object, the worst first.")
@click.option("--images", is_flag=True, help="List every image, the worst first.")
@click.option("--by", type=click.Choice(["category", "size", "image"]), help="List means by category, size or image.")
@click.option("--best", is_flag=True, help="--objects, --images, --by: list the best first.")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=_MOST_ROWS,
    show_default=True,
    help="Most objects or groups to print; --export and --json have all.",
)
@click.option("--compare", nargs=2, metavar="ID ID", help="Compare two results object by object (second minus first).")
@click.option(
    "--export",
    "target",
    type=click.Path(path_type=Path),
    help="Write the rows (results, objects or groups) to a .csv, .parquet, .md or .json file.",
)
@click.option("--store", type=click.Path(path_type=Path), help=STORE_HELP)
@wide_option
@json_option
def command(
    id: str | None,  # noqa: A002 - the name of the argument
    objects: bool,
    images: bool,
    by: str | None,
    best: bool,
    rows: int,
    compare: tuple[str, str] | None,
    target: Path | None,
    store: Path | None,
    wide: bool,
    as_json: bool,
    **filters: str | None,
) -> None:
    """List the results so far, newest last. With an ID, print one result again or list its objects.

    Objects of a quantized result are shown beside FP32's, if the store holds FP32's for the same data and prompts.

    \b
    quantsam results 3f2a                       a study, search, ... printed again
    quantsam results 3f2a --objects             its objects, the worst first
    quantsam results 3f2a --by category         means by category
    quantsam results --compare 3f2a 9b1c --by size
    """  # noqa: D301 - click looks for the character
    from quantsam.results.store import ResultStore

    given = {name: filters[name] for name in _FILTERS if filters[name] is not None}
    _check(id, compare, given, asks_objects=objects or images or by is not None, groups=(objects, images, by))
    if best and not (objects or images or by == "category"):
        raise click.UsageError("--best is of --objects, --images or --by category, got none of them: leave it out")
    results = ResultStore(store)
    if target is not None:
        check_not_read("--export", target, [results.path])
    out = _Output(target, rows, wide, as_json)
    if compare or objects or images or by is not None:
        first, second = compare or (None, id)
        assert second is not None
        _objects(results, first, second, "image" if images else by, objects, best, out)
    elif id is not None:
        _again(results.get(id), out)
    else:
        _list(results, given, out)


@dataclasses.dataclass(frozen=True, slots=True)
class _Output:
    """Where output goes: to a file, or to standard output as JSON or as a table.

    Attributes:
        target: File to write; None for standard output.
        rows: Most rows of a table.
        wide: Show all columns.
        as_json: Print JSON.
    """

    target: Path | None
    rows: int
    wide: bool
    as_json: bool

    def export(self, rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]], what: str) -> None:
        """Write rows to the file and say how many."""
        from quantsam.results.export import export_rows

        assert self.target is not None
        click.echo(f"{self.target}: {export_rows(rows, self.target)} {what}", err=True)


def _check(
    record_id: str | None,
    compare: tuple[str, str] | None,
    filters: Mapping[str, Any],
    asks_objects: bool,
    groups: tuple[bool, bool, str | None],
) -> None:
    """Refuse options that make no sense together.

    Raises:
        click.UsageError: Two options exclude each other, or one needs another.
    """
    if record_id is not None and compare is not None:
        raise click.UsageError(f"--compare has both ids itself, got {record_id} besides: leave it out")
    if sum(map(bool, groups)) > 1:
        raise click.UsageError("--objects, --images and --by exclude each other: each is a table of its own")
    if asks_objects and record_id is None and compare is None:
        raise click.UsageError("--objects, --images and --by are of one result: give its ID, `quantsam results` lists")
    if filters and (record_id is not None or compare is not None):
        raise click.UsageError(f"--{min(filters)} chooses among all results: leave it out, or the ID")


def _objects(
    results: ResultStore,
    first: str | None,
    second: str,
    by: str | None,
    each: bool,
    best: bool,
    out: _Output,
) -> None:
    """Print a record's objects, or their means by group, beside those of another record or of FP32."""
    from quantsam.results.kept import find_baseline
    from quantsam.results.objects import group_rows, object_rows, whole, worst_first

    other = None if first is None else _with_scores(results, first)
    record = _with_scores(results, second)
    other = other or find_baseline(results, record)
    rows = worst_first(object_rows(results, record, other))
    found: list[Any] = list(rows if by is None else group_rows(rows, by))  # type: ignore[arg-type]
    if best and by != "size":
        found.reverse()
    if out.target is not None:
        out.export((dataclasses.asdict(row) for row in found), "rows")
        return
    if out.as_json:
        ids = {"id": record.id, "compared_with": None if other is None else other.id}
        table = [] if by is None and not each else [dataclasses.asdict(row) for row in found]
        print_json({**ids, "all": dataclasses.asdict(whole(rows)), "rows": table})
        return
    click.echo(summary_line(record, other, whole(rows)))
    if by is None and not each:
        groups_table("by size", group_rows(rows, "size"), "size", other, wide=out.wide)
        if all(row.category is None for row in rows):
            return
        by, found = "category", group_rows(rows, "category")
    if by is not None:
        groups_table(f"by {by}", found[: out.rows], by, other, wide=out.wide)
    else:
        objects_table(found[: out.rows], record, other, best=best, wide=out.wide)
    if len(found) > out.rows:
        click.echo(f"{len(found) - out.rows} more: --rows {len(found)} prints all, --export FILE writes them")


def _with_scores(results: ResultStore, wanted: str) -> Record:
    return dataclasses.replace(results.get(wanted), scores=tuple(results.scores(wanted)))


def _again(record: Record, out: _Output) -> None:
    """Print one record: its description and its rows."""
    rows = record.table()
    if out.target is not None:
        out.export(rows, "rows")
        return
    if out.as_json:
        print_json(record.to_json_dict())
        return
    click.echo(f"{record.kind} {record.id}, {record.created_utc[:16].replace('T', ' ')} UTC")
    said = {
        "model": f"{record.model}, weights {record.weights_digest[:8]}",
        "scheme": f"{record.label}" + (f", placement {record.placement}" if record.placement else ""),
        "calibration": record.calibration,
        "engine": record.engine,
        "data": None if record.dataset is None else f"{record.dataset}, prompts {record.prompt}",
        "settings": ", ".join(f"{k} {_plain(v)}" for k, v in record.settings.items() if v is not None),
        "machine": ", ".join(f"{k} {v}" for k, v in record.environment.items() if v != "not installed"),
        "notes": record.notes,
    }
    for name, text in said.items():
        if text:
            click.echo(f"  {name}: {text}")
    figures = {**record.figures, **record.times}
    if not any("figure" in row for row in rows[:1]):
        click.echo("  " + ", ".join(f"{name} {_plain(value)}" for name, value in figures.items()))
    if rows:
        numeric = {key for key in rows[0] if all(_is_number(row[key]) for row in rows)}
        columns = [f">{key}" if key in numeric else key for key in rows[0]]
        cells = [[_plain(value) for value in row.values()] for row in rows]
        click.echo()
        print_table(f"{len(rows)} rows", columns, cells, wide=out.wide)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return str(value)


def _list(results: ResultStore, filters: Mapping[str, Any], out: _Output) -> None:
    from quantsam.results.export import export

    records = results.records(**filters)
    if out.target is not None:
        export(records, out.target)
        click.echo(f"{out.target}: {counted(len(records), 'result')}", err=True)
    elif out.as_json:
        print_json([record.to_json_dict() for record in records])
    elif not records:
        reason = "match" if filters and results.records() else "are"
        way_out = "leave out a filter" if reason == "match" else "`quantsam evaluate` adds some"
        click.echo(f"no results {reason} in {results.path}: {way_out}", err=True)
    else:
        _print(records, f"{counted(len(records), 'result')} in {results.path}", wide=out.wide)


def _print(records: Sequence[Record], title: str, *, wide: bool) -> None:
    from quantsam.results.differences import telling_columns

    names: dict[str, Callable[[Record], object]] = {
        "model": lambda r: r.model,
        "scheme": lambda r: r.label,
        "dataset": lambda r: r.dataset,
        "prompt": lambda r: r.prompt,
    }
    figures: dict[str, Callable[[Record], object]] = {
        ">objects": lambda r: r.figures.get("count"),
        ">mIoU": lambda r: _shown(r.figures.get("miou")),
        ">± SE": lambda r: _shown(r.figures.get("standard_error") if "miou" in r.figures else None),
        ">AP": lambda r: _shown(r.figures.get("ap")),
        ">gap": lambda r: _shown(r.figures.get("gap")),
    }
    silent = {
        ">AP": not any("ap" in record.figures for record in records),
        ">gap": not any("gap" in record.figures for record in records),
    }
    for name in (name for name, is_silent in silent.items() if is_silent):  # it would only make the table wider
        del figures[name]
    columns: dict[str, Callable[[Record], object]] = {
        "id": lambda r: r.id[:8],
        "when (UTC)": lambda r: r.created_utc[2:16].replace("T", " "),
        **names,
        **telling_columns(records, lambda r: tuple(name(r) for name in names.values())),
        **figures,
    }
    spare = ("when (UTC)", ">objects", ">± SE")
    cells = [[cell(record) for cell in columns.values()] for record in records]
    print_table(title, list(columns), cells, spare=spare, wide=wide)


def _shown(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.2f}"
