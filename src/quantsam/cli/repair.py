"""`quantsam repair`: find the repairs that help, and save the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.groups import option_group
from quantsam.cli.options import (
    PLACEMENT,
    PROCESSORS,
    calibration_options,
    deployment_options,
    engine_option,
    model_argument,
    scheme_option,
    threads_option,
    use_threads,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.cli.stores import StoreChoice, command_line, quoted, store_options, tell_kept
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource
from quantsam.runtime.engines import PYTORCH, get_engine
from quantsam.schemes.repairs import REPAIRS, parse_repairs

if TYPE_CHECKING:
    from quantsam.results.repair_record import RepairRecord, RepairStep
    from quantsam.schemes.scheme import Scheme
    from quantsam.search.repair_settings import RepairSettings


def _settings(given: Mapping[str, Any]) -> RepairSettings:
    from quantsam.search.repair_settings import RepairSettings

    if given["allow_float"] and given["allow_w8a16"]:
        raise click.UsageError("--allow-float and --allow-w8a16 exclude each other: a layer that falls back has one")
    return RepairSettings(
        repairs=parse_repairs(given["tried"]),
        goal=given["goal"],
        minutes=given["minutes"],
        fall_back=given["allow_float"] or given["allow_w8a16"],
        fall_back_to="w8a16" if given["allow_w8a16"] else "float",
        rounds=given["rounds"],
    )


settings_options = option_group(
    "settings",
    _settings,
    click.option("--try", "tried", default=",".join(REPAIRS), show_default=True, help="Repairs to try."),
    click.option("--goal", type=float, help="Stop when masks lose at most this many points against FP32."),
    click.option("--minutes", type=float, help="Start no new trial after this time."),
    click.option(
        "--allow-float",
        type=click.IntRange(min=0),
        default=0,
        help="Most layers that may go back to float, until the goal is reached or wherever it helps.",
    ),
    click.option("--allow-w8a16", type=click.IntRange(min=0), default=0, help="The same for w8a16 instead of float."),
    click.option("--rounds", default=15, show_default=True, help="Rounds of the timing on the engine."),
)
"""Add --try, --goal, --minutes, --allow-float, --allow-w8a16, --rounds: `settings`, a `RepairSettings`."""


@click.command(name="repair")
@model_argument
@scheme_option
@settings_options
@calibration_options
@deployment_options(engine_option("What the plan is for, and what times it; pytorch simulates."), PLACEMENT, PROCESSORS)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the plan: `evaluate --plan`, `export --plan`.")
@click.option("--scheme-out", type=click.Path(path_type=Path), help="TOML file for the scheme with its repairs.")
@threads_option
@store_options
@json_option
def command(
    model: ModelSource,
    scheme: str,
    settings: RepairSettings,
    calibration: CalibrationSource,
    deployment: Deployment,
    out: Path | None,
    scheme_out: Path | None,
    threads: int | None,
    store: StoreChoice,
    as_json: bool,
) -> None:
    """Find the repairs that bring MODEL's quantized masks back to those of FP32, and save the plan.

    The command tries repairs in order of their cost and keeps those that help on held-out calibration images. It needs
    no ground truth: it compares masks with those of the float model.
    """
    from dataclasses import replace

    from quantsam.data.open import ImageSource
    from quantsam.files import atomic_write, check_file
    from quantsam.plans.storage import check_plan_folder, save_plan
    from quantsam.runs.run import open_run
    from quantsam.schemes.write import scheme_to_toml
    from quantsam.search.repairs import find_repairs

    use_threads(threads)
    settings = replace(settings, engine=deployment.engine)
    settings.check()
    if out is not None:
        check_plan_folder(out)
    if scheme_out is not None:
        check_file(scheme_out)
    results = store.open()
    times = deployment.engine == PYTORCH or get_engine(deployment.engine).on_processor
    run = open_run(
        model, schemes=[scheme], deployments=[deployment], calibration=calibration, installed=times
    )  # a plan for a GPU on another machine is found without that GPU
    if not isinstance(run.calibration, ImageSource):
        raise click.UsageError(f"a repair needs quantized activations, got scheme {scheme!r}: take int8")
    found = find_repairs(
        run.model,
        run.schemes[0],
        run.calibration,
        settings,
        placement=deployment.placed,
        store=results,
        progress=progress,
        notes={"calibration_source": calibration.spec_for(run.model.name)},
    )
    if out is not None:
        save_plan(found.plan, out)
    if scheme_out is not None:
        with atomic_write(scheme_out) as aside:
            aside.write_text(scheme_to_toml(_named(found.scheme)), "utf-8")
    if as_json:
        print_json(found.record.to_json_dict())
        return
    _report(found.record)
    if out is not None:
        weights = "" if model.weights is None else f" --weights {quoted(model.weights)}"
        line = f"quantsam export --model {model.name}{weights} --engine {deployment.engine}"
        line += f" --plan {quoted(out)} --out BUNDLE"
        use = f": {command_line(line)} deploys it" if deployment.engine != "pytorch" else ""
        click.echo(f"\nwritten to {out}{use}")
    elif scheme_out is None:
        click.echo("\nno plan was written: the same command with --out FOLDER writes it, and tries nothing again")
    tell_kept(results, ("quantsam results --kind repair", "lists it"))


def _named(scheme: Scheme) -> Scheme:
    """Return a repaired scheme under its own name, which distinguishes it from the unrepaired scheme in tables."""
    from dataclasses import replace

    return replace(scheme, name=f"{scheme.name} repaired") if scheme.repairs else scheme


def _report(record: RepairRecord) -> None:
    steps = record.steps
    title = f"{record.model}, {record.scheme}, {record.placement}: {record.figures['images']} held-out images"
    columns = ["tried", "kept", ">mask loss", ">± SE", ">gain", ">± SE", ">MiB", ">s"]
    timed = any(step.encoder_ms is not None for step in steps)
    rows = [_cells(step, steps[0], timed) for step in steps]
    print_table(title, columns + ([">ms", ">times"] if timed else []), rows, spare=(">s", ">± SE"))
    click.echo("\nmask loss: 100 less the mean IoU of the masks with those of FP32; gain: paired with what was kept")
    kept = ", ".join(record.last_kept.repairs) or "nothing"
    if record.out_of_time:
        left = (
            f"not tried: {', '.join(record.untried)}"
            if record.untried
            else "every repair was tried, but not all together"
        )
        click.echo(f"stopped after --minutes {record.minutes:g}: {left}")
    click.echo(f"repaired: {kept}; masks lose {record.last_kept.mask_loss:.2f} points, {steps[0].mask_loss:.2f} before")


def _cells(step: RepairStep, first: RepairStep, timed: bool) -> Sequence[object]:
    def points(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    numbers = map(points, (step.mask_loss, step.mask_loss_se, step.gain, step.gain_se))
    cells = [step.name, "yes" if step.kept else "", *numbers, f"{step.size_bytes / 2**20:.2f}", f"{step.seconds:.0f}"]
    if timed and step.encoder_ms is not None and first.encoder_ms is not None:
        cells += [f"{step.encoder_ms:.1f}", f"{step.encoder_ms / first.encoder_ms:.2f}"]
    return cells
