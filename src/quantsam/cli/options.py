"""Options that several commands share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from quantsam.data.defaults import NANO_CALIBRATION, default_calibration

DRAWING = ("altair", "vl_convert", "jinja2")
"""Packages that a report needs."""

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
    """Add --data, --annotations, --image-root, --no-crowds, --strict, --images."""
    limit = click.option("--images", type=click.IntRange(min=1), help="Score at most this many images.")
    return dataset_options(limit(function))


def dataset_options(function: F) -> F:
    """Add --data, --annotations, --image-root, --no-crowds, --strict."""
    function = click.option(
        "--strict",
        is_flag=True,
        help="Refuse annotations that are never scored, and boxes that do not fit their masks.",
    )(function)
    function = click.option(
        "--no-crowds", is_flag=True, help="Leave out crowds (iscrowd), which the authors' evaluation scores."
    )(function)
    function = click.option(
        "--image-root",
        type=click.Path(),
        help="The folder of the images, if not in the data's folder; LVIS: the one that holds val2017 and train2017.",
    )(function)
    function = click.option("--annotations", type=click.Path(), help="An annotation file of COCO's or LVIS's form.")(
        function
    )
    return click.option(
        "--data",
        default="scenes:300",
        show_default=True,
        help="A folder of COCO, LVIS or an annotation tool; coco, lvis; scenes:COUNT:SEED.",
    )(function)


def record_filters(function: F) -> F:
    """Add --model, --scheme, --dataset, --prompt, --placement, --engine, --kind: which records of a store."""
    function = click.option("--kind", help="Only evaluate, agree, sensitivity, search, distributions or latency.")(
        function
    )
    function = click.option("--engine", help="Only what this engine computed: pytorch, onnxruntime, openvino, ...")(
        function
    )
    function = click.option("--placement", help="Only this placement.")(function)
    function = click.option("--prompt", help="Only this kind of prompt.")(function)
    function = click.option("--dataset", help="Only this dataset.")(function)
    function = click.option("--scheme", help="Only this scheme.")(function)
    return click.option("--model", help="Only this model; * and ? match anything.")(function)


def refuse_beside_plan(ctx: click.Context, held: Collection[str]) -> None:
    """Refuse options that would be ignored because a plan holds what they say.

    Args:
        ctx: Of the command.
        held: Names of these options.

    Raises:
        click.UsageError: One was given.
    """
    for option in ctx.command.params:
        if option.name in held and ctx.get_parameter_source(option.name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--plan and {option.opts[0]} exclude each other: a plan already holds all of that")


def need_extra(extra: str, *packages: str) -> None:
    """Make sure that the packages of an extra are installed.

    Raises:
        click.UsageError: One is not; the message says how to get it.
    """
    missing = missing_package(*packages)
    if missing is not None:
        raise click.UsageError(
            f"this command needs the package {missing}, which is not installed: pip install 'quantsam[{extra}]'"
        )


def missing_package(*packages: str) -> str | None:
    """Return the first of some packages that is not installed, None if all are."""
    return next((package for package in packages if importlib.util.find_spec(package) is None), None)


def store_options(function: F) -> F:
    """Add --store, --no-store."""
    function = click.option("--no-store", is_flag=True, help="Do not keep the results.")(function)
    return click.option(
        "--store", type=click.Path(path_type=Path), help="Where results are kept [the user's data folder]."
    )(function)
