"""`quantsam results`: what was measured so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import record_filters
from quantsam.cli.output import json_option, print_json, print_table
from quantsam.cli.stores import STORE_HELP
from quantsam.cli.written import check_not_read

if TYPE_CHECKING:
    from quantsam.results.record import Record
    from quantsam.results.store import ResultStore


@click.command(name="results")
@record_filters
@click.option(
    "--export",
    "target",
    type=click.Path(path_type=Path),
    help="Write them to a .csv, .parquet, .md or .json.",
)
@click.option("--compare", nargs=2, metavar="ID ID", help="Compare two results object by object (second minus first).")
@click.option("--store", type=click.Path(path_type=Path), help=STORE_HELP)
@json_option
def command(
    target: Path | None,
    compare: tuple[str, str] | None,
    store: Path | None,
    as_json: bool,
    **filters: str | None,
) -> None:
    """List the results so far, newest last; filter, export or compare them."""
    from quantsam.results.export import export
    from quantsam.results.store import RecordFilter, ResultStore

    results = ResultStore(store)
    if compare:
        _compare(results, *compare, as_json=as_json)
        return
    wanted: RecordFilter = {key: value for key, value in filters.items() if value is not None}  # type: ignore[assignment]
    records = results.records(**wanted)
    if target is not None:
        check_not_read("--export", target, [results.path])
        export(records, target)
        click.echo(f"{target}: {len(records)} results", err=True)
        return
    if as_json:
        print_json([record.to_json_dict() for record in records])
        return
    if not records:
        reason = "match" if wanted and results.records() else "are"
        way_out = "leave out a filter" if reason == "match" else "`quantsam evaluate` adds some"
        click.echo(f"no results {reason} in {results.path}: {way_out}", err=True)
        return
    _print(records, f"{len(records)} results in {results.path}")


def _print(records: Sequence[Record], title: str) -> None:
    columns: dict[str, Callable[[Record], object]] = {
        "id": lambda r: r.id[:8],
        "when (UTC)": lambda r: r.created_utc[2:16].replace("T", " "),
        "model": lambda r: r.model,
        "scheme": lambda r: r.label,
        "placement": lambda r: r.placement or "",
        "engine": lambda r: r.engine,
        "dataset": lambda r: r.dataset,
        "prompt": lambda r: r.prompt,
        ">objects": lambda r: r.figures.get("count"),
        ">mIoU": lambda r: _shown(r.figures.get("miou")),
        ">± SE": lambda r: _shown(r.figures.get("standard_error")),
        ">AP": lambda r: _shown(r.figures.get("ap")),
        ">gap": lambda r: _shown(r.figures.get("gap")),
    }
    silent = {
        "placement": len({record.placement for record in records if record.placement}) < 2,
        "engine": len({record.engine for record in records}) < 2,
        ">AP": not any("ap" in record.figures for record in records),
        ">gap": not any("gap" in record.figures for record in records),
    }
    for name in (name for name, is_silent in silent.items() if is_silent):  # it would only make the table wider
        del columns[name]
    spare = ("when (UTC)", "placement", ">objects", ">± SE")
    print_table(title, list(columns), [[cell(record) for cell in columns.values()] for record in records], spare=spare)


def _shown(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _compare(results: ResultStore, first: str, second: str, as_json: bool) -> None:
    from quantsam.results.compare import compare

    a, b = (
        dataclasses.replace(results.get(wanted), scores=tuple(results.scores(wanted))) for wanted in (first, second)
    )
    difference = compare(a, b)
    if as_json:
        print_json({"first": a.id, "second": b.id, **dataclasses.asdict(difference)})
        return
    error = "" if difference.standard_error is None else f" ± {difference.standard_error:.3f}"
    click.echo(
        f"{b.model} {b.scheme} minus {a.model} {a.scheme}: {difference.mean_difference:+.3f}{error} points of mIoU "
        f"over the same {difference.count} objects"
    )
