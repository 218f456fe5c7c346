"""`quantsam latency`: how long it takes, by engine and scheme."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.options import (
    calibration_source,
    command_line,
    model_options,
    open_store,
    processors_option,
    refuse_idle_processors,
    store_options,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.runtime.engines import placement_of

if TYPE_CHECKING:
    from quantsam.evaluation.latency import Latency
    from quantsam.models.sam import EfficientViTSam
    from quantsam.results.record import JsonValue


@click.command(name="latency")
@model_options
@click.option("--random-weights", is_flag=True, help="Random weights instead: time does not depend on them.")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("pytorch", "onnxruntime", "openvino"),
    help="pytorch, onnxruntime, openvino; may be repeated. [all three]",
)
@click.option("--scheme", "schemes", multiple=True, default=("fp32", "int8"), help="May be repeated. [fp32, int8]")
@processors_option
@click.option("--calibration", help="Calibration images, as in `calibrate` [nano: scenes:32:1].")
@click.option("--precision", type=click.Choice(["f32", "bf16"]), default="f32", show_default=True, help="On openvino.")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--warm-up", type=click.IntRange(min=0), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one call [all processors].")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images a call.")
@store_options
@json_option
def command(
    model: str,
    weights: str | None,
    device: str,
    random_weights: bool,
    engines: tuple[str, ...],
    schemes: tuple[str, ...],
    processors: str,
    calibration: str | None,
    precision: Any,
    rounds: int,
    warm_up: int,
    threads: int | None,
    batch: int,
    store: Path | None,
    no_store: bool,
    as_json: bool,
) -> None:
    """Time the encoder by engine and scheme, side by side, and the decoder: median and 95th percentile."""
    from quantsam.data.open import open_images
    from quantsam.evaluation.experiment import Switches, calibrated_plans
    from quantsam.evaluation.latency import latency_records, measure_latency
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.results.machine import environment
    from quantsam.runtime.engines import PYTORCH, check_engine
    from quantsam.runtime.processor import processor_text
    from quantsam.schemes.load import load_scheme

    if device != "cpu":
        raise click.UsageError(f"latency is measured on the processor, got --device {device}")
    refuse_idle_processors(processors, engines)
    for engine in engines:
        check_engine(engine)
    declared = [load_scheme(scheme) for scheme in schemes]
    name = get_variant(model).name
    needs_images = any(scheme.rules for scheme in declared)
    results = open_store(store, no_store or random_weights)  # of no accuracy that it could stand beside
    if random_weights:
        loaded = _random(name)
        images: Any = [_noise(loaded.variant.input_size)]
    else:
        images = open_images(calibration_source(name, calibration)) if needs_images else ()
        loaded = load_model(model, weights)
    plans = [
        (engine, plan)
        for engine in engines
        for plan in calibrated_plans(
            loaded,
            declared,
            images,
            Switches(placement_of(engine, vnni=processors == "vnni")),
            progress("calibrating"),
        )
    ]
    count = threads or os.cpu_count() or 1
    found = measure_latency(
        loaded,
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
        for record in latency_records(loaded, plans, found, settings):
            results.append(record)
    if as_json:
        entries = [dataclasses.asdict(entry) for entry in found]
        surroundings = environment(*(engine for engine in engines if engine != PYTORCH))
        print_json({"model": name, "settings": settings, "environment": surroundings, "latencies": entries})
        return
    _print(f"{name}, {count} threads, {batch} image(s) a call, {rounds} rounds in turn", found)
    for engine in dict.fromkeys(engine for engine in engines if engine != PYTORCH):
        click.echo(f"processor: {processor_text(engine)}")
    if random_weights:
        click.echo("\nrandom weights: for latency and size only")
    if results is not None:
        click.echo(
            f"\nkept in {results.path}: {command_line('quantsam report', results)} shows them beside the accuracy"
        )


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


def _random(name: str) -> EfficientViTSam:
    import torch

    from quantsam.models.zoo import create_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name).requires_grad_(False)


def _noise(size: int) -> Any:
    import torch

    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
