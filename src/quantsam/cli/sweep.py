"""`quantsam sweep`: do sets of runs, resumable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.output import json_option, print_json, print_table
from quantsam.cli.stores import STORE_HELP, StoreChoice, command_line

if TYPE_CHECKING:
    from quantsam.results.record import Record
    from quantsam.results.store import ResultStore
    from quantsam.sweeps.driver import SweepProgress
    from quantsam.sweeps.runners import Runner
    from quantsam.sweeps.sweep import Sweep


@click.command(name="sweep")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    help="key=value,value; may be repeated. Defines a sweep without FILE, or overrides FILE's values.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), help="Repeat each run on this many choices of calibration images."
)
@click.option("--store", type=click.Path(path_type=Path), help=STORE_HELP)
@click.option("--retry", is_flag=True, help="Retry runs that failed before.")
@click.option("--dry-run", is_flag=True, help="Check and list every run; start none.")
@click.option(
    "--runner",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where runs are done: this machine or a Ray cluster.",
)
@click.option("--address", help="--runner ray: address of the cluster, host:port or auto. [a new one on this machine]")
@click.option("--workers", type=click.IntRange(min=1), help="Number of workers. [as many as there is room for]")
@click.option("--threads", type=click.IntRange(min=1), help="--set: number of threads per worker. [1]")
@json_option
def command(
    file: Path | None,
    settings: tuple[str, ...],
    repeats: int | None,
    store: Path | None,
    retry: bool,
    dry_run: bool,
    runner: str,
    address: str | None,
    workers: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Do all runs of FILE (TOML) that the store does not hold yet. Repeat the command to resume an interrupted sweep.

    \b
    quantsam sweep --set model=nano,nano-outlier --set scheme=fp32,int8,mix-dwsc --set prompts=box,click
    quantsam sweep --set scheme=int8 --set observer=minmax,ema,percentile,omse,ptf
    quantsam sweep --set scheme=int8 --set calibration_images=1,4,16 --repeats 5
    quantsam sweep recipes/thesis/coco-boxes.toml --set model=l0
    """  # noqa: D301 - click looks for the character
    from quantsam.sweeps.driver import run_sweep
    from quantsam.sweeps.worker import Shelf

    sweep = _sweep(file, settings, threads, repeats)
    if runner == "local" and address is not None:
        raise click.UsageError("--address is of --runner ray")
    results = StoreChoice(store).open()
    if results is None:
        raise click.UsageError("a sweep needs a store that can be written: name one with --store")
    if dry_run:
        _try(sweep, results, as_json)
        return
    devices = {point.device for point in sweep.points}
    device = next((d for d in devices if d != "cpu"), "cpu")

    def start(shelf: Shelf) -> Runner:
        from quantsam.sweeps.ray_runner import RayRunner
        from quantsam.sweeps.runners import LocalRunner

        if runner == "ray":
            return RayRunner(address, workers=workers, threads=sweep.threads, device=device)
        return LocalRunner(shelf, workers=workers, threads=sweep.threads, device=device)

    with _shown() as report:
        progress = run_sweep(sweep, results, start, retry=retry, report=report)
    _report(sweep, progress, results, as_json)
    if progress.failed:
        raise click.ClickException(
            f"{len(progress.failed)} of {len(sweep.points)} runs failed, the first: {progress.failed[0][0].label}: "
            f"{progress.failed[0][1]}; mend the cause and add --retry"
        )


