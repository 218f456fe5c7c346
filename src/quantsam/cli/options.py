"""Options that several commands share."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantsam.models.variants import VARIANTS, get_variant
from quantsam.notices import notice
from quantsam.runtime.engines import ENGINES

if TYPE_CHECKING:
    from quantsam.results.store import ResultStore

DRAWING = ("altair", "vl_convert", "jinja2")
"""Packages that a report needs."""

STORE_HELP = "Where results are kept [$QUANTSAM_STORE, or a file in the user's data folder]."

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
        help="Calibration images: a folder, a COCO folder, sa-1b, or scenes:COUNT:SEED "
        f"[nano: {VARIANTS['nano'].calibration}].",
    )(function)


def processors_option(function: F) -> F:
    """Add --processors."""
    return click.option(
        "--processors",
        type=click.Choice(["any", "vnni"]),
        default="any",
        show_default=True,
        help="On which processors an engine's integers are exact: vnni keeps all of 8-bit weights, but on x86 without "
        "VNNI sums of such products saturate.",
    )(function)


def refuse_idle_processors(processors: str, engines: Collection[str], placement: str | None = None) -> None:
    """Refuse --processors vnni where nothing would become of it.

    Args:
        processors: As given.
        engines: What computes.
        placement: A placement that was asked for by name.

    Raises:
        click.UsageError: No engine is one of ONNX Runtime and OpenVINO, or the placement says it already.
    """
    if processors != "vnni":
        return
    if placement is not None:
        raise click.UsageError(
            f"--processors and --placement exclude each other: --placement ENGINE+vnni says both, got {placement}"
        )
    saturating = [name for name, engine in ENGINES.items() if engine.saturates]
    if not set(engines) & set(saturating):
        raise click.UsageError(
            f"--processors vnni is of --engine {' and '.join(saturating)}, got {', '.join(engines)}: leave it out"
        )


def calibration_source(model: str, calibration: str | None) -> str:
    """Return where calibration images come from.

    Raises:
        click.UsageError: A full-size model was given no images of its own kind.
    """
    source = calibration or get_variant(model).calibration
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


def open_store(store: Path | None, no_store: bool = False) -> ResultStore | None:
    """Return where a command keeps its results, which was made sure to be writable; None if nowhere.

    Where the user named no place and the usual one cannot be written, it is a temporary one, or none; a line says so.

    Raises:
        StoreError: The place that was named cannot be written.
    """
    import os

    from quantsam.errors import StoreError
    from quantsam.results.store import STORE_VARIABLE, ResultStore, spare_store_path

    if no_store:
        return None
    results = ResultStore(store)
    usual = results.path
    spare = spare_store_path()
    try:
        results.check_writable()
    except StoreError:
        if store is not None or os.environ.get(STORE_VARIABLE):
            raise
        if spare is None:
            notice(f"results are not kept: neither {usual} nor a temporary place can be written; name one with --store")
            return None
        results = ResultStore(spare)
        results.check_writable()
    if results.path == spare and store is None and not os.environ.get(STORE_VARIABLE):
        notice(
            f"results go to {spare}, which does not outlast this machine's temporary files: the user's data folder "
            "cannot be written; name a place with --store or QUANTSAM_STORE"
        )
    return results


def command_line(text: str, results: ResultStore | None = None) -> str:
    """Return a command to be pasted into a shell, in backquotes; with `--store` where another one would be used.

    Args:
        text: The command without it, paths in it quoted.
        results: The store that it is to use.
    """
    from quantsam.results.store import default_store_path

    needed = results is not None and results.path.absolute() != default_store_path().absolute()
    return f"`{text} --store {quoted(results.path)}`" if needed and results is not None else f"`{text}`"


def quoted(path: Path | str) -> str:
    """Return a path as a word of a shell's line."""
    return shlex.quote(str(path))


def threads_option(function: F) -> F:
    """Add --threads."""
    return click.option(
        "--threads", type=click.IntRange(min=1), help="Threads to compute with. [as many as PyTorch takes]"
    )(function)


def use_threads(threads: int | None) -> None:
    """Let PyTorch, and the engines that follow it, use so many threads until the command ends."""
    if threads is None:
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    click.get_current_context().call_on_close(lambda: torch.set_num_threads(before))


def store_options(function: F) -> F:
    """Add --store, --no-store."""
    function = click.option("--no-store", is_flag=True, help="Do not keep the results.")(function)
    return click.option("--store", type=click.Path(path_type=Path), help=STORE_HELP)(function)
