"""What commands print: tables for people, JSON for programs, progress on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click
from rich.console import Console, JustifyMethod
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

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_json(value: Any) -> None:
    """Print a value as indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output; columns whose title starts with `>` are set to the right."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    # Text everywhere: a plain string is searched for markup, and a folder may well be called [old].
    table = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", show_edge=False)
    for column in columns:
        justify: JustifyMethod = "right" if column.startswith(">") else "left"
        table.add_column(Text(column.removeprefix(">")), justify=justify)
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console.print(table)


class _Rate(ProgressColumn):
    """Steps a second, or seconds a step where that reads better."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("-")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def progress(label: str) -> Callable[[Iterable[Any], int | None], Iterable[Any]]:
    """Return a wrapper that shows a bar with rate and time left; silent when standard error is no terminal."""

    def wrap(items: Iterable[Any], total: int | None) -> Iterator[Any]:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            yield from bar.track(items, total=total, description=label)

    return wrap
