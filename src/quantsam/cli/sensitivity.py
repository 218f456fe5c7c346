"""`quantsam sensitivity`: find the layers that hurt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.groups import option_group
from quantsam.cli.options import (
    PLACEMENT,
    REPAIR,
    calibration_options,
    data_options,
    deployment_options,
    engine_option,
    model_argument,
    prompts_option,
    threads_option,
    use_threads,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.cli.stores import StoreChoice, command_line, quoted, store_options, tell_kept
from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, ModelSource
from quantsam.runtime.engines import PYTORCH

if TYPE_CHECKING:
    from quantsam.results.record import JsonValue
    from quantsam.results.sensitivity_record import RowScore, SensitivityRecord
    from quantsam.results.store import ResultStore
    from quantsam.sensitivity.study import StudySettings

_HURTS = 1.0  # points of mask loss


def _settings(given: Mapping[str, Any]) -> StudySettings:
    from quantsam.sensitivity.study import StudySettings

    return StudySettings(**{f.name: given[f.name] for f in fields(StudySettings) if f.name in given})


settings_options = option_group(
    "settings",
    _settings,
    click.option(
        "--by", default="layer", show_default=True, help="What each row covers: a layer, block, stage or kind."
    ),
    click.option(
        "--mode", default="in", show_default=True, help="in: quantize only the row's layers; out: quantize all others."
    ),
    click.option(
        "--part",
        default="both",
        show_default=True,
        help="What to quantize: both, weights, activations, or each (a row for either).",
    ),
    click.option(
        "--method",
        default="race",
        show_default=True,
        help="race: images while the ranking is open; exact: all; gradient: four backward passes per image.",
    ),
    click.option("--first", default=8, show_default=True, help="race, gradient: number of images for every row."),
    prompts_option,
)
"""Add --by, --mode, --part, --method, --first, --prompts: `settings`, a `StudySettings`. Needs --engine, --seed."""


@click.command(name="sensitivity")
@model_argument
@click.option("--format", "format_name", default="int8", show_default=True, help="A format, or wNaM such as w4a8.")
@settings_options
@data_options
@deployment_options(engine_option("What computes: pytorch simulates, or an engine."), PLACEMENT, REPAIR)
@calibration_options
@threads_option
@store_options
@json_option
def command(
    model: ModelSource,
    format_name: str,
    settings: StudySettings,
    data: DataSource,
    deployment: Deployment,
    calibration: CalibrationSource,
    threads: int | None,
    store: StoreChoice,
    as_json: bool,
) -> None:
    """Quantize MODEL one layer at a time, and show which layers hurt.

    The thesis' study: quantsam sensitivity l0 --weights l0.pt --method exact --data coco --calibration sa-1b
    --calibration-images 4500
    """
    from quantsam.runs.run import open_run
    from quantsam.schemes.line import uniform_scheme
    from quantsam.sensitivity.study import check_settings, measure_sensitivity

    use_threads(threads)
    check_settings(settings)
    part = settings.part
    deployment = replace(deployment, weights=part != "activations", activations=part != "weights")
    results = store.open()
    run = open_run(
        model, schemes=[uniform_scheme(format_name)], deployments=[deployment], calibration=calibration, data=data
    )
    (plan,) = run.plans(deployment, progress("calibrating"))
    notes: dict[str, JsonValue] = {"calibration_images": calibration.images, "images": data.images}
    record = measure_sensitivity(
        run.model,
        plan,
        run.dataset_to_score(),
        settings,
        store=results,
        progress=progress,
        notes=notes,
        workers=threads,
    )
    if as_json:
        print_json(record.to_json_dict())
        return
    _report(record)
    worst = record.worst_first[:1]
    if worst and plan.sites and (worst[0].mask_loss or 0.0) > _HURTS and not plan.repairs:
        click.echo(_remedies(model, deployment, calibration, data, format_name))
    if results is not None:
        _compare(record, results)
        tell_kept(results, ("quantsam results --kind sensitivity", "lists it"))


def _report(record: SensitivityRecord) -> None:
    rows = record.worst_first
    which = "alone" if record.settings["mode"] == "in" else "left in float, all others"
    title = f"{record.model} on {record.dataset}: each row {which} in {record.label}, {record.settings['method']}"
    columns = ["row", "kind", ">mask loss", ">± SE", ">mIoU drop", ">± SE", ">SQNR dB", ">images"]
    print_table(title, columns, [_cells(row) for row in rows])
    click.echo("\nmask loss: 100 less the mean IoU of the masks with those of FP32; drop: points of mIoU lost, paired")


def _remedies(
    model: ModelSource, deployment: Deployment, calibration: CalibrationSource, data: DataSource, format_name: str
) -> str:
    """Return commands that may help a layer that hurts, for the same model, images and engine."""
    weights = "" if model.weights is None else f" --weights {quoted(model.weights)}"
    engine = "" if deployment.engine == PYTORCH else f" --engine {deployment.engine}"
    images = "" if calibration.spec is None else f" --calibration {quoted(str(calibration.spec))}"
    images += "" if calibration.images is None else f" --calibration-images {calibration.images}"
    repair = command_line(f"quantsam repair {model.name}{weights}{engine}{images}")
    values: dict[str, object] = {
        "model": model.name,
        "weights": model.weights,
        "scheme": format_name,
        "observer": "minmax,ema,percentile,omse,ptf",
        "data": data.spec,
        "images": data.images,
        "calibration": calibration.spec,
        "calibration_images": calibration.images,
        "engine": None if deployment.engine == PYTORCH else deployment.engine,
    }
    sets = " ".join(f"--set {quoted(f'{key}={value}')}" for key, value in values.items() if value is not None)
    sweep = command_line(f"quantsam sweep {sets}")
    return f"what may help: {repair} finds repairs and falls back for single layers; {sweep} compares observers"


def _cells(row: RowScore) -> Sequence[object]:
    numbers = (row.mask_loss, row.mask_loss_se, row.drop, row.drop_se)
    sqnr = "exact" if row.sqnr_db is None else f"{row.sqnr_db:.1f}"
    return [row.name, row.kind, *("-" if n is None else f"{n:.2f}" for n in numbers), sqnr, row.images]


def _compare(record: SensitivityRecord, store: ResultStore) -> None:
    """If the store holds an exact study of the same rows, print how well this study ranks them."""
    from quantsam.results.sensitivity_record import KIND, SensitivityRecord, compare_ranks

    same = ("by", "mode", "part")
    for other in reversed(store.records(kind=KIND, model=record.model, engine=record.engine)):
        if (
            isinstance(other, SensitivityRecord)
            and record.settings["method"] != "exact"
            and other.settings["method"] == "exact"
            and other.plan_digest == record.plan_digest
            and all(other.settings[key] == record.settings[key] for key in same)
        ):
            found = compare_ranks(other.rows, record.rows)
            spearman = "-" if found.spearman is None else f"{found.spearman:.3f}"
            click.echo(
                f"against the exact study {other.id[:8]} on {other.dataset}: Spearman {spearman} over {found.rows} "
                f"rows that lose more than 0.1 mIoU; {found.worst_found} of its {found.worst} worst rows found"
            )
            return
