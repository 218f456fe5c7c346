"""`quantsam calibrate`: calibrate a scheme on images and save the plan."""

from __future__ import annotations

from pathlib import Path

import click

from quantsam.cli.options import (
    calibration_options,
    model_options,
    placed_options,
    scheme_option,
)
from quantsam.cli.output import json_option, print_json, progress
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource


@click.command(name="calibrate")
@model_options
@scheme_option
@calibration_options
@placed_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the plan.")
@json_option
def command(
    model: ModelSource,
    scheme: str,
    calibration: CalibrationSource,
    deployment: Deployment,
    out: Path,
    as_json: bool,
) -> None:
    """Calibrate a scheme on images and save the plan: every scale and zero point. `evaluate --plan` uses it."""
    from quantsam.plans.storage import check_plan_folder, save_plan
    from quantsam.runs.run import open_run

    check_plan_folder(out)
    run = open_run(model, schemes=[scheme], deployments=[deployment], calibration=calibration)
    (plan,) = run.plans(deployment, progress("calibrating"))
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
