"""`quantsam sensitivity`: which layers hurt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import (
    calibration_source,
    command_line,
    data_options,
    open_store,
    store_options,
    threads_option,
    use_threads,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.runtime.engines import placement_of

if TYPE_CHECKING:
    from quantsam.results.record import JsonValue, Record
    from quantsam.results.sensitivity import RowScore
    from quantsam.results.store import ResultStore


@click.command(name="sensitivity")
@click.argument("model")
@click.option("--weights", type=click.Path(), help="A .pt or .safetensors file.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute.")
@click.option("--format", "format_name", default="int8", show_default=True, help="A format, or wNaM such as w4a8.")
@click.option("--by", default="layer", show_default=True, help="What a row is about: layer, block, stage or kind.")
@click.option("--mode", default="in", show_default=True, help="in: quantize the row's layers alone; out: all but them.")
@click.option("--part", default="both", show_default=True, help="both, weights, activations, or each in its own row.")
@click.option(
    "--method",
    default="race",
    show_default=True,
    help="race: pictures where the ranking is undecided; exact: all pictures; gradient: one backward pass a picture.",
)
@click.option("--first", default=8, show_default=True, help="race, gradient: pictures for every row.")
@data_options
@click.option("--prompts", default="box", show_default=True, help="box, click, or clicks:N.")
@click.option("--engine", default="pytorch", show_default=True, help="What computes: pytorch simulates, or an engine.")
@click.option("--placement", help="Where tensors are quantized. [thesis, or the engine's own]")
@click.option("--calibration", help="Calibration images: a folder, sa-1b, or scenes:COUNT:SEED.")
@click.option("--limit", type=click.IntRange(min=1), help="Calibrate on at most this many images.")
@click.option("--seed", default=0, show_default=True, help="Which images a limit takes, and their order in a race.")
@threads_option
@store_options
@json_option
def command(
    model: str,
    weights: str | None,
    device: str,
    format_name: str,
    by: str,
    mode: str,
    part: str,
    method: str,
    first: int,
    data: str,
    annotations: str | None,
    image_root: str | None,
    no_crowds: bool,
    strict: bool,
    images: int | None,
    prompts: str,
    engine: str,
    placement: str | None,
    calibration: str | None,
    limit: int | None,
    seed: int,
    threads: int | None,
    store: Path | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Quantize MODEL one layer at a time, and say which layers hurt.

    The thesis' study: quantsam sensitivity l0 --weights l0.pt --method exact --data coco --calibration sa-1b
    --limit 4500
    """
    from quantsam.data.open import open_dataset, open_images
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.cache import calibrate_once
    from quantsam.plans.make import make_plan
    from quantsam.runtime.engines import check_engine
    from quantsam.schemes.load import uniform_scheme
    from quantsam.sensitivity.study import StudySettings, check_settings, measure_sensitivity

    use_threads(threads)
    settings = StudySettings(by, mode, part, method, prompts, engine, first, seed=seed)
    check_settings(settings)
    check_engine(engine)
    scheme = uniform_scheme(format_name)
    name = get_variant(model).name
    dataset = open_dataset(
        data,
        annotations=annotations,
        images=image_root,
        limit=images,
        seed=seed,
        crowds=not no_crowds,
        strict=strict,
    )
    source = open_images(calibration_source(name, calibration), limit=limit, seed=seed)
    results = open_store(store, no_store)
    loaded = load_model(name, weights, device=device)
    placed = placement or placement_of(engine)
    plan = make_plan(loaded, scheme, placed, weights=part != "activations", activations=part != "weights")
    plan = calibrate_once(loaded, plan, source, progress=progress("calibrating"))
    notes: dict[str, JsonValue] = {"limit": limit, "images": images}
    record = measure_sensitivity(
        loaded, plan, dataset, settings, store=results, progress=progress, notes=notes, workers=threads
    )
    if as_json:
        print_json(record.to_json_dict())
        return
    _report(record)
    if results is not None:
        _compare(record, results)
        lists = command_line("quantsam results --kind sensitivity", results)
        click.echo(f"\nkept in {results.path}: {lists} lists it")


def _report(record: Record) -> None:
    from quantsam.results.sensitivity import rows_of

    rows = sorted(rows_of(record), key=lambda row: -row.damage)
    which = "alone" if record.settings["mode"] == "in" else "left in float, all others"
    title = f"{record.model} on {record.dataset}: each row {which} in {record.scheme}, {record.settings['method']}"
    columns = ["row", "kind", ">mask loss", ">± SE", ">mIoU drop", ">± SE", ">SQNR dB", ">images"]
    print_table(title, columns, [_cells(row) for row in rows])
    click.echo("\nmask loss: 100 less the mean IoU of the masks with those of FP32; drop: points of mIoU lost, paired")


def _cells(row: RowScore) -> Sequence[object]:
    numbers = (row.mask_loss, row.mask_loss_se, row.drop, row.drop_se)
    sqnr = "exact" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
    return [row.name, row.kind, *("-" if n is None else f"{n:.2f}" for n in numbers), sqnr, row.images]


def _compare(record: Record, store: ResultStore) -> None:
    """Where the store holds an exact study of the same rows, say how well this one ranks."""
    from quantsam.results.sensitivity import KIND, compare_ranks, rows_of

    same = ("by", "mode", "part")
    for other in reversed(store.records(kind=KIND, model=record.model, engine=record.engine)):
        if (
            record.settings["method"] != "exact"
            and other.settings["method"] == "exact"
            and other.plan_digest == record.plan_digest
            and all(other.settings[key] == record.settings[key] for key in same)
        ):
            found = compare_ranks(rows_of(other), rows_of(record))
            spearman = "-" if found.spearman is None else f"{found.spearman:.3f}"
            click.echo(
                f"against the exact study {other.id[:8]} on {other.dataset}: Spearman {spearman} over {found.rows} "
                f"rows that lose more than 0.1 mIoU; {found.worst_found} of its {found.worst} worst rows found"
            )
            return
