"""`quantsam activations`: compare the float and the quantized activations of one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import calibration_options, model_options, placed_options, refuse_beside, scheme_option
from quantsam.cli.output import json_option, print_json, print_table, progress, wide_option
from quantsam.cli.sites import check_site, matches_site
from quantsam.cli.stores import StoreChoice, store_options, tell_kept
from quantsam.cli.written import PICTURES, check_not_read, check_suffix, save_picture
from quantsam.results.activation_record import MOST_DRAWN
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource

if TYPE_CHECKING:
    from quantsam.diagnostics.activations import SiteActivations
    from quantsam.results.activation_record import ActivationRecord, ComparedSite
    from quantsam.results.record import JsonValue

_HELD = ("scheme", "calibration", "calibration_images", "repair", "placement", "no_weights", "no_activations")


@click.command(name="activations")
@click.argument("picture", metavar="IMAGE", type=click.Path(path_type=Path))
@model_options
@scheme_option
@click.option("--plan", "plan_folder", type=click.Path(), help="A plan from `quantsam calibrate`, instead of --scheme.")
@calibration_options
@placed_options
@click.option("--site", "pattern", default="*", help="Only these sites: a layer or site; * and ? match anything.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many sites to list.")
@click.option(
    "--drawn",
    type=click.IntRange(1, MOST_DRAWN),
    default=6,
    show_default=True,
    help="How many sites to draw for the report and --out; those that differ most come first.",
)
@click.option(
    "--channels",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Channels to draw per site, the worst first.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write all activations to a .npz, or draw those that differ most to a .png.",
)
@store_options
@wide_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    picture: Path,
    model: ModelSource,
    scheme: str,
    plan_folder: str | None,
    calibration: CalibrationSource,
    deployment: Deployment,
    pattern: str,
    top: int,
    drawn: int,
    channels: int,
    out: Path | None,
    store: StoreChoice,
    wide: bool,
    as_json: bool,
) -> None:
    """Compare IMAGE's activations in float with those under a scheme, site by site.

    Quantized activations include all rounding in earlier layers. The table lists the sites with the lowest SQNR first.
    The record holds all sites that --site names, and figures of those that differ most: at most 96 channels.
    `quantsam report` shows them.

    \b
    quantsam activations dog.jpg --site stage3:1:2/input --out dog.npz
    quantsam activations dog.jpg --model nano-outlier --out worst.png
    """  # noqa: D301 - click looks for the character
    from quantsam.data.images import load_image
    from quantsam.diagnostics.compared import measure_activations
    from quantsam.diagnostics.observed import activation_names
    from quantsam.files import check_file
    from quantsam.runs.run import open_run

    if plan_folder is not None:
        refuse_beside(ctx, "--plan", _HELD, "a plan")
    if out is not None:
        check_suffix("--out", out, (".npz", *PICTURES))
        check_not_read("--out", out, [picture, model.weights, scheme])
        check_file(out)
    image = load_image(picture)
    results = store.open()
    plans = [] if plan_folder is None else [plan_folder]
    run = open_run(model, schemes=[scheme], plans=plans, deployments=[deployment], calibration=calibration)
    placement = run.loaded_plans[0].placement if plans else deployment.placed
    check_site(pattern, run.model, placement)
    if not any(matches_site(site, pattern) for site in activation_names(run.model, placement)):
        raise click.UsageError(f"--site must match activations, got {pattern!r}: `quantsam layers` lists a model's")
    (plan,) = run.plans(deployment, progress("calibrating"))
    notes: dict[str, JsonValue] = {
        "site": None if pattern == "*" else pattern,
        "calibration_images": calibration.images,
        "seed": calibration.seed,
    }
    record = measure_activations(
        run.model,
        plan,
        image,
        picture.name,
        wanted=lambda site: matches_site(site, pattern),
        drawn=drawn,
        channels=channels,
        store=results,
        use=None if out is None else lambda found: _write(out, found, drawn, channels),
        notes=notes,
    )
    ranked = record.worst_first
    shown = ranked[:top]
    if as_json:
        print_json({**record.to_json_dict(), "results": {"sites": [site.row() for site in shown]}})
        return
    _report(record, shown, len(ranked), wide)
    if out is not None:
        click.echo(f"written to {out}")
    tell_kept(results, ("quantsam results --kind activations", "lists it"), ("quantsam report", "draws it"))


def _write(out: Path, found: Sequence[SiteActivations], drawn: int, channels: int) -> None:
    from quantsam.diagnostics.activation_figure import draw_activations
    from quantsam.diagnostics.activations import save_activations, worst_sites
    from quantsam.files import atomic_write

    if out.suffix.lower() in PICTURES:
        save_picture(draw_activations(worst_sites(found, drawn), channels=channels), out)
        return
    with atomic_write(out) as aside:
        save_activations(found, aside)


def _report(record: ActivationRecord, shown: Sequence[ComparedSite], count: int, wide: bool) -> None:
    title = f"{record.dataset}, {record.model}, {record.label}, {record.placement}: {len(shown)} of {count} sites"
    columns = ["site", "kind", "format", "shape", ">largest |x|", ">largest difference", ">SQNR dB", "worst channels"]
    print_table(title, columns, [_cells(site) for site in shown], spare=("kind", "shape"), wide=wide)
    click.echo("\nlargest difference, SQNR: with what was rounded before; worst channels: each with its own SQNR")


def _cells(site: ComparedSite) -> list[object]:
    pairs = zip(site.worst_channels, site.worst_sqnr_db, strict=True)
    worst = ", ".join(f"{channel} ({'-' if sqnr is None else f'{sqnr:z.1f}'})" for channel, sqnr in pairs)
    return [
        *(site.site, site.kind, site.format or "float", " x ".join(map(str, site.shape))),
        *(f"{site.largest:.4g}", f"{site.largest_difference:.4g}", f"{site.rank:z.1f}", worst),
    ]
