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
@click.option(
    "--plan",
    type=click.Path(),
    help="A plan from `quantsam repair` or `quantsam calibrate --placement ENGINE`, instead of --scheme.",
)
@deployment_options(engine_option("onnxruntime, openvino, tensorrt or web.", "onnxruntime"), PROCESSORS, REPAIR)
@calibration_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the bundle.")
@click.option(
    "--precision",
    "floats",  # of the graph; in other commands, --precision is the engine's own choice
    type=click.Choice(["f32", "f16"]),
    default="f32",
    show_default=True,
    help="Precision of what stays in float; f16 keeps float32 where calibration images overflow.",
)
@click.option(
    "--decoder",
    type=click.Choice(["f32", "f16", "int8"]),
    default="f32",
    show_default=True,
    help="Stored precision of the decoder's weights; the decoder computes in float32.",
)
@click.option(
    "--onnxruntime-web",
    type=click.Path(path_type=Path),
    help="--engine web: file of the npm package, if there is no network. [downloaded once]",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    help="Store with evaluations of this plan, which the bundle's model card lists.",
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
    but not PyTorch. `quantsam verify DIR` checks the bundle on the machine where it will run. With --engine web, the
    bundle is a web page: a static folder that segments images in the user's browser.
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
    click.echo("writing the bundle and its reference values, computed in exact integers", err=True)
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
        click.echo(f"copy {out} to the machine with the GPU, and there: python3 run.py IMAGE --box 40,60,300,280")
        click.echo(f"run.py builds both graphs in {described.title}; to build the encoder alone:\n{line}")
    elif engine == WEB_ENGINE.name:
        click.echo(f"serve it: python -m http.server --directory {quoted(out)} 8000, and open http://localhost:8000")
    else:
        click.echo(f"try it: quantsam segment IMAGE --everything --bundle {quoted(out)}")


def _check_half(engine: Engine, scheme: str | None) -> None:
    """Check, before long work, that float16 makes sense for a scheme, and that ONNX Runtime is there to find overflow.

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
    """Return the files of onnxruntime-web that a page needs, before long work; None for other engines."""
    from quantsam.runtime.web.package import runtime_files

    if engine == WEB_ENGINE.name:
        return runtime_files(archive, progress("downloading onnxruntime-web"))
    if archive is not None:
        raise click.UsageError(f"--onnxruntime-web is of --engine web, got --engine {engine}: leave it out")
    return None


def _records(store: Path | None, model: str) -> list[Record]:
    """Return the store's evaluations of a model; none if an unnamed store cannot be read."""
    from quantsam.errors import StoreError
    from quantsam.results.store import ResultStore

    try:
        return ResultStore(store).records(kind="evaluate", model=model)
    except StoreError:
        if store is not None:
            raise
        return []


def _checked(bundle: Path, engine: str) -> str:
    """Load a bundle as its user will, and say whether this machine computes the right results."""
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
    return f"on this machine its results are those of the exact integer simulation ({processor_text(engine)})"
