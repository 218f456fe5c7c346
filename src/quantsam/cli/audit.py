"""`quantsam audit`: would float16 overflow, and would integer sums?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.options import calibration_source, model_options, processors_option, refuse_beside_plan
from quantsam.cli.output import json_option, print_json, print_table, progress
from quantsam.runtime.engines import ENGINES, placement_of

if TYPE_CHECKING:
    from quantsam.diagnostics.saturation import LayerSaturation
    from quantsam.models.sam import EfficientViTSam
    from quantsam.plans.plan import Plan


@click.command(name="audit")
@model_options
@click.option("--scheme", help="Count too where integer sums of this scheme would saturate without VNNI.")
@click.option("--plan", type=click.Path(), help="The same of a plan from `quantsam calibrate --placement ENGINE`.")
@click.option(
    "--engine",
    type=click.Choice([name for name, engine in ENGINES.items() if engine.saturates]),
    default="onnxruntime",
    show_default=True,
    help="--scheme: whose kernels.",
)
@processors_option
@click.option("--calibration", help="Images to measure on, as in `calibrate` [nano: scenes:32:1].")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many images.")
@click.option("--seed", default=0, show_default=True, help="Which images a limit takes.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many tensors to list.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    weights: str | None,
    device: str,
    scheme: str | None,
    plan: str | None,
    engine: str,
    processors: str,
    calibration: str | None,
    limit: int | None,
    seed: int,
    top: int,
    as_json: bool,
) -> None:
    """Measure every tensor of the float encoder against 65,504, the largest number of float16.

    With --scheme or --plan, count too, layer by layer, the output channels whose integer sums can saturate on x86
    processors without VNNI, and those that did on the images.
    """
    from quantsam.data.open import open_images
    from quantsam.diagnostics.audit import LARGEST_FP16, audit_half_precision, conclusion
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.runtime.processor import processor_text

    if scheme is not None and plan is not None:
        raise click.UsageError("--scheme and --plan exclude each other: give one of them")
    if plan is not None:
        refuse_beside_plan(ctx, ("engine", "processors"))
    for option in ("engine", "processors") if scheme is None else ():
        if ctx.get_parameter_source(option) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{option} needs --scheme, got none: add --scheme int8, or leave --{option} out")
    name = get_variant(model).name
    images = open_images(calibration_source(name, calibration), limit=limit, seed=seed)
    loaded = load_model(model, weights, device=device)
    audited = _plan(loaded, scheme, plan, placement_of(engine, vnni=processors == "vnni"), images)
    found = audit_half_precision(loaded.float_encoder, images, progress=progress("measuring"))
    counted = None if audited is None else _saturation(loaded, audited, images)
    if as_json:
        entries = [{"name": e.name, "kind": e.kind, "largest": e.largest, "overflows": e.overflows} for e in found]
        told = {"model": name, "largest_fp16": LARGEST_FP16, "tensors": entries, "conclusion": conclusion(found)}
        print_json(told if counted is None else {**told, "processor": processor_text(), "saturation": counted[1]})
        return
    rows = [
        [e.name, e.kind, f"{e.largest:.4g}", f"{e.headroom:.1f} x", "overflows" if e.overflows else ""]
        for e in found[:top]
    ]
    title = f"{name}: the largest {len(rows)} of {len(found)} tensors; FP16 ends at 65,504"
    print_table(title, ["tensor", "kind", ">largest", ">headroom", "in FP16"], rows)
    click.echo(f"\n{conclusion(found)}")
    if counted is not None:
        _print_saturation(*counted[0])
        click.echo(f"this processor: {processor_text()}")


def _plan(model: EfficientViTSam, scheme: str | None, plan: str | None, placement: str, images: Any) -> Plan | None:
    from quantsam.plans.cache import calibrate_once
    from quantsam.plans.make import make_plan
    from quantsam.plans.storage import load_plan
    from quantsam.schemes.load import load_scheme

    if plan is not None:
        return load_plan(plan, model)
    if scheme is None:
        return None
    return calibrate_once(
        model, make_plan(model, load_scheme(scheme), placement), images, progress=progress("calibrating")
    )


def _saturation(
    model: EfficientViTSam, plan: Plan, images: Any
) -> tuple[tuple[tuple[LayerSaturation, ...], str], dict[str, Any]]:
    """Return the layers with a conclusion, and both as JSON."""
    import dataclasses

    from quantsam.diagnostics.saturation import count_saturation, saturation_conclusion

    layers = count_saturation(model, plan, images, progress=progress("counting"))
    said = saturation_conclusion(plan, layers)
    return (layers, said), {"layers": [dataclasses.asdict(entry) for entry in layers], "conclusion": said}


def _print_saturation(layers: tuple[LayerSaturation, ...], said: str) -> None:
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
