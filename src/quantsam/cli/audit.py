"""`quantsam audit`: which tensors would overflow in float16, and which integer sums would saturate?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from quantsam.cli.options import (
    PROCESSORS,
    REPAIR,
    calibration_options,
    deployment_options,
    model_options,
    refuse_beside,
    was_given,
)
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource
from quantsam.runtime.engines import ENGINES

if TYPE_CHECKING:
    from quantsam.diagnostics.saturation import LayerSaturation


@click.command(name="audit")
@model_options
@click.option("--scheme", help="Also count where integer sums of this scheme would saturate without VNNI.")
@click.option("--plan", type=click.Path(), help="The same for a plan from `quantsam calibrate --placement ENGINE`.")
@deployment_options(
    click.option(
        "--engine",
        type=click.Choice([name for name, engine in ENGINES.items() if engine.saturates]),
        default="onnxruntime",
        show_default=True,
        help="--scheme: the engine whose kernels compute the sums.",
    ),
    PROCESSORS,
    REPAIR,
)
@calibration_options
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many tensors to list.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: ModelSource,
    scheme: str | None,
    plan: str | None,
    deployment: Deployment,
    calibration: CalibrationSource,
    top: int,
    as_json: bool,
) -> None:
    """Compare every tensor of the float encoder with 65,504, the largest number in float16.

    With --scheme or --plan, also count, layer by layer, the output channels whose integer sums can saturate on x86
    processors without VNNI, and those whose sums did saturate on the images.
    """
    import dataclasses

    from quantsam.diagnostics.audit import LARGEST_FP16, audit_half_precision, conclusion
    from quantsam.diagnostics.saturation import count_saturation, saturation_conclusion
    from quantsam.models.variants import get_variant
    from quantsam.runs.run import open_calibration, open_run
    from quantsam.runtime.processor import processor_text

    if scheme is not None and plan is not None:
        raise click.UsageError("--scheme and --plan exclude each other: give one of them")
    if plan is not None:
        refuse_beside(ctx, "--plan", ("engine", "processors", "repair"), "a plan")
    for option in ("engine", "processors", "repair") if scheme is None and plan is None else ():
        if was_given(ctx, option):
            raise click.UsageError(f"--{option} needs --scheme, got none: add --scheme int8, or leave --{option} out")
    name = get_variant(model.name).name
    images = open_calibration(calibration, name)
    run = open_run(
        model,
        schemes=[] if scheme is None else [scheme],
        plans=[] if plan is None else [plan],
        deployments=[deployment],
        calibration=calibration,
        installed=False,
    )
    plans = run.loaded_plans or run.plans(deployment, progress("calibrating"))  # first, to check that the scheme fits
    found = audit_half_precision(run.model.float_encoder, images, progress=progress("measuring"))
    counted = [(p, count_saturation(run.model, p, images, progress=progress("counting"))) for p in plans]
    if as_json:
        entries = [{"name": e.name, "kind": e.kind, "largest": e.largest, "overflows": e.overflows} for e in found]
        told = {"model": name, "largest_fp16": LARGEST_FP16, "tensors": entries, "conclusion": conclusion(found)}
        for audited, layers in counted:
            listed = {"layers": [dataclasses.asdict(entry) for entry in layers]}
            listed["conclusion"] = saturation_conclusion(audited, layers)  # type: ignore[assignment]
            told |= {"processor": processor_text(), "saturation": listed}
        print_json(told)
        return
    rows = [
        [e.name, e.kind, f"{e.largest:.4g}", f"{e.headroom:.1f} x", "overflows" if e.overflows else ""]
        for e in found[:top]
    ]
    title = f"{name}: the largest {len(rows)} of {len(found)} tensors; FP16 ends at 65,504"
    print_table(title, ["tensor", "kind", ">largest", ">headroom", "in FP16"], rows)
    click.echo(f"\n{conclusion(found)}")
    for audited, layers in counted:
        _print_saturation(layers, saturation_conclusion(audited, layers))
        click.echo(f"this processor: {processor_text()}")


def _print_saturation(layers: Sequence[LayerSaturation], said: str) -> None:
    rows = [
        [e.layer, e.kind, e.channels, e.can_saturate, e.did_saturate, f"{100 * e.worst:.1f} %" if e.worst else ""]
        for e in layers
        if e.can_saturate
    ]
    if rows:
        click.echo()
        columns = ["layer", "kind", ">channels", ">can saturate", ">did", ">lost at most"]
        print_table("Integer sums without VNNI, of layers that can saturate", columns, rows)
    click.echo(f"\n{said}")
