"""`quantsam evaluate`: score schemes on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.evaluation_table import report
from quantsam.cli.options import (
    calibration_options,
    calibration_source,
    command_line,
    data_options,
    model_options,
    open_store,
    processors_option,
    refuse_beside_plan,
    refuse_idle_processors,
    store_options,
    threads_option,
    use_threads,
)
from quantsam.cli.output import json_option, progress
from quantsam.runtime.engines import check_precision, placement_of

if TYPE_CHECKING:
    from quantsam.results.record import JsonValue


_HELD = ("schemes", "calibration", "limit", "placement", "processors", "no_weights", "no_activations")


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
@data_options
@click.option("--prompts", default="box", show_default=True, help="box, click, or clicks:N: N clicks, one by one.")
@click.option("--detections", type=click.Path(), help="A detector's results file (JSON): its boxes are the prompts.")
@click.option("--skip-unknown-images", is_flag=True, help="Leave out detections of images that the data does not list.")
@calibration_options
@click.option(
    "--engine",
    default="pytorch",
    show_default=True,
    help="What computes: pytorch, which simulates, or onnxruntime, openvino, tensorrt.",
)
@processors_option
@click.option(
    "--precision",
    type=click.Choice(["f32", "bf16"]),
    default="f32",
    show_default=True,
    help="--engine openvino: of what is not quantized.",
)
@click.option(
    "--gallery",
    type=click.IntRange(min=0, max=100),
    default=3,
    show_default=True,
    help="Keep pictures of so many of the worst, median and best objects, for `quantsam report`; 0: none.",
)
@threads_option
@store_options
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
    annotations: str | None,
    image_root: str | None,
    no_crowds: bool,
    strict: bool,
    images: int | None,
    prompts: str,
    detections: str | None,
    skip_unknown_images: bool,
    calibration: str | None,
    limit: int | None,
    seed: int,
    placement: str,
    no_weights: bool,
    no_activations: bool,
    engine: str,
    processors: str,
    precision: str,
    gallery: int,
    threads: int | None,
    store: Path | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Score a model under one or more schemes on a dataset.

    Prompts are made from the ground truth, and the figure is the mean IoU; or they are a detector's boxes,
    and the figures are COCO's or LVIS's average precision. A run that is stopped goes on where it was when
    the same command is given again.

    The thesis' experiment: quantsam evaluate --model l0 --weights l0.pt --scheme mix-dwsc --data coco
    --calibration sa-1b --limit 4500
    """
    from quantsam.data.open import open_dataset, open_images
    from quantsam.engines.encoder import check_formats
    from quantsam.evaluation.detector import open_detections
    from quantsam.evaluation.experiment import Switches, calibrated_plans, score_plans
    from quantsam.evaluation.prompts import parse_prompt
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.make import make_plan
    from quantsam.plans.storage import load_plan
    from quantsam.runtime.engines import PYTORCH, check_engine
    from quantsam.runtime.processor import processor_text
    from quantsam.schemes.load import load_scheme

    if plans:
        refuse_beside_plan(ctx, _HELD)
    if detections is not None and ctx.get_parameter_source("prompts") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--detections and --prompts exclude each other: the detector's boxes are the prompts")
    if detections is not None and no_crowds:
        raise click.UsageError("--no-crowds is of prompts made from the ground truth: --detections has COCO's own rule")
    named = ctx.get_parameter_source("placement") is not click.core.ParameterSource.DEFAULT
    refuse_idle_processors(processors, [engine], placement if named else None)
    use_threads(threads)
    parse_prompt(prompts)
    check_engine(engine)
    check_precision(engine, precision)
    name = get_variant(model).name
    declared = [] if plans else [load_scheme(scheme) for scheme in schemes]
    dataset = open_dataset(
        data,
        annotations=annotations,
        images=image_root,
        limit=images,
        seed=seed,
        crowds=not no_crowds,
        strict=strict,
    )
    detector = None
    if detections is not None:
        detector = open_detections(detections, dataset, skip_unknown_images=skip_unknown_images)
    needs_images = not no_activations and any(scheme.rules for scheme in declared)
    source = open_images(calibration_source(name, calibration), limit=limit, seed=seed) if needs_images else ()
    results = open_store(store, no_store)
    loaded = load_model(model, weights, device=device)
    if plans:
        ready = [load_plan(plan, loaded) for plan in plans]
    else:
        if engine != PYTORCH and not named:
            placement = placement_of(engine, vnni=processors == "vnni")
        for scheme in declared if engine != PYTORCH and placement.split("+")[0] == placement_of(engine) else ():
            check_formats(make_plan(loaded, scheme, placement).sites, engine)
        switches = Switches(placement, not no_weights, not no_activations)
        ready = calibrated_plans(loaded, declared, source, switches, progress("calibrating"))
    settings: dict[str, JsonValue] = {"seed": seed, "limit": limit, "images": images}
    wanted: dict[str, Any] = {
        "engine": engine,
        "precision": precision,
        "prompts": prompts,
        "detections": detector,
        "settings": settings,
        "gallery": gallery,
    }
    records = list(score_plans(loaded, ready, dataset, store=results, progress=progress, **wanted))
    report(records, as_json)
    if engine != PYTORCH and not as_json:
        click.echo(f"processor: {processor_text(engine)}")
    if results is not None and not as_json:
        lists, shows = (command_line(f"quantsam {name}", results) for name in ("results", "report"))
        click.echo(f"\nkept in {results.path}: {lists} lists them, {shows} shows them")
