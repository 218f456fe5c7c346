"""`quantsam results`: what was measured so far."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from quantsam.results.store import ResultStore


@click.command(name="results")
@click.option("--model", help="Only this model; * and ? match anything.")
@click.option("--scheme", help="Only this scheme.")
@click.option("--dataset", help="Only this dataset.")
@click.option("--prompt", help="Only this kind of prompt.")
@click.option("--placement", help="Only this placement.")
@click.option(
    "--export",
    "target",
    type=click.Path(path_type=Path),
    help="Write them to a .csv, .parquet, .md or .json.",
)
@click.option("--compare", nargs=2, metavar="ID ID", help="Compare two results object by object (second minus first).")
@click.option("--store", type=click.Path(path_type=Path), help="Where results are kept [the user's data folder].")
@json_option
def command(
    model: str | None,
    scheme: str | None,
    dataset: str | None,
    prompt: str | None,
    placement: str | None,
    target: Path | None,
    compare: tuple[str, str] | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """List the results so far, newest last; filter, export or compare them."""
    from quantsam.results.export import export
    from quantsam.results.store import RecordFilter, ResultStore

    results = ResultStore(store)
    if compare:
        _compare(results, *compare, as_json=as_json)
        return
    given = {"model": model, "scheme": scheme, "dataset": dataset, "prompt": prompt, "placement": placement}
    wanted: RecordFilter = {key: value for key, value in given.items() if value is not None}  # type: ignore[assignment]
    records = results.records(**wanted)
    if target is not None:
        export(records, target)
        click.echo(f"{target}: {len(records)} results", err=True)
        return
    if as_json:
        print_json([record.to_json_dict() for record in records])
        return
    if not records:
        click.echo(f"no results in {results.path}: `quantsam evaluate` adds some", err=True)
        return
    columns = [
        "id",
        "when (UTC)",
        "model",
        "scheme",
        "placement",
        "dataset",
        "prompt",
        ">objects",
        ">mIoU",
        ">± SE",
    ]
    rows = [
        (
            record.id[:8],
            record.created_utc[:16].replace("T", " "),
            record.model,
            record.scheme,
            record.placement or "",
            record.dataset,
            record.prompt,
            record.figures.get("count"),
            _shown(record.figures.get("miou")),
            _shown(record.figures.get("standard_error")),
        )
        for record in records
    ]
    print_table(f"{len(records)} results in {results.path}", columns, rows)


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
