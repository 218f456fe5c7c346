"""`quantsam activations`: one picture's activations in float beside the quantized ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import calibration_options, model_options, placed_options, refuse_beside, scheme_option
from quantsam.cli.output import json_option, print_json, print_table, progress, wide_option
from quantsam.cli.sites import check_site, matches_site
from quantsam.cli.written import PICTURES, check_not_read, check_suffix, save_picture
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource

if TYPE_CHECKING:
    from quantsam.diagnostics.activations import SiteActivations

_HELD = ("scheme", "calibration", "calibration_images", "repair", "placement", "no_weights", "no_activations")
_DRAWN = 8  # sites on a picture


@click.command(name="activations")
@click.argument("picture", type=click.Path(path_type=Path))
@model_options
@scheme_option
@click.option("--plan", "plan_folder", type=click.Path(), help="A plan from `quantsam calibrate`, instead.")
@calibration_options
@placed_options
@click.option("--site", "pattern", default="*", help="These sites only: a layer or site; * and ? match anything.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many sites to list.")
@click.option("--channels", type=click.IntRange(min=1), default=4, show_default=True, help="A site's, on a picture.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write them to a .npz, whole, or draw those that differ most to a .png.",
)
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
    channels: int,
    out: Path | None,
    wide: bool,
    as_json: bool,
) -> None:
    r"""Compare PICTURE's activations in float with those under a scheme, site by site.

    The quantized ones carry all that was rounded before them. The table lists the sites of the lowest SQNR first.

    \b
    quantsam activations dog.jpg --site stage3:1:2/input --out dog.npz
    quantsam activations dog.jpg --model nano-outlier --out worst.png
    """
    from quantsam.data.images import load_image
    from quantsam.diagnostics.activations import compare_activations
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
    plans = [] if plan_folder is None else [plan_folder]
    run = open_run(model, schemes=[scheme], plans=plans, deployments=[deployment], calibration=calibration)
    placement = run.loaded_plans[0].placement if plans else deployment.placed
    check_site(pattern, run.model, placement)
    if not any(matches_site(site, pattern) for site in activation_names(run.model, placement)):
        raise click.UsageError(f"--site must match activations, got {pattern!r}: `quantsam layers` lists a model's")
    (plan,) = run.plans(deployment, progress("calibrating"))
    found = compare_activations(run.model, plan, image, lambda site: matches_site(site, pattern))
    ranked = sorted(found, key=lambda site: site.sqnr_db)
    if out is not None:
        _write(out, found, ranked[:_DRAWN], channels)
    shown = ranked[:top]
    if as_json:
        print_json([_row(site) for site in shown])
        return
    title = f"{picture.name}, {run.model.name}, {plan.scheme}, {plan.placement}: {len(shown)} of {len(found)} sites"
    columns = ["site", "kind", "format", "shape", ">largest |x|", ">largest difference", ">SQNR dB", "worst channels"]
    print_table(title, columns, [_cells(site) for site in shown], spare=("kind", "shape"), wide=wide)
    click.echo("\nlargest difference, SQNR: with what was rounded before; worst channels: each with its own SQNR")
    if out is not None:
        click.echo(f"written to {out}")


def _write(out: Path, found: Sequence[SiteActivations], worst: Sequence[SiteActivations], channels: int) -> None:
    from quantsam.diagnostics.activation_figure import draw_activations
    from quantsam.diagnostics.activations import save_activations
    from quantsam.files import atomic_write

    if out.suffix.lower() in PICTURES:
        save_picture(draw_activations(worst, channels=channels), out)
        return
    with atomic_write(out) as aside:
        save_activations(found, aside)


def _row(site: SiteActivations) -> dict[str, object]:
    difference = (site.quantized - site.fp32).abs()
    return {
        "site": site.site,
        "kind": site.kind,
        "format": site.format,
        "shape": list(site.fp32.shape),
        "largest": float(site.fp32.abs().max()),
        "largest_difference": float(difference.max()),
        "sqnr_db": _finite(site.sqnr_db),
        "channel_sqnr_db": [_finite(value) for value in site.channel_sqnr_db],
    }


def _cells(site: SiteActivations) -> list[object]:
    sqnr = site.channel_sqnr_db
    worst = ", ".join(f"{channel} ({sqnr[channel]:.1f})" for channel in site.worst_channels[:3])
    difference = (site.quantized - site.fp32).abs()
    return [
        *(site.site, site.kind, site.format or "float", " x ".join(map(str, site.fp32.shape))),
        *(f"{float(site.fp32.abs().max()):.4g}", f"{float(difference.max()):.4g}", f"{site.sqnr_db:.1f}", worst),
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
