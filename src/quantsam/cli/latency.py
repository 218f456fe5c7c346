"""`quantsam latency`: how long a model takes, by engine and scheme."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.options import (
    PRECISION,
    calibration_options,
    deployments_options,
    model_options,
    schemes_option,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.cli.stores import StoreChoice, store_options, tell_kept
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource
from quantsam.runtime.engines import PYTORCH

if TYPE_CHECKING:
    from quantsam.evaluation.latency import Latency
    from quantsam.results.record import JsonValue
    from quantsam.runs.run import Run


@click.command(name="latency")
@model_options
@click.option("--random-weights", is_flag=True, help="Use random weights; they do not change the time.")
@deployments_options(
    click.option(
        "--engine",
        "engines",
        multiple=True,
        default=(PYTORCH, "onnxruntime", "openvino"),
        help="pytorch, onnxruntime, openvino or web; may be repeated. [pytorch, onnxruntime, openvino]",
    )
)
@schemes_option("fp32", "int8")
@calibration_options
@PRECISION
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True, help="Timed calls, all in turn.")
@click.option(
    "--warm-up", type=click.IntRange(min=0), default=3, show_default=True, help="Calls before the first timed."
)
@click.option("--threads", type=click.IntRange(min=1), help="Number of threads per call. [all processors]")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Number of images per call.")
@store_options
@json_option
def command(
    model: ModelSource,
    random_weights: bool,
    deployments: tuple[Deployment, ...],
    schemes: tuple[str, ...],
    calibration: CalibrationSource,
    precision: Any,
    rounds: int,
    warm_up: int,
    threads: int | None,
    batch: int,
    store: StoreChoice,
    as_json: bool,
) -> None:
    """Time the encoder by engine and scheme, side by side, and time the decoder: median and 95th percentile."""
    from quantsam.evaluation.latency import latency_records, measure_latency
    from quantsam.runs.run import open_run
    from quantsam.runtime.engines import surroundings
    from quantsam.runtime.processor import processor_text

    if model.device != "cpu":
        raise click.UsageError(f"latency is measured on the processor, got --device {model.device}")
    if random_weights:
        run, results = _random_run(model.name, schemes, deployments), None  # not stored: no accuracy belongs to it
    else:
        results = store.open()
        run = open_run(model, schemes=schemes, deployments=deployments, calibration=calibration)
    plans = [(one.engine, plan) for one in deployments for plan in run.plans(one, progress("calibrating"))]
    count = threads or os.cpu_count() or 1
    found = measure_latency(
        run.model,
        plans,
        rounds=rounds,
        warm_up=warm_up,
        threads=count,
        batch=batch,
        precision=precision,
        progress=progress("timing"),
    )
    settings: dict[str, JsonValue] = {"threads": count, "batch": batch, "rounds": rounds}
    settings["random_weights"] = random_weights
    if results is not None:
        for record in latency_records(run.model, plans, found, settings):
            results.append(record)
    name = run.model.name
    used = tuple(dict.fromkeys(one.engine for one in deployments if one.engine != PYTORCH))
    if as_json:
        entries = [dataclasses.asdict(entry) for entry in found]
        machine = {key: value for engine in (PYTORCH, *used) for key, value in surroundings(engine).items()}
        print_json({"model": name, "settings": settings, "environment": machine, "latencies": entries})
        return
    _print(f"{name}, {count} threads, {batch} image(s) a call, {rounds} rounds in turn", found)
    for engine in used:
        click.echo(f"processor: {processor_text(engine)}")
    if random_weights:
        click.echo("\nrandom weights: for latency and size only")
    tell_kept(results, ("quantsam report", "shows them beside the accuracy"))


def _print(title: str, found: Sequence[Latency]) -> None:
    rows = [
        [
            entry.what,
            entry.engine,
            entry.scheme,
            entry.precision,
            f"{entry.median_ms:.1f}",
            f"{entry.p95_ms:.1f}",
            "" if entry.versus_fp32 is None else f"{entry.versus_fp32:.2f} x",
            "" if entry.size_bytes is None else f"{entry.size_bytes / 2**20:.2f}",
        ]
        for entry in found
    ]
    print_table(
        title, ["what", "engine", "scheme", "float part", ">median ms", ">p95 ms", ">vs its FP32", ">MiB"], rows
    )


def _random_run(name: str, schemes: Sequence[str], deployments: Sequence[Deployment]) -> Run:
    """Return a run of a model with random weights, calibrated on noise."""
    import torch

    from quantsam.models.zoo import create_model
    from quantsam.runs.run import Run
    from quantsam.schemes.load import load_scheme

    for deployment in deployments:
        deployment.check()
    declared = tuple(load_scheme(scheme) for scheme in schemes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model(name).requires_grad_(False)
    size = model.variant.input_size
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return Run(model, declared, [noise])
