"""`quantsam export`: a bundle that runs without PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from quantsam.cli.options import (
    calibration_source,
    model_options,
    processors_option,
    quoted,
    refuse_idle_processors,
)
from quantsam.cli.output import json_option, print_json, progress
from quantsam.runtime.engines import get_engine, placement_of


@click.command(name="export")
@model_options
@click.option("--scheme", default="int8", show_default=True, help="A name, a TOML file, or e.g. int8@stage3:4:2.")
@click.option("--plan", type=click.Path(), help="A plan from `quantsam calibrate --placement ENGINE`, instead.")
@click.option("--engine", default="onnxruntime", show_default=True, help="onnxruntime, openvino or tensorrt.")
@processors_option
@click.option("--calibration", help="Calibration images, as in `calibrate` [nano: scenes:32:1].")
@click.option("--limit", type=click.IntRange(min=1), help="Calibrate on at most this many images.")
@click.option("--seed", default=0, show_default=True, help="Which images a limit takes.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the bundle.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    weights: str | None,
    device: str,
    scheme: str,
    plan: str | None,
    engine: str,
    processors: str,
    calibration: str | None,
    limit: int | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Export a quantized model for an engine: encoder and decoder as ONNX, and a manifest.

    `quantsam segment --bundle DIR` and `quantsam.load_bundle` run it with numpy, Pillow and the engine, without
    PyTorch.
    """
    from quantsam.data.open import open_images
    from quantsam.engines.encoder import check_formats
    from quantsam.execution.bundle import check_bundle_folder, export_bundle
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.cache import calibrate_once
    from quantsam.plans.make import make_plan
    from quantsam.plans.storage import load_plan
    from quantsam.runtime.manifest import ENCODER
    from quantsam.schemes.load import load_scheme

    described = get_engine(engine)
    refuse_idle_processors(processors, [engine])
    if plan is not None:
        for name in ("scheme", "processors", "calibration", "limit"):
            if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(f"--plan and --{name} exclude each other: a plan already holds all of that")
    check_bundle_folder(out)
    declared = load_scheme(scheme)
    needs_images = plan is None and bool(declared.rules)
    source = calibration_source(get_variant(model).name, calibration) if needs_images else ""
    images = open_images(source, limit=limit, seed=seed) if needs_images else ()
    loaded = load_model(model, weights, device=device)
    if plan is not None:
        ready = load_plan(plan, loaded)
    else:
        uncalibrated = make_plan(loaded, declared, placement_of(engine, vnni=processors == "vnni"))
        check_formats(uncalibrated.sites, engine)
        ready = calibrate_once(loaded, uncalibrated, images, progress=progress("calibrating"))
    manifest = export_bundle(loaded, ready, out, engine=engine)
    line = described.build_line(out / ENCODER)
    if as_json:
        sizes = {name: entry.size_bytes for name, entry in manifest.files.items()}
        print_json({"bundle": str(out), "plan_digest": manifest.plan_digest, "size_bytes": sizes, "trtexec": line})
        return
    for name, entry in manifest.files.items():
        click.echo(f"{out / name}: {entry.size_bytes / 2**20:.2f} MiB")
    click.echo(f"{manifest.model}, {manifest.scheme}, for {engine}: {_checked(out, engine)}")
    if line is not None:
        click.echo(f"build the engine where {described.title} is:\n{line}")
    else:
        click.echo(f"try it: quantsam segment PICTURE --everything --bundle {quoted(out)}")


def _checked(bundle: Path, engine: str) -> str:
    """Load a bundle as its user will, and say whether this machine computes what it should."""
    from quantsam.errors import BundleError, EngineError
    from quantsam.runtime.bundle import load_bundle
    from quantsam.runtime.engines import get_engine
    from quantsam.runtime.processor import processor_text

    described = get_engine(engine)
    if not described.on_processor:
        return f"no {described.title} has run it yet"
    try:
        load_bundle(bundle)
    except EngineError as error:
        return f"not checked here: {error}"
    except BundleError as error:
        return f"refused on this machine: {error}"
    return f"it computes here what the simulation in exact integers does ({processor_text(engine)})"
