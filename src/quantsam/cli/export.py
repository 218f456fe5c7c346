"""`quantsam export`: a bundle that runs without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import (
    PROCESSORS,
    REPAIR,
    calibration_options,
    deployment_options,
    engine_option,
    model_options,
    refuse_beside,
    scheme_option,
)
from quantsam.cli.output import json_option, print_json, progress
from quantsam.cli.stores import quoted
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource
from quantsam.runtime.engines import get_engine
from quantsam.runtime.web import ENGINE as WEB_ENGINE

if TYPE_CHECKING:
    from quantsam.engines.stored import Stored
    from quantsam.results.record import Record
    from quantsam.runtime.engine import Engine

_HELD = ("scheme", "processors", "repair", "calibration", "calibration_images")


@click.command(name="export")
@model_options
@scheme_option
@click.option("--plan", type=click.Path(), help="A plan from `quantsam calibrate --placement ENGINE`, instead.")
@deployment_options(engine_option("onnxruntime, openvino, tensorrt or web.", "onnxruntime"), PROCESSORS, REPAIR)
@calibration_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the bundle.")
@click.option(
    "--precision",
    "floats",  # of the graph: an engine's own choice, which other commands call so, is another matter
    type=click.Choice(["f32", "f16"]),
    default="f32",
    show_default=True,
    help="What the scheme leaves in float is stored so; f16 keeps in float32 what overflows on the calibration images.",
)
@click.option(
    "--decoder",
    type=click.Choice(["f32", "f16", "int8"]),
    default="f32",
    show_default=True,
    help="How the decoder's weights are stored; it computes in float32.",
)
@click.option(
    "--onnxruntime-web",
    type=click.Path(path_type=Path),
    help="--engine web: the file of npm's package, where there is no network. [downloaded once]",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Store with evaluations of this plan; the bundle's model card lists them.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: ModelSource,
    scheme: str,
    plan: str | None,
    deployment: Deployment,
    calibration: CalibrationSource,
    out: Path,
    floats: str,
    decoder: Stored,
    onnxruntime_web: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Export a quantized model for an engine: encoder and decoder as ONNX, a README, and a program that runs them.

    The bundle's `run.py`, `quantsam segment --bundle DIR` and `quantsam.load_bundle` need numpy, Pillow and the engine,
    no PyTorch. `quantsam verify DIR` checks it on the machine where it is to run. With --engine web it is a page: a
    static folder that segments in the browser of whoever opens it.
    """
    from quantsam.bundles.export import check_bundle_folder, export_bundle
    from quantsam.runs.run import open_calibration, open_run
    from quantsam.runtime.manifest import ENCODER

    engine = deployment.engine
    described = get_engine(engine)
    if plan is not None:
        held = _HELD if floats == "f32" else tuple(name for name in _HELD if not name.startswith("calibration"))
        refuse_beside(ctx, "--plan", held, "a plan")
    if floats == "f16":
        _check_half(described, None if plan is not None else scheme)
    check_bundle_folder(out)
    runtime = _runtime(engine, onnxruntime_web)
    seen = open_calibration(calibration, model.name) if floats == "f16" else None
    run = open_run(
        model,
        schemes=[scheme],
        plans=[] if plan is None else [plan],
        deployments=[deployment],
        calibration=calibration,
        installed=False,
    )
    (ready,) = run.plans(deployment, progress("calibrating"))
    manifest = export_bundle(
        run.model,
        ready,
        out,
        engine=engine,
        records=_records(store, run.model.name),
        half=seen,
        decoder_weights=decoder,
        runtime=runtime,
    )
    line = described.build_line(out / ENCODER)
    if as_json:
        sizes = {name: entry.size_bytes for name, entry in manifest.files.items()}
        print_json({"bundle": str(out), "plan_digest": manifest.plan_digest, "size_bytes": sizes, "trtexec": line})
        return
    for name, entry in manifest.files.items():
        click.echo(f"{out / name}: {entry.size_bytes / 2**20:.2f} MiB")
    click.echo(f"{manifest.model}, {manifest.scheme}, for {engine}: {_checked(out, engine)}")
    if seen is not None:
        kept = len(manifest.kept_in_float32)
        click.echo(f"float16 but for {kept} values that come near its largest number on {seen.name}")
    if line is not None:
        click.echo(f"build the engine where {described.title} is:\n{line}")
    elif engine == WEB_ENGINE.name:
        click.echo(f"serve it: python -m http.server --directory {quoted(out)} 8000, and open http://localhost:8000")
    else:
        click.echo(f"try it: quantsam segment PICTURE --everything --bundle {quoted(out)}")


def _check_half(engine: Engine, scheme: str | None) -> None:
    """Make sure, before long work, that float16 makes sense beside a scheme, and that what looks for overflow is there.

    Raises:
        click.UsageError: The engine would run the scheme's convolutions in float.
    """
    from quantsam.runtime.sessions import require
    from quantsam.schemes.load import load_scheme

    if engine.on_processor and scheme is not None and load_scheme(scheme).rules:
        raise click.UsageError(
            f"--precision f16 on {engine.name} needs --scheme fp32, got {scheme}: between float16 tensors it would run "
            "integers in float"
        )
    require("onnxruntime")


def _runtime(engine: str, archive: Path | None) -> dict[str, bytes] | None:
    """Return what a page needs of onnxruntime-web, before long work; None for other engines."""
    from quantsam.runtime.web.package import runtime_files

    if engine == WEB_ENGINE.name:
        return runtime_files(archive, progress("downloading onnxruntime-web"))
    if archive is not None:
        raise click.UsageError(f"--onnxruntime-web is of --engine web, got --engine {engine}: leave it out")
    return None


def _records(store: Path | None, model: str) -> list[Record]:
    """Return what the store holds of a model; nothing of a store that cannot be read, unless it was named."""
    from quantsam.errors import StoreError
    from quantsam.results.store import ResultStore

    try:
        return ResultStore(store).records(kind="evaluate", model=model)
    except StoreError:
        if store is not None:
            raise
        return []


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
