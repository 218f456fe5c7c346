"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from quantsam.data.defaults import NANO_CALIBRATION, default_calibration

F = TypeVar("F", bound=Callable[..., Any])


def model_options(function: F) -> F:
    """Add --model, --weights, --device."""
    function = click.option("--device", default="cpu", show_default=True, help="Where to compute.")(function)
    function = click.option(
        "--weights",
        type=click.Path(),
        help="A .pt or .safetensors file. Left out: nano's come along, others are fetched once from the hub.",
    )(function)
    return click.option(
        "--model", default="nano", show_default=True, help="l0, l1, l2, xl0, xl1, nano or nano-outlier."
    )(function)


def calibration_options(function: F) -> F:
    """Add --calibration, --limit, --seed, --placement, --no-weights, --no-activations."""
    function = click.option("--no-activations", is_flag=True, help="Leave activations in float.")(function)
    function = click.option("--no-weights", is_flag=True, help="Leave weights in float.")(function)
    function = click.option("--placement", default="thesis", show_default=True, help="Where tensors are quantized.")(
        function
    )
    function = click.option("--seed", default=0, show_default=True, help="Which images a limit takes.")(function)
    function = click.option("--limit", type=click.IntRange(min=1), help="Calibrate on at most this many images.")(
        function
    )
    return click.option(
        "--calibration",
        help=f"Calibration images: a folder, a COCO folder, sa-1b, or scenes:COUNT:SEED [nano: {NANO_CALIBRATION}].",
    )(function)


def calibration_source(model: str, calibration: str | None) -> str:
    """Return where calibration images come from.

    Raises:
        click.UsageError: A full-size model was given no images of its own kind.
    """
    source = calibration or default_calibration(model)
    if source is not None:
        return source
    raise click.UsageError(
        f"calibrating {model} needs pictures, got no --calibration: name a folder of photographs, e.g. sa-1b"
    )


def data_options(function: F) -> F:
    """Add --data, --annotations, --image-root, --images."""
    limit = click.option("--images", type=click.IntRange(min=1), help="Score at most this many images.")
    return dataset_options(limit(function))


def dataset_options(function: F) -> F:
    """Add --data, --annotations, --image-root."""
    function = click.option(
        "--image-root",
        type=click.Path(),
        help="The folder of the images, if not in the data's folder; LVIS: the one that holds val2017 and train2017.",
    )(function)
    function = click.option("--annotations", type=click.Path(), help="An annotation file of COCO's or LVIS's form.")(
        function
    )
    return click.option(
        "--data", default="scenes:300", show_default=True, help="A COCO or LVIS folder, coco, lvis, scenes:COUNT:SEED."
    )(function)


def store_options(function: F) -> F:
    """Add --store, --no-store."""
    function = click.option("--no-store", is_flag=True, help="Do not keep the results.")(function)
    return click.option(
        "--store", type=click.Path(path_type=Path), help="Where results are kept [the user's data folder]."
    )(function)
