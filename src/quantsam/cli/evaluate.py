"""`quantsam evaluate`: score schemes on a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quantsam.cli.evaluation_table import report
from quantsam.cli.options import (
    all_deployment_options,
    calibration_options,
    detector_data_options,
    model_options,
    prompts_option,
    refuse_beside,
    schemes_option,
    threads_option,
    use_threads,
    was_given,
)
from quantsam.cli.output import json_option, progress
from quantsam.cli.stores import StoreChoice, again_option, store_options, tell_found, tell_kept
from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, ModelSource
from quantsam.runtime.engines import PYTORCH

if TYPE_CHECKING:
    from quantsam.results.record import JsonValue

_HELD = (
    *("schemes", "calibration", "calibration_images", "repair"),
    *("placement", "processors", "no_weights", "no_activations"),
)


@click.command(name="evaluate")
@model_options
@schemes_option("fp32")
@click.option(
    "--plan", "plans", multiple=True, type=click.Path(), help="A plan from `quantsam calibrate`, instead of --scheme."
)
@detector_data_options
@prompts_option
@calibration_options
@all_deployment_options
@click.option(
    "--gallery",
    type=click.IntRange(min=0, max=100),
    default=3,
    show_default=True,
    help="Keep images of this many worst, median and best objects for `quantsam report`; 0: none.",
)
@again_option
@threads_option
@store_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: ModelSource,
    schemes: tuple[str, ...],
    plans: tuple[str, ...],
    data: DataSource,
    prompts: str,
    calibration: CalibrationSource,
    deployment: Deployment,
    gallery: int,
    again: bool,
    threads: int | None,
    store: StoreChoice,
    as_json: bool,
) -> None:
    """Score a model under one or more schemes on a dataset.

    Prompts are made from the ground truth, and the score is the mean IoU. With --detections, prompts are a detector's
    boxes, and the scores are COCO's or LVIS's average precision. Run the same command again to resume an interrupted
    run: finished results come from the store, and so does the FP32 baseline.

    The thesis' experiment: quantsam evaluate --model l0 --weights l0.pt --scheme mix-dwsc --data coco
    --calibration sa-1b --calibration-images 4500
    """
    from quantsam.evaluation.experiment import score_plans
    from quantsam.evaluation.prompts import parse_prompt
    from quantsam.results.kept import find_baseline
    from quantsam.results.record import utc_now
    from quantsam.runs.run import open_run
    from quantsam.runtime.processor import processor_text

    if plans:
        refuse_beside(ctx, "--plan", _HELD, "a plan")
    if data.detections is not None and was_given(ctx, "prompts"):
        raise click.UsageError("--detections and --prompts exclude each other: the detector's boxes are the prompts")
    if data.detections is not None and not data.crowds:
        raise click.UsageError("--no-crowds is of prompts made from the ground truth: --detections has COCO's own rule")
    use_threads(threads)
    parse_prompt(prompts)
    results = store.open()
    run = open_run(model, schemes=schemes, plans=plans, deployments=[deployment], calibration=calibration, data=data)
    began = utc_now()
    settings: dict[str, JsonValue] = {
        "seed": data.seed,
        "calibration_images": calibration.images,
        "images": data.images,
    }
    records = list(
        score_plans(
            run.model,
            run.plans(deployment, progress("calibrating")),
            run.dataset_to_score(),
            prompts=prompts,
            detections=run.detections,
            engine=deployment.engine,
            precision=deployment.precision,
            store=results,
            settings=settings,
            progress=progress,
            gallery=gallery,
            again=again,
        )
    )
    baseline = None if results is None else find_baseline(results, records[0])
    report(records, as_json, baseline)
    if as_json:
        return
    tell_found([record for record in records if record.created_utc < began])
    if deployment.engine != PYTORCH:
        click.echo(f"processor: {processor_text(deployment.engine)}")
    tell_kept(results, ("quantsam results", "lists them"), ("quantsam report", "shows them"))
