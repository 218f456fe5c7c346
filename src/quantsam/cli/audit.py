"""`quantsam audit`: would float16 overflow?"""

from __future__ import annotations

import click

from quantsam.cli.options import calibration_source, model_options
from quantsam.cli.output import json_option, print_json, print_table, progress


@click.command(name="audit")
@model_options
@click.option("--calibration", help="Images to measure on, as in `calibrate` [nano: scenes:32:1].")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many images.")
@click.option("--seed", default=0, show_default=True, help="Which images a limit takes.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many tensors to list.")
@json_option
def command(
    model: str,
    weights: str | None,
    device: str,
    calibration: str | None,
    limit: int | None,
    seed: int,
    top: int,
    as_json: bool,
) -> None:
    """Measure every tensor of the float encoder against 65,504, the largest number of float16."""
    from quantsam.data.open import open_images
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.audit import LARGEST_FP16, audit_half_precision, conclusion

    name = get_variant(model).name
    images = open_images(calibration_source(name, calibration), limit=limit, seed=seed)
    loaded = load_model(model, weights, device=device)
    found = audit_half_precision(loaded.float_encoder, images, progress=progress("measuring"))
    if as_json:
        entries = [{"name": e.name, "kind": e.kind, "largest": e.largest, "overflows": e.overflows} for e in found]
        print_json({"model": name, "largest_fp16": LARGEST_FP16, "tensors": entries, "conclusion": conclusion(found)})
        return
    rows = [
        [e.name, e.kind, f"{e.largest:.4g}", f"{e.headroom:.1f} x", "overflows" if e.overflows else ""]
        for e in found[:top]
    ]
    title = f"{name}: the largest {len(rows)} of {len(found)} tensors; FP16 ends at 65,504"
    print_table(title, ["tensor", "kind", ">largest", ">headroom", "in FP16"], rows)
    click.echo(f"\n{conclusion(found)}")
