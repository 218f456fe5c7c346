"""`quantsam calibrate`: from a scheme and images to a saved plan."""

from __future__ import annotations

from pathlib import Path

import click

from quantsam.cli.options import calibration_options, calibration_source, model_options
from quantsam.cli.output import json_option, print_json, progress


@click.command(name="calibrate")
@model_options
@click.option("--scheme", default="int8", show_default=True, help="A name, a TOML file, or e.g. int8@stage3:4:2.")
@calibration_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the plan.")
@json_option
def command(
    model: str,
    weights: str | None,
    device: str,
    scheme: str,
    calibration: str | None,
    limit: int | None,
    seed: int,
    placement: str,
    no_weights: bool,
    no_activations: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Calibrate a scheme on images and save the plan: every scale and zero point, used by `evaluate --plan`."""
    from quantsam.data.open import open_images
    from quantsam.models.variants import get_variant
    from quantsam.models.zoo import load_model
    from quantsam.plans.calibration import calibrate
    from quantsam.plans.make import make_plan
    from quantsam.plans.storage import check_plan_folder, save_plan
    from quantsam.schemes.load import load_scheme

    check_plan_folder(out)
    declared = load_scheme(scheme)
    name = get_variant(model).name
    needs_images = not no_activations and bool(declared.rules)
    images = open_images(calibration_source(name, calibration), limit=limit, seed=seed) if needs_images else ()
    loaded = load_model(model, weights, device=device)
    plan = make_plan(loaded, declared, placement, weights=not no_weights, activations=not no_activations)
    plan = calibrate(loaded, plan, images, progress=progress("calibrating"))
    save_plan(plan, out)
    seen = plan.calibration
    if as_json:
        print_json(
            {
                "plan": str(out),
                "model": plan.model,
                "scheme": plan.scheme,
                "placement": plan.placement,
                "digest": plan.digest,
                "sites": len(plan.sites),
                "calibration": {"name": seen.name, "digest": seen.digest, "images": seen.count} if seen else None,
            }
        )
        return
    source = f"calibrated on {seen.count} images of {seen.name}" if seen else "no images needed"
    click.echo(f"{out}: {plan.model}, {plan.scheme}, {len(plan.sites)} sites, {source}")
