"""`quantsam distributions`: how weights and activations are distributed, what is clipped, which channels stand out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import (
    calibration_options,
    calibration_source,
    command_line,
    model_options,
    open_store,
    refuse_beside_plan,
    store_options,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.cli.written import check_not_read

if TYPE_CHECKING:
    from quantsam.data.open import ImageSource
    from quantsam.models.sam import EfficientViTSam
    from quantsam.plans.plan import Plan
    from quantsam.results.distributions import SiteDistribution
    from quantsam.results.record import JsonValue, Record

_ORDERS = {
    "outliers": "the largest outlier ratio first",
    "clipped": "the most clipped first",
    "sqnr": "the lowest SQNR first",
    "order": "in the order of the forward pass",
}
_HELD = ("scheme", "calibration", "limit", "placement", "no_weights", "no_activations")


@click.command(name="distributions")
@model_options
@click.option("--scheme", default="int8", show_default=True, help="A name, a TOML file, or e.g. int8@stage3:4:2.")
@click.option("--plan", "plan_folder", type=click.Path(), help="A plan from `quantsam calibrate`, instead.")
@calibration_options
@click.option("--images", help="Look at other pictures, named as for --calibration [the calibration images].")
@click.option("--images-limit", type=click.IntRange(min=1), help="Look at no more than this many; --seed says which.")
@click.option("--site", "pattern", default="*", help="List these sites only: a layer or site; * and ? match anything.")
@click.option(
    "--sort", type=click.Choice(list(_ORDERS)), default="outliers", show_default=True, help="What comes first."
)
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many sites to list.")
@click.option("--out", type=click.Path(path_type=Path), help="Write every channel's histogram to this .npz file.")
@store_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    weights: str | None,
    device: str,
    scheme: str,
    plan_folder: str | None,
    calibration: str | None,
    limit: int | None,
    seed: int,
    placement: str,
    no_weights: bool,
    no_activations: bool,
    images: str | None,
    images_limit: int | None,
    pattern: str,
    sort: str,
    top: int,
    out: Path | None,
    store: Path | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Show how weights and activations are distributed, what is clipped, and which channels stand out.

    All sites of the float model are looked at, also those that the scheme leaves in float: each channel's range and
    histogram, what the calibrated grid covers of it, and what rounding to it costs. A value is clipped if it lies more
    than half a step beyond the grid. The record and --out hold all sites; the table and --json those that --site,
    --sort and --top choose.
    """
    from quantsam.data.open import open_images
    from quantsam.diagnostics.distribution_records import record_distributions
    from quantsam.files import atomic_write
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.cache import calibrate_once
    from quantsam.plans.make import make_plan
    from quantsam.plans.storage import load_plan
    from quantsam.results.distributions import distributions_of
    from quantsam.schemes.load import load_scheme

    if plan_folder is not None:
        refuse_beside_plan(ctx, _HELD)
    if out is not None and out.suffix.lower() != ".npz":
        raise click.UsageError(f"--out must end in .npz, got {str(out)!r}: the histograms are arrays of NumPy's")
    if out is not None:
        check_not_read("--out", out, [weights, scheme])
    name, declared = get_variant(model).name, load_scheme(scheme)
    looked_at = images or _calibration_images(name, calibration, plan_folder)
    source = open_images(looked_at, limit=images_limit or (None if images else limit), seed=seed)
    results = open_store(store, no_store)
    with atomic_write(out) if out is not None else nullcontext() as aside:  # first: can it be written?
        loaded = load_model(model, weights, device=device)
        if plan_folder is not None:
            plan = load_plan(plan_folder, loaded)
        else:
            plan = make_plan(loaded, declared, placement, weights=not no_weights, activations=not no_activations)
        _check_site(pattern, loaded, plan)
        if plan_folder is None:
            needed = any(site.role == "activation" for site in plan.sites)
            own = open_images(calibration_source(name, calibration), limit=limit, seed=seed) if needed else ()
            plan = calibrate_once(loaded, plan, own, progress=progress("calibrating"))
        notes: dict[str, JsonValue] = {"images_limit": images_limit, "limit": limit, "seed": seed}
        wrap = progress("measuring")
        record = record_distributions(loaded, plan, source, store=results, histograms=aside, progress=wrap, notes=notes)
    sites = distributions_of(record)
    chosen = _chosen(sites, pattern, sort)[:top]
    if as_json:
        listed = {**record.to_json_dict(), "settings": {**record.settings, "sites": [s.to_json_dict() for s in chosen]}}
        print_json(listed)
        return
    _report(record, chosen, len(sites), sort, _is_same(plan, source))
    if out is not None:
        click.echo(f"{out}: the histogram of every channel")
    if results is not None:
        lists = command_line("quantsam results --kind distributions", results)
        click.echo(f"kept in {results.path}: {lists} lists it")