def _try(sweep: Sweep, results: ResultStore, as_json: bool) -> None:
    """List all runs, with the reason for each run that cannot start.

    Raises:
        click.ClickException: Some runs cannot start.
    """
    from quantsam.sweeps.opened import try_points
    from quantsam.sweeps.worker import Shelf

    opened, failed = try_points(sweep.points, Shelf(), sweep.threads)
    known = [results.find(one.identity) is not None for one in opened]
    if as_json:
        can = [{"point": o.point.label, "id": o.identity, "done": k} for o, k in zip(opened, known, strict=True)]
        cannot = [
            {"point": point.label, "id": None, "done": False, "cause": "; ".join(map(str, errors))}
            for point, errors in failed.items()
        ]
        print_json(can + cannot)
    else:
        rows = [(o.identity[:8], o.point.label, "done" if k else "to do") for o, k in zip(opened, known, strict=True)]
        rows += [("", point.label, "cannot run") for point in failed]
        print_table(f"{sweep.name}: {len(rows)} runs", ["id", "run", "state"], rows)
        _tell_same([one.identity for one in opened])
        for cause in dict.fromkeys(str(error) for errors in failed.values() for error in errors):
            click.echo(f"missing: {cause}", err=True)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(sweep.points)} runs cannot start: see above")


def _tell_same(ids: Sequence[str]) -> None:
    """Print how many runs are the same as others: FP32 under several settings, or the same images drawn twice."""
    same = len(ids) - len(set(ids))
    if same:
        click.echo(f"\n{same} of these runs compute what others do, and are done once: they have the same id")


def _sweep(file: Path | None, settings: tuple[str, ...], threads: int | None, repeats: int | None) -> Sweep:
    from quantsam.sweeps.sweep import expand, make_sweep, parse_settings, read_sweep, with_repeats

    if file is None and not settings:
        raise click.UsageError("a sweep needs a FILE or --set key=value,value, got neither")
    table = parse_settings(settings)
    if file is None:
        sweep = make_sweep("command line", expand(table, "settings"), threads or 1)
    elif threads is not None:
        raise click.UsageError("--threads is of a sweep without a file: in a file write threads = N")
    else:
        sweep = read_sweep(file, table)
    return sweep if repeats is None else with_repeats(sweep, repeats)


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[SweepProgress], None]]:
    """Show a sweep's progress on standard error: a bar on a terminal, or else a line per finished run."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    seen = 0

    def words(progress: SweepProgress) -> str:
        counts = f"{len(progress.done)} done, {len(progress.failed)} failed, {progress.left} left"
        return f"{counts}: calibrating" if progress.calibrating else counts

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} images"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("starting", total=None)

        def report(progress: SweepProgress) -> None:
            nonlocal seen
            total = progress.pictures
            bar.update(task, description=words(progress), completed=progress.pictures_done, total=total)
            for point, record, seconds in progress.done[seen:] if not console.is_terminal else ():
                click.echo(f"{words(progress)}: {point.label}: {_figure(record)} ({seconds:.0f} s)", err=True)
            seen = len(progress.done)

        yield report


def _report(sweep: Sweep, progress: SweepProgress, store: ResultStore, as_json: bool) -> None:
    done = [(point, record, "now") for point, record, _ in progress.done]
    done += [(point, record, "before") for point, record in progress.skipped]
    if as_json:
        entries = [{"point": p.label, "id": r.id, "when": w, "figures": dict(r.figures)} for p, r, w in done]
        failed = [{"point": point.label, "cause": cause} for point, cause in progress.failed]
        print_json({"sweep": sweep.name, "done": entries, "failed": failed})
        return
    rows: list[tuple[object, ...]] = [(r.id[:8], p.label, _figure(r), w) for p, r, w in done]
    rows += [("", point.label, cause, "failed") for point, cause in progress.failed]
    print_table(f"{sweep.name}: {len(done)} of {len(rows)} runs done", ["id", "run", "figure", "when"], rows)
    click.echo(f"\nkept in {store.path}: {command_line('quantsam results', store)} lists them")


def _figure(record: Record) -> str:
    for name, label in (("miou", "mIoU"), ("ap", "AP"), ("miou_fp32", "studied, mIoU of FP32")):
        value = record.figures.get(name)
        if value is not None:
            return f"{label} {value:.2f}"
    return "done"
