"""`quantsam data`: make data."""

from __future__ import annotations

from pathlib import Path

import click

from quantsam.cli.output import progress
from quantsam.errors import nearest


class _Group(click.Group):
    """Suggests the nearest command, which older versions of Click do not do."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            raise click.UsageError(f"there is no command {args[0]!r}: {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(name="data", cls=_Group)
def command() -> None:
    """Make data."""


@command.command(name="scenes")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=300, show_default=True, help="Number of scenes.")
@click.option("--seed", default=0, show_default=True, help="Seed that chooses the scenes; two seeds share no scene.")
@click.option("--size", default=256, show_default=True, help="Side of each image in pixels.")
@click.option("--split", default="val2017", show_default=True, help="Name of the split.")
def scenes(folder: Path, count: int, seed: int, size: int, split: str) -> None:
    """Write procedural scenes with exact masks to FOLDER, in COCO's layout."""
    from quantsam.data.scenes import SceneDataset, write_coco_folder

    dataset = SceneDataset(count, seed=seed, size=size)
    write_coco_folder(dataset, folder, split, lambda ids: progress("writing scenes")(ids, count))
    click.echo(f"{folder}: {count} scenes of seed {seed}, {size} px")
