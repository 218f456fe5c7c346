"""`quantsam verify`: check a bundle on the machine where it will run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from quantsam.cli.output import json_option, print_json


@click.command(name="verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", help="Engine that runs the bundle. [the one it was exported for]")
@click.option("--threads", type=click.IntRange(min=1), help="Number of threads per inference. [the engine's choice]")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True, help="Rounds of the timing.")
@json_option
def command(bundle: Path, engine: str | None, threads: int | None, rounds: int, as_json: bool) -> None:
    """Check BUNDLE on this machine: its files, its integers, its masks, which kernels ran, and how fast.

    The exit code is 0 if all results are as the exporter computed them. PyTorch is not needed.
    """
    from quantsam.runtime.checkup import check_up

    found = check_up(bundle, engine=engine, threads=threads, rounds=rounds)
    manifest = found.manifest
    if as_json:
        values = {name: value for name, value in dataclasses.asdict(found).items() if name != "manifest"}
        print_json({"bundle": str(bundle), "model": manifest.model, "scheme": manifest.scheme, **values})
        return
    exact = f"{found.layers} layers within a step of exact integers" if found.layers else "no layer is quantized"
    kernels = "the engine does not tell"
    if found.convolutions is not None:
        kernels = f"{found.integer} of {found.convolutions} convolutions run in integers"
    click.echo(f"{manifest.model}, {manifest.scheme}, exported for {manifest.engine} by quantsam {manifest.quantsam}")
    changed = f"; changed since: {', '.join(found.changed)}" if found.changed else ""
    click.echo(f"  files: manifest, graphs and stored values as exported{changed}")
    click.echo(f"  processor: {found.processor}")
    click.echo(f"  engine: {found.engine} {found.engine_version}")
    click.echo(f"  values: {exact}; masks of the test image are the exporter's")
    click.echo(f"  kernels: {kernels}")
    for name, timing in (("encoder", found.encoder), ("decoder, a box", found.decoder), ("an image", found.whole)):
        click.echo(f"  {name}: {timing.median_ms:.1f} ms, 95 % within {timing.p95_ms:.1f} ms")