def _calibration_images(model: str, calibration: str | None, plan_folder: str | None) -> str:
    """Return where to look when no --images were given."""
    from quantsam.models.variants import get_variant

    if plan_folder is not None and get_variant(model).calibration is None:
        raise click.UsageError(
            f"looking at a plan of {model} needs pictures, got no --images: name a folder of photographs, e.g. sa-1b"
        )
    return calibration_source(model, calibration)


def _check_site(pattern: str, model: EfficientViTSam, plan: Plan) -> None:
    """Make sure, before long work, that there is something to list."""
    from quantsam.diagnostics.distributions import site_names
    from quantsam.errors import nearest

    names = site_names(model, plan.placement)
    if not any(_matches(name, pattern) for name in names):
        layers = dict.fromkeys(name.partition("/")[0] for name in names)
        known = names if "/" in pattern else layers
        close = nearest(pattern, known)
        hint = close if close.startswith("did") else f"see `quantsam layers {model.name}`"
        raise click.UsageError(
            f"--site must match one of the {len(names)} sites of {model.name} under placement {plan.placement}, "
            f"got {pattern!r}: {hint}"
        )


def _matches(site: str, pattern: str) -> bool:
    return fnmatchcase(site, pattern) or fnmatchcase(site.partition("/")[0], pattern)


def _chosen(sites: Sequence[SiteDistribution], pattern: str, sort: str) -> list[SiteDistribution]:
    chosen = [site for site in sites if _matches(site.site, pattern)]
    if sort == "outliers":
        return sorted(chosen, key=lambda s: -(s.outlier_ratio or 0))
    if sort == "clipped":
        return sorted(chosen, key=lambda s: -1 if s.clipped is None else s.clipped, reverse=True)
    if sort == "sqnr":
        return sorted(chosen, key=lambda s: math.inf if s.sqnr_db is None else s.sqnr_db)
    return chosen


def _is_same(plan: Plan, source: ImageSource) -> bool:
    info = plan.calibration
    return info is not None and (info.name, info.digest) == (source.name, source.digest)


def _report(record: Record, chosen: Sequence[SiteDistribution], count: int, sort: str, same: bool) -> None:
    figures = record.figures
    which = "the calibration images themselves" if same else f"calibrated on {record.calibration}"
    if record.calibration is None:
        which = "activations in float"
    title = (
        f"{record.model}, {record.scheme}, {record.placement}, on the {figures['images']} images of {record.dataset} "
        f"({which}): {len(chosen)} of {count} sites, {_ORDERS[sort]}"
    )
    columns = ["site", "kind", "format", ">range", ">grid", ">clipped %", ">SQNR dB", ">outliers", "channels"]
    print_table(title, columns, [_cells(site) for site in chosen], spare=("kind", ">range", "channels", "format"))
    clipped = figures["clipped_percent"]
    if clipped is not None:
        click.echo(f"\n{clipped:.4f} % of all values of quantized activations are clipped")
    click.echo("outliers: the largest magnitude of a channel over the median of all channels'; behind: which, how much")


def _cells(site: SiteDistribution) -> Sequence[object]:
    form = "float" if site.format is None else f"{site.format}{'/channel' if site.per_channel else ''}"
    grid = "" if site.grid_low is None else f"{site.grid_low:.3g} .. {site.grid_high:.3g}"
    channels = ", ".join(f"{o.index} ({o.ratio:.1f}x)" for o in site.outliers[:3])
    clipped = "" if site.clipped is None else f"{100 * site.clipped:.4f}"
    sqnr = ("" if site.format is None else "exact") if site.sqnr_db is None else f"{site.sqnr_db:.1f}"
    ratio = "-" if site.outlier_ratio is None else f"{site.outlier_ratio:.1f}"
    span = f"{site.low:.3g} .. {site.high:.3g}"
    return [site.site, site.kind, form, span, grid, clipped, sqnr, ratio, channels]
