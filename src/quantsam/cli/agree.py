"""`quantsam agree`: does an engine give what the simulation predicted?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import (
    calibration_options,
    data_options,
    deployments_options,
    model_options,
    schemes_option,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.cli.stores import StoreChoice, store_options, tell_kept
from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, ModelSource
from quantsam.runtime.engines import PYTORCH, usual_engines

if TYPE_CHECKING:
    from quantsam.diagnostics.departures import LayerReport
    from quantsam.plans.plan import Plan
    from quantsam.results.agreement_record import AgreementRecord
    from quantsam.runs.run import Run


@click.command(name="agree")
@model_options
@schemes_option("int8")
@deployments_options(
    click.option(
        "--engine",
        "engines",
        multiple=True,
        default=usual_engines(),
        help="onnxruntime, openvino, tensorrt or web; may be repeated. [onnxruntime, openvino]",
    )
)
@data_options
@click.option("--prompts", multiple=True, default=("box",), help="box, click or clicks:N; may be repeated. [box]")
@calibration_options
@click.option("--exact", is_flag=True, help="Also simulate in exact integers; takes twice as long.")
@click.option(
    "--noise-images",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Images on which to also run both on one thread, to measure the noise floor.",
)
@click.option("--layers", is_flag=True, help="Show, for each layer, what the engine executed and where it departs.")
@store_options
@json_option
def command(
    model: ModelSource,
    schemes: tuple[str, ...],
    deployments: tuple[Deployment, ...],
    data: DataSource,
    prompts: tuple[str, ...],
    calibration: CalibrationSource,
    exact: bool,
    noise_images: int,
    layers: bool,
    store: StoreChoice,
    as_json: bool,
) -> None:
    """Score schemes on the same objects in the simulator and on real engines, and compare them mask by mask."""
    from quantsam.diagnostics.agreement import measure_agreement
    from quantsam.evaluation.prompts import parse_prompt
    from quantsam.runs.run import open_run

    if any(one.engine == PYTORCH for one in deployments):
        raise click.UsageError(f"--engine of agree is what the simulation is compared with, got {PYTORCH!r}")
    for prompt in prompts:
        parse_prompt(prompt)
    results = store.open()
    run = open_run(model, schemes=schemes, deployments=deployments, calibration=calibration, data=data)
    plans = [
        (one.engine, plan) for one in deployments for plan in run.plans(one, progress(f"calibrating for {one.engine}"))
    ]
    reports = _layer_reports(run, plans) if layers else []
    records = measure_agreement(
        run.model,
        [plan for _, plan in plans],
        run.dataset_to_score(),
        engines=[engine for engine, _ in plans],
        prompts=prompts,
        exact=exact,
        noise_images=noise_images,
        store=results,
        progress=progress("comparing"),
        settings={"seed": data.seed, "calibration_images": calibration.images, "images": data.images},
    )
    if as_json:
        print_json(
            {
                "records": [record.to_json_dict() for record in records],
                "layers": {title: [entry.to_json_dict() for entry in entries] for title, entries in reports},
            }
        )
        return
    _print_records(records)
    for title, entries in reports:
        _print_layers(title, entries)
    tell_kept(results, ("quantsam results --kind agree", "lists them"))


def _layer_reports(run: Run, plans: Sequence[tuple[str, Plan]]) -> list[tuple[str, Sequence[LayerReport]]]:
    """Return a title for each plan, and how its layers ran on the first image."""
    from quantsam.diagnostics.departures import report_layers
    from quantsam.prediction.transforms import preprocess
    from quantsam.simulation.simulator import simulate

    dataset = run.dataset_to_score()
    picture = preprocess(dataset.image(dataset.image_ids[0]), run.model.variant.input_size).to(run.model.device)
    return [
        (f"{plan.scheme} on {engine}", report_layers(run.model, plan, picture, simulate, engine))
        for engine, plan in plans
    ]


def _print_records(records: Sequence[AgreementRecord]) -> None:
    from quantsam.runtime.processor import processor_text

    first = records[0]
    has_exact = "exact_gap" in first.figures
    columns = ["scheme", "engine", "prompt", ">FP32", ">simulated", ">engine", ">gap", ">mask IoU"]
    columns += [">exact gap", ">exact mask IoU"] * has_exact + [">in integers", "verdict"]
    rows = []
    for record in records:
        f = record.figures
        row = [record.label, record.engine, record.prompt]
        row += [f"{_number(f[name]):.2f}" for name in ("miou_fp32", "miou_simulated", "miou")]
        row += [_gap(record, ""), f"{_number(f['mask_iou']):.2f}"]
        row += [_gap(record, "exact_"), f"{_number(f['exact_mask_iou']):.2f}"] if has_exact else []
        integers = f"{f['convolutions_integer']} of {f['convolutions_quantized']}"
        rows.append([*row, integers, record.verdict.answer])
    print_table(f"{first.model} on {first.dataset}, {first.figures['count']} objects", columns, rows)
    click.echo("\ngap: engine less simulation, in points of mIoU, paired, ± its standard error")
    for engine in dict.fromkeys(record.engine for record in records):
        click.echo(f"processor: {processor_text(engine)}")
    for record in records:
        click.echo(f"{_name(record)}: {record.verdict}")
        click.echo(_noise(record))
        for layer in record.silently_float:
            click.echo(
                f"{record.label} on {record.engine}: {layer} is quantized by the plan, the engine ran it in float"
            )


def _noise(record: AgreementRecord) -> str:
    """Return the noise floor: what the gap should be compared with."""
    figures, floor = record.figures, []
    for key, title in (
        ("threads_simulated_", "simulation with itself on one thread"),
        ("threads_engine_", "engine with itself on one thread"),
        ("rounding_", "simulation in floats with itself in integers"),
        ("saturating_", "simulation with sums that saturate"),
        *((f"between_{other}_", f"with {other}") for other in record.between),
    ):
        if f"{key}gap" in figures:
            floor.append(f"{title} {_gap(record, key)}, mask IoU {_number(figures[f'{key}mask_iou']):.2f}")
    return f"{_name(record)}: " + "; ".join(floor or ["no noise floor measured"])


def _name(record: AgreementRecord) -> str:
    return f"{record.label} on {record.engine}, {record.prompt}"


def _gap(record: AgreementRecord, prefix: str) -> str:
    gap, error = (record.figures[f"{prefix}{name}"] for name in ("gap", "gap_standard_error"))
    return f"{_number(gap):+.3f}" + ("" if error is None else f" ± {error:.3f}")


def _number(value: float | int | None) -> float:
    return 0.0 if value is None else float(value)


def _print_layers(title: str, entries: Sequence[LayerReport]) -> None:
    columns = ["layer", "executed as", "input", ">LSB at most", ">differ", ">exact: LSB", ">differ"]
    rows = [
        [
            entry.layer,
            entry.operator,
            entry.precision + ("" if entry.is_integer or not entry.quantized else " (plan: integer)"),
            *_distance(entry.simulated),
            *_distance(entry.exact),
        ]
        for entry in entries
    ]
    click.echo()
    print_table(f"{title}, layer by layer, on one image", columns, rows)
    for name, way in (("simulation", "simulated"), ("exact simulation", "exact")):
        first = next((e.layer for e in entries if (d := getattr(e, way)) is not None and d.most_lsb > 0), None)
        click.echo(f"{name}: " + ("the same to the last code" if first is None else f"departs first at {first}"))


def _distance(found: object) -> list[str]:
    from quantsam.diagnostics.departures import Distance

    if not isinstance(found, Distance):
        return ["", ""]
    return [f"{found.most_lsb:g}", f"{100 * found.differing:.4f} %"]
