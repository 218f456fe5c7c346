"""What commands print: tables for people, JSON for programs, progress on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click
from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 30.0
_NARROWEST = 40
_WIDEST = 10_000
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
wide_option = click.option("--wide", is_flag=True, help="Show all columns, however wide the table gets.")


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    spare: Sequence[str] = (),
    wide: bool = False,
) -> None:
    """Print a table on standard output. Columns whose title starts with `>` are aligned to the right.

    If the table is wider than the terminal, first its columns move closer together, then `spare` columns are left out,
    and then names are wrapped. Numbers are never wrapped.

    Args:
        title: Title above the table.
        columns: Titles of the columns.
        rows: Rows of cells, one cell for each column.
        spare: Titles of columns that may be left out, in this order.
        wide: Leave out and wrap nothing, however wide the table gets.
    """
    console = _console(_WIDEST if wide else None)
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    kept, is_close = list(range(len(columns))), False
    order = [number for name in dict.fromkeys(spare) for number, title in enumerate(columns) if title == name]
    while _width(console, table := _table(columns, cells, kept, is_close)) > console.width:
        if not is_close:
            is_close = True
        elif order:
            kept.remove(order.pop(0))
        else:
            break
    console.print(Text(title, style="bold"), soft_wrap=not console.is_terminal)
    console.print(table)
    left_out = [name.removeprefix(">") for number, name in enumerate(columns) if number not in kept]
    if left_out:
        text = f"left out for want of width: {', '.join(left_out)}; --json has all"
        console.print(Text(text, style="dim"))


def _console(width: int | None = None) -> Console:
    """Return a console for standard output: as wide as the terminal, or wide if there is no terminal."""
    if width is not None:
        return Console(width=width, highlight=False)
    console = Console(highlight=False)
    return Console(width=max(console.width, _NARROWEST) if console.is_terminal else 160, highlight=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int], is_close: bool) -> Table:
    table = Table(header_style="bold", show_edge=False, box=SIMPLE_HEAD if is_close else HEAVY_HEAD)
    table.padding = (0, 1, 0, 0) if is_close else (0, 1)
    for number in kept:
        title = columns[number].removeprefix(">")
        is_number = columns[number].startswith(">")
        justify: JustifyMethod = "right" if is_number else "left"
        # Text everywhere: Rich searches plain strings for markup, and a folder may be called [old].
        head = Text(title.replace(" ", "\n") if is_close and is_number else title)
        table.add_column(head, justify=justify, no_wrap=is_number, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[number]) for number in kept))
    return table


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=_WIDEST), table).maximum


class _Rate(ProgressColumn):
    """Steps per second, or seconds per step where that reads better."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("-")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def progress(label: str) -> Callable[[Iterable[Any], int | None], Iterable[Any]]:
    """Return a wrapper that shows a bar with rate and time left, or a line now and then without a terminal."""

    def wrap(items: Iterable[Any], total: int | None) -> Iterator[Any]:
        console = Console(stderr=True)
        if not console.is_terminal:
            yield from _told(items, total, label)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            yield from bar.track(items, total=total, description=label)

    return wrap


def _told(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
    """Yield the items, and report progress on standard error every half minute, for logs."""
    started = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - told >= LINE_EVERY_S and done:
            told = now
            left = "" if total is None else f" of {total}, {(now - started) / done * (total - done):.0f} s left"
            click.echo(f"{label}: {done}{left}", err=True)
        yield item


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "result"), counted(20, "result")
    ('1 result', '20 results')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
