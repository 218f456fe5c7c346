"""Where commands store their results, and the lines that say so."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.groups import option_group
from quantsam.notices import notice

if TYPE_CHECKING:
    from quantsam.results.record import Record
    from quantsam.results.store import ResultStore

STORE_HELP = "Where results are kept [$QUANTSAM_STORE, or a file in the user's data folder]."


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The values of --store and --no-store.

    Attributes:
        path: File of the store; the usual one if None.
        none: Keep nothing.
    """

    path: Path | None = None
    none: bool = False

    def open(self) -> ResultStore | None:
        """Return a writable store; None if nothing is kept.

        If the user named no store and the usual one is not writable, the result is a temporary store or None. A notice
        says so.

        Raises:
            StoreError: The store that the user named is not writable.
        """
        from quantsam.errors import StoreError
        from quantsam.results.store import STORE_VARIABLE, ResultStore, spare_store_path

        if self.none:
            return None
        results = ResultStore(self.path)
        if self.path is not None or os.environ.get(STORE_VARIABLE):
            results.check_writable()
            return results
        usual, spare = results.path, spare_store_path()
        try:
            results.check_writable()
        except StoreError:
            if spare is None:
                notice(
                    f"results are not kept: neither {usual} nor a temporary place can be written; name one with --store"
                )
                return None
            results = ResultStore(spare)
            results.check_writable()
        if results.path == spare:
            notice(
                f"results go to {spare}, which does not outlast this machine's temporary files: the user's data folder "
                "cannot be written; name a place with --store or QUANTSAM_STORE"
            )
        return results


store_options = option_group(
    "store",
    lambda given: StoreChoice(given["store"], given["no_store"]),
    click.option("--store", type=click.Path(path_type=Path), help=STORE_HELP),
    click.option("--no-store", is_flag=True, help="Do not store the results."),
)
"""Add --store, --no-store: `store`, a `StoreChoice`."""


again_option = click.option("--again", is_flag=True, help="Measure again what the store already holds.")


def tell_found(records: Sequence[Record]) -> None:
    """Print which results were already in the store; nothing if none were."""
    if records:
        when = max(record.created_utc for record in records)[:16].replace("T", " ")
        labels = ", ".join(record.label for record in records)
        click.echo(f"\nkept, not measured again: {labels} (newest of {when} UTC); --again measures anew")


def tell_kept(results: ResultStore | None, *uses: tuple[str, str]) -> None:
    """Print where results are stored and what to do with them; nothing without a store.

    Args:
        results: The store, or None.
        uses: Commands, each with what it does: `("quantsam results", "lists them")`.
    """
    if results is not None:
        does = ", ".join(f"{command_line(command, results)} {what}" for command, what in uses)
        click.echo(f"\nkept in {results.path}: {does}")


def command_line(text: str, results: ResultStore | None = None) -> str:
    """Return a command to paste into a shell, in backquotes. It has `--store` if it would use another store without it.

    Args:
        text: The command without `--store`. Its paths are quoted.
        results: The store that the command should use.
    """
    from quantsam.results.store import default_store_path

    needed = results is not None and results.path.absolute() != default_store_path().absolute()
    return f"`{text} --store {quoted(results.path)}`" if needed and results is not None else f"`{text}`"


def quoted(path: Path | str) -> str:
    """Return a path quoted as one word of a shell command."""
    return shlex.quote(str(path))
