"""`quantsam evaluate`: score schemes on a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.options import calibration_options, calibration_source, model_options
from quantsam.cli.output import json_option, print_json, print_table, progress, scheme_label

if TYPE_CHECKING:
    from quantsam.metrics.summary import PairedDifference
    from quantsam.results.record import JsonValue, Record


@click.command(name="evaluate")
@model_options
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    default=("fp32",),
    help="A name, a TOML file, or e.g. int8@stage3:4:2; may be repeated. [fp32]",
)
@click.option("--plan", "plans", multiple=True, type=click.Path(), help="A plan from `quantsam calibrate`, instead.")
@click.option("--data", default="scenes:300", show_default=True, help="A COCO folder, coco, or scenes:COUNT:SEED.")
@click.option("--images", type=click.IntRange(min=1), help="Score at most this many images of the data.")
@click.option("--prompts", default="box", show_default=True, help="box, or click: one at the object's centre.")
@calibration_options
@click.option("--store", type=click.Path(path_type=Path), help="Where results are kept [the user's data folder].")
@click.option("--no-store", is_flag=True, help="Do not keep the results.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    weights: str | None,
    device: str,
    schemes: tuple[str, ...],
    plans: tuple[str, ...],
    data: str,
    images: int | None,
    prompts: str,
    calibration: str | None,
    limit: int | None,
    seed: int,
    placement: str,
    no_weights: bool,
    no_activations: bool,
    store: Path | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Score a model under one or more schemes on a dataset, with prompts made from the ground truth.

    The thesis' experiment: quantsam evaluate --model l0 --weights l0.pt --scheme mix-dwsc --data coco
    --calibration sa-1b --limit 4500
    """
    from quantsam.data.open import open_dataset, open_images
    from quantsam.evaluation.experiment import Switches, calibrated_plans, score_plans
    from quantsam.evaluation.prompts import check_prompt
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.storage import load_plan
    from quantsam.results.store import ResultStore
    from quantsam.schemes.load import load_scheme

    if plans:
        _refuse_beside_plans(ctx)
    check_prompt(prompts)
    name = get_variant(model).name
    declared = [] if plans else [load_scheme(scheme) for scheme in schemes]
    dataset = open_dataset(data, limit=images, seed=seed)
    needs_images = not no_activations and any(scheme.rules for scheme in declared)
    source = open_images(calibration_source(name, calibration), limit=limit, seed=seed) if needs_images else ()
    results = None if no_store else ResultStore(store)
    if results is not None:
        results.check_writable()
    loaded = load_model(model, weights, device=device)
    if plans:
        ready = [load_plan(plan, loaded) for plan in plans]
    else:
        switches = Switches(placement, not no_weights, not no_activations)
        ready = calibrated_plans(loaded, declared, source, switches, progress("calibrating"))
    settings: dict[str, JsonValue] = {"seed": seed, "limit": limit, "images": images}
    records: list[Record] = []
    for record in score_plans(loaded, ready, dataset, prompts=prompts, settings=settings, progress=progress):
        if results is not None:
            results.append(record)
        records.append(record)
    report(records, as_json)
    if results is not None and not as_json:
        click.echo(f"\nkept in {results.path}: `quantsam results` lists them")


def _refuse_beside_plans(ctx: click.Context) -> None:
    """Refuse options that would be ignored."""
    held = ("schemes", "calibration", "limit", "placement", "no_weights", "no_activations")
    for option in ctx.command.params:
        if option.name in held and ctx.get_parameter_source(option.name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--plan and {option.opts[0]} exclude each other: a plan already holds all of that")


def report(records: Sequence[Record], as_json: bool) -> None:
    """Print records of one model and dataset: a table, or JSON."""
    from quantsam.results.compare import compare

    differences = [compare(records[0], record) if record is not records[0] else None for record in records]
    if as_json:
        print_json([_json(record, difference) for record, difference in zip(records, differences, strict=True)])
        return
    first = records[0]
    columns = [
        "scheme",
        ">mIoU",
        ">± SE",
        ">small",
        ">medium",
        ">large",
        f">vs {scheme_label(first)}" if len(records) > 1 else "",
        ">saved MiB",
        ">encoder MiB",
    ]
    rows: list[list[object]] = [_cells(r, d) for r, d in zip(records, differences, strict=True)]
    figures = first.figures
    fills = [_points(figures[f"box_fill_miou{size}"]) for size in ("", "_small", "_medium", "_large")]
    rows.append(["(filled box)", fills[0], "", *fills[1:], "", "", ""])
    counts = ", ".join(f"{figures[f'count_{size}']} {size}" for size in ("small", "medium", "large"))
    title = f"{first.model} on {first.dataset}, {first.prompt} prompts: {figures['count']} objects ({counts})"
    print_table(title, columns, rows)
    calibrated = {f"calibrated on {r.calibration}; placement {r.placement}": None for r in records if r.calibration}
    for line in calibrated:
        click.echo(f"\n{line}")


def _points(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cells(record: Record, difference: PairedDifference | None) -> list[object]:
    figures = record.figures
    paired = ""
    if difference is not None:
        error = "" if difference.standard_error is None else f" ± {difference.standard_error:.2f}"
        paired = f"{difference.mean_difference:+.2f}{error}"
    sizes = [f"{_number(figures['saved_mib']):.2f}", f"{_number(figures['size_bytes']) / 2**20:.2f}"]
    by_size = [_points(figures[f"miou_{size}"]) for size in ("small", "medium", "large")]
    return [
        scheme_label(record),
        _points(figures["miou"]),
        _points(figures["standard_error"]),
        *by_size,
        paired,
        *sizes,
    ]


def _number(value: float | int | None) -> float:
    return 0.0 if value is None else float(value)


def _json(record: Record, difference: PairedDifference | None) -> dict[str, Any]:
    import dataclasses

    return record.to_json_dict() | {"paired_difference": dataclasses.asdict(difference) if difference else None}
