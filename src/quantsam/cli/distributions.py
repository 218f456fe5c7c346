"""`quantsam distributions`: how weights and activations are distributed, what is clipped, which channels stand out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.groups import option_group
from quantsam.cli.options import (
    calibration_options,
    model_options,
    placed_options,
    refuse_beside,
    scheme_option,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.cli.sites import check_site, matches_site
from quantsam.cli.stores import StoreChoice, store_options, tell_kept
from quantsam.cli.written import check_not_read, check_suffix
from quantsam.notices import notice
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource

if TYPE_CHECKING:
    from quantsam.data.open import ImageSource
    from quantsam.plans.plan import Plan
    from quantsam.results.distribution_record import SiteDistribution
    from quantsam.results.record import JsonValue, Record

_ORDERS = {
    "outliers": "the largest outlier ratio first",
    "positions": "the largest ratio of positions first",
    "clipped": "the most clipped first",
    "sqnr": "the lowest SQNR first",
    "order": "in the order of the forward pass",
}
_HELD = ("scheme", "calibration", "calibration_images", "repair", "placement", "no_weights", "no_activations")


class _Count(click.ParamType):  # type: ignore[type-arg]  # generic only in the type checker's eyes
    """A count. Other text is kept, because --images once named the images themselves."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return click.IntRange(min=1).convert(int(value), param, ctx)
        except ValueError:
            return value


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Which images to look at instead of the calibration images, and how many."""

    data: str | None
    images: int | None


@dataclass(frozen=True, slots=True)
class _Listing:
    """Which sites to list."""

    pattern: str
    sort: str
    top: int

    def of(self, sites: Sequence[SiteDistribution]) -> list[SiteDistribution]:
        """Return the sites to list, in order."""
        return _chosen(sites, self.pattern, self.sort)[: self.top]


def _pictures(given: Mapping[str, Any]) -> _Pictures:
    """Return the values of --data and --images, which were called --images and --images-limit before."""
    data, images, limit = (given[name] for name in ("data", "images", "images_limit"))
    if isinstance(images, int) and limit is not None:
        raise click.UsageError("--images-limit and --images are one option: leave --images-limit out")
    if isinstance(images, str) and data is not None:
        raise click.UsageError(f"--images must be a number, got {images!r} beside --data: what to look at is --data")
    if limit is not None:
        notice("--images-limit is now called --images: the old name goes with the next version")
    if not isinstance(images, str):
        return _Pictures(data, images or limit)
    notice(
        "what --images named is now called --data, and --images says how many: the old use goes with the next version"
    )
    return _Pictures(images, limit)


pictures_options = option_group(
    "pictures",
    _pictures,
    click.option("--data", help="Images to look at, as for --calibration. [the calibration images]"),
    click.option("--images", type=_Count(), help="Look at no more than this many of these images."),
    click.option("--images-limit", type=click.IntRange(min=1), hidden=True),
)
"""Add --data, --images: `pictures`."""

listing_options = option_group(
    "listing",
    lambda given: _Listing(given["pattern"], given["sort"], given["top"]),
    click.option(
        "--site", "pattern", default="*", help="List only these sites: a layer or site; * and ? match anything."
    ),
    click.option(
        "--sort", type=click.Choice(list(_ORDERS)), default="outliers", show_default=True, help="Order of the sites."
    ),
    click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many sites to list."),
)
"""Add --site, --sort, --top: `listing`."""


@click.command(name="distributions")
@model_options
@scheme_option
@click.option("--plan", "plan_folder", type=click.Path(), help="A plan from `quantsam calibrate`, instead of --scheme.")
@calibration_options
@placed_options
@pictures_options
@listing_options
@click.option("--out", type=click.Path(path_type=Path), help="Write every channel's histogram to this .npz file.")
@store_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: ModelSource,
    scheme: str,
    plan_folder: str | None,
    calibration: CalibrationSource,
    deployment: Deployment,
    pictures: _Pictures,
    listing: _Listing,
    out: Path | None,
    store: StoreChoice,
    as_json: bool,
) -> None:
    """Show how weights and activations are distributed, what is clipped, and which channels stand out.

    The command measures all sites of the float model, including those that the scheme leaves in float: each channel's
    range and histogram, how much of it the calibrated grid covers, and what rounding to the grid costs. A value is
    clipped if it lies more than half a step beyond the grid. The record and --out hold all sites. The table and --json
    hold those that --site, --sort and --top choose.
    """
    from quantsam.diagnostics.distributions import measure_distributions
    from quantsam.files import atomic_write
    from quantsam.runs.run import open_calibration, open_run

    if plan_folder is not None:
        refuse_beside(ctx, "--plan", _HELD, "a plan")
    if out is not None:
        check_suffix("--out", out, (".npz",))
        check_not_read("--out", out, [model.weights, scheme])
    source = open_calibration(_looked_at(model.name, calibration, pictures, plan_folder), model.name)
    results = store.open()
    with atomic_write(out) if out is not None else nullcontext() as aside:  # first, to check that it can be written
        plans = [] if plan_folder is None else [plan_folder]
        run = open_run(model, schemes=[scheme], plans=plans, deployments=[deployment], calibration=calibration)
        check_site(listing.pattern, run.model, run.loaded_plans[0].placement if plans else deployment.placed)
        (plan,) = run.plans(deployment, progress("calibrating"))
        notes: dict[str, JsonValue] = {
            "images": pictures.images,
            "calibration_images": calibration.images,
            "seed": calibration.seed,
        }
        wrap = progress("measuring")
        record = measure_distributions(
            run.model, plan, source, store=results, histograms=aside, progress=wrap, notes=notes
        )
    sites = record.sites
    chosen = listing.of(sites)
    if as_json:
        print_json({**record.to_json_dict(), "results": {"sites": [site.to_json_dict() for site in chosen]}})
        return
    _report(record, chosen, len(sites), listing.sort, _is_same(plan, source))
    if out is not None:
        click.echo(f"{out}: the histogram of every channel")
    tell_kept(results, ("quantsam results --kind distributions", "lists it"))


def _looked_at(
    model: str, calibration: CalibrationSource, pictures: _Pictures, plan_folder: str | None
) -> CalibrationSource:
    """Return the images to look at: the calibration images unless others were named."""
    from quantsam.models.variants import get_variant

    if pictures.data is not None:
        return CalibrationSource(spec=pictures.data, images=pictures.images, seed=calibration.seed)
    if plan_folder is not None and get_variant(model).calibration is None:
        raise click.UsageError(
            f"looking at a plan of {model} needs images, got no --data: name a folder of photographs, e.g. sa-1b"
        )
    return replace(calibration, images=pictures.images or calibration.images)


def _chosen(sites: Sequence[SiteDistribution], pattern: str, sort: str) -> list[SiteDistribution]:
    chosen = [site for site in sites if matches_site(site.site, pattern)]
    if sort == "outliers":
        return sorted(chosen, key=lambda s: -(s.outlier_ratio or 0))
    if sort == "positions":
        return sorted(chosen, key=lambda s: -(s.position_ratio or 0))
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
        f"{record.model}, {record.label}, {record.placement}, on the {figures['images']} images of {record.dataset} "
        f"({which}): {len(chosen)} of {count} sites, {_ORDERS[sort]}"
    )
    columns = ["site", "kind", "format", ">range", ">grid", ">clipped %", ">SQNR dB", ">outliers", "channels"]
    spare = ("kind", ">range", "channels", "format", ">positions")
    print_table(title, [*columns, ">positions"], [_cells(site) for site in chosen], spare=spare)
    clipped = figures["clipped_percent"]
    if clipped is not None:
        click.echo(f"\n{clipped:.4f} % of all values of quantized activations are clipped")
    click.echo("outliers: the largest magnitude of a channel over the median of all channels'; behind: which, how much")
    click.echo("positions: the same of an image's positions: a few that are hundreds of times larger need wider codes")


def _cells(site: SiteDistribution) -> Sequence[object]:
    form = "float" if site.format is None else f"{site.format}{'/channel' if site.per_channel else ''}"
    grid = "" if site.grid_low is None else f"{site.grid_low:.3g} .. {site.grid_high:.3g}"
    channels = ", ".join(f"{o.index} ({o.ratio:.1f}x)" for o in site.outliers[:3])
    clipped = "" if site.clipped is None else f"{100 * site.clipped:.4f}"
    sqnr = ("" if site.format is None else "exact") if site.sqnr_db is None else f"{site.sqnr_db:.1f}"
    ratio = "-" if site.outlier_ratio is None else f"{site.outlier_ratio:.1f}"
    span = f"{site.low:.3g} .. {site.high:.3g}"
    positions = "" if site.position_ratio is None else f"{site.position_ratio:.1f}"
    return [site.site, site.kind, form, span, grid, clipped, sqnr, ratio, channels, positions]
