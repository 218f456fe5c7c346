"""`quantsam cache`: show or remove cached plans."""

from __future__ import annotations

import click

from quantsam.cli.output import json_option, print_json


@click.command(name="cache")
@click.option("--clear", is_flag=True, help="Remove all cached plans.")
@json_option
def command(clear: bool, as_json: bool) -> None:
    """Show where calibrated plans are cached, how many there are and how large they are, or remove them.

    Calibrating a scheme again on the same images takes the plan from this cache.
    """
    from quantsam.plans.cache import cached_plans, clear_cached_plans

    found = cached_plans()
    removed = clear_cached_plans() if clear else 0
    if as_json:
        folder = None if found.folder is None else str(found.folder)
        print_json({"folder": folder, "plans": found.count, "size_bytes": found.size_bytes, "removed": removed})
        return
    if found.folder is None:
        click.echo("no folder can be written, so no calibrated plans are kept")
        return
    held = f"{found.count} calibrated plans, {found.size_bytes / 2**20:.1f} MiB, in {found.folder}"
    click.echo(f"removed {removed} of {held}" if clear else f"kept {held}")
