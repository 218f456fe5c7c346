"""Options that several commands share, in groups. Each group becomes one value."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import click

from quantsam.cli.groups import RenamedOption, option_group
from quantsam.models.variants import VARIANTS
from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, ModelSource
from quantsam.runtime.engines import ENGINES, PYTORCH
from quantsam.schemes.repairs import asked_repairs

DRAWING = ("altair", "vl_convert", "jinja2")
"""Packages that a report needs."""

F = TypeVar("F", bound=Callable[..., Any])
_COUNT = click.IntRange(min=1)

_weights = click.option(
    "--weights",
    type=click.Path(),
    help="A .pt or .safetensors file. [nano: shipped; others: downloaded once from the hub]",
)
_device = click.option("--device", default="cpu", show_default=True, help="Device on which to compute.")


def _model_source(given: Mapping[str, Any]) -> ModelSource:
    return ModelSource(name=given["model"], weights=given["weights"], device=given["device"])


model_options = option_group(
    "model",
    _model_source,
    click.option("--model", default="nano", show_default=True, help=f"{', '.join(VARIANTS)}."),
    _weights,
    _device,
)
"""Add --model, --weights, --device: `model`, a `ModelSource`."""

model_argument = option_group("model", _model_source, click.argument("model"), _weights, _device)
"""Add MODEL, --weights, --device: `model`, a `ModelSource`."""


def _calibration_source(given: Mapping[str, Any]) -> CalibrationSource:
    return CalibrationSource(spec=given["calibration"], images=given["calibration_images"], seed=given["seed"])


calibration_options = option_group(
    "calibration",
    _calibration_source,
    click.option(
        "--calibration",
        help="Calibration images: a folder, a COCO folder, sa-1b, or scenes:COUNT:SEED "
        f"[nano: {VARIANTS['nano'].calibration}].",
    ),
    click.option(
        "--calibration-images", cls=RenamedOption, old="--limit", type=_COUNT, help="Calibrate on at most this many."
    ),
    click.option(
        "--seed",
        default=0,
        show_default=True,
        help="Seed that chooses images where a number is given; in a study or search also their order.",
    ),
)
"""Add --calibration, --calibration-images, --seed: `calibration`, a `CalibrationSource`."""


def _data_source(given: Mapping[str, Any]) -> DataSource:
    return DataSource(
        spec=given["data"],
        annotations=given["annotations"],
        image_root=given["image_root"],
        images=given["images"],
        seed=given["seed"],
        crowds=not given["no_crowds"],
        strict=given["strict"],
        detections=given.get("detections"),
        skip_unknown_images=given.get("skip_unknown_images", False),
    )


_DATA = (
    click.option(
        "--data",
        default="scenes:300",
        show_default=True,
        help="A folder of COCO, LVIS or an annotation tool; coco; lvis; or scenes:COUNT:SEED.",
    ),
    click.option("--annotations", type=click.Path(), help="An annotation file in COCO's or LVIS's format."),
    click.option(
        "--image-root",
        type=click.Path(),
        help="Folder of the images, if not the data's folder; LVIS: it holds val2017 and train2017.",
    ),
    click.option("--no-crowds", is_flag=True, help="Leave out crowds (iscrowd); the authors' evaluation scores them."),
    click.option(
        "--strict",
        is_flag=True,
        help="Refuse annotations that are never scored, and boxes that do not fit their masks.",
    ),
)

_IMAGES = click.option("--images", type=_COUNT, help="Score at most this many images.")

data_options = option_group("data", _data_source, *_DATA, _IMAGES)
"""Add --data, --annotations, --image-root, --no-crowds, --strict, --images: `data`, a `DataSource`. Needs --seed."""

detector_data_options = option_group(
    "data",
    _data_source,
    *_DATA,
    _IMAGES,
    click.option(
        "--detections", type=click.Path(), help="A detector's results file (JSON): its boxes are the prompts."
    ),
    click.option(
        "--skip-unknown-images", is_flag=True, help="Leave out detections of images that the data does not list."
    ),
)
"""Add the same and --detections, --skip-unknown-images: `data`, a `DataSource`. Needs --seed."""

whole_data_options = option_group("data", lambda given: _data_source({**given, "images": None}), *_DATA)
"""Add those of `data_options` without --images: `data`, a `DataSource` of all images."""

scheme_option = click.option(
    "--scheme", default="int8", show_default=True, help="A name, a TOML file, or a line like int8@stage3:2:2."
)


def schemes_option(*default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --scheme, which may be repeated: `schemes`."""
    return click.option(
        "--scheme",
        "schemes",
        multiple=True,
        default=default,
        help=f"A name, a TOML file, or a line like int8@stage3:2:2; may be repeated. [{', '.join(default)}]",
    )


prompts_option = click.option("--prompts", default="box", show_default=True, help="box, click, or clicks:N.")

threads_option = click.option("--threads", type=_COUNT, help="Number of threads. [PyTorch's own choice]")

PLACEMENT = click.option(
    "--placement", help="Where tensors are quantized. [thesis; with an --engine, its own placement]"
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["f32", "bf16"]),
    default="f32",
    show_default=True,
    help="--engine openvino: precision of what is not quantized.",
)
PROCESSORS = click.option(
    "--processors",
    type=click.Choice(["any", "vnni"]),
    default="any",
    show_default=True,
    help="any: exact everywhere; vnni: whole 8-bit weights, but sums saturate on x86 without VNNI.",
)
REPAIR = click.option(
    "--repair",
    help="Repairs: some of reflect,streams,shift,migrate,ranges,rounding,bias, or none. [the scheme's]",
)
_ROLES = (
    click.option("--no-weights", is_flag=True, help="Leave weights in float."),
    click.option("--no-activations", is_flag=True, help="Leave activations in float."),
)


def engine_option(about: str, default: str | None = PYTORCH) -> Callable[[Any], Any]:
    """Return the option --engine: what computes."""
    return click.option("--engine", default=default, show_default=default is not None, help=about)


def _deployment(given: Mapping[str, Any]) -> Deployment:
    engine, placement, processors = (
        given.get("engine") or PYTORCH,
        given.get("placement"),
        given.get("processors", "any"),
    )
    _refuse_idle_processors(processors, [engine], placement)
    return Deployment(
        engine=engine,
        placement=placement,
        processors=processors,
        precision=given.get("precision", "f32"),
        weights=not given.get("no_weights", False),
        activations=not given.get("no_activations", False),
        repairs=_repairs(given),
    )


def _repairs(given: Mapping[str, Any]) -> tuple[Any, ...] | None:
    text = given.get("repair")
    return None if text is None else asked_repairs(text)


def _deployments(given: Mapping[str, Any]) -> tuple[Deployment, ...]:
    engines, processors = given["engines"], given["processors"]
    _refuse_idle_processors(processors, engines)
    repairs = _repairs(given)
    return tuple(Deployment(engine=engine, processors=processors, repairs=repairs) for engine in engines)


def deployment_options(*options: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add options for what computes: `deployment`, a `Deployment`. Fields without an option keep their defaults."""
    return option_group("deployment", _deployment, *options)


def deployments_options(
    engines: Callable[[Any], Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --engine, given as `engines`, --processors and --repair: `deployments`, a `Deployment` for each engine."""
    return option_group("deployments", _deployments, engines, PROCESSORS, REPAIR)


placed_options = deployment_options(PLACEMENT, *_ROLES, REPAIR)
"""Add --placement, --no-weights, --no-activations, --repair: `deployment`, which simulates."""

all_deployment_options = deployment_options(
    PLACEMENT,
    *_ROLES,
    engine_option("What computes: pytorch, which simulates, or onnxruntime, openvino, tensorrt, web."),
    PROCESSORS,
    PRECISION,
    REPAIR,
)
"""Add --placement, --no-weights, --no-activations, --engine, --processors, --precision, --repair: `deployment`."""


def record_filters(function: F) -> F:
    """Add --model, --scheme, --dataset, --prompt, --placement, --engine, --kind: filters for a store's records."""
    for option in reversed(
        (
            click.option("--model", help="Only this model; * and ? match anything."),
            click.option("--scheme", help="Only this scheme."),
            click.option("--dataset", help="Only this dataset."),
            click.option("--prompt", help="Only this kind of prompt."),
            click.option("--placement", help="Only this placement."),
            click.option("--engine", help="Only what this engine computed: pytorch, onnxruntime, openvino, ..."),
            click.option(
                "--kind",
                help="Only evaluate, agree, sensitivity, search, repair, distributions, activations or latency.",
            ),
        )
    ):
        function = option(function)
    return function


def _refuse_idle_processors(processors: str, engines: Collection[str], placement: str | None = None) -> None:
    """Refuse --processors vnni where it would have no effect.

    Args:
        processors: Value of --processors.
        engines: Names of what computes.
        placement: Value of --placement; None without.

    Raises:
        click.UsageError: No engine is ONNX Runtime or OpenVINO, or a placement is given, which says it already.
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


def refuse_beside(ctx: click.Context, option: str, held: Collection[str], holder: str) -> None:
    """Refuse options that another option would override.

    Args:
        ctx: Context of the command.
        option: The option that was given, such as `--plan`.
        held: Names of the options that it replaces.
        holder: What the option names, such as `a plan`.

    Raises:
        click.UsageError: One of the replaced options was given.
    """
    for other in ctx.command.params:
        if other.name in held and was_given(ctx, str(other.name)):
            raise click.UsageError(
                f"{option} and {other.opts[0]} exclude each other: {holder} already holds all of that"
            )


def was_given(ctx: click.Context, name: str) -> bool:
    """Return whether an option was given. `name` is its name in Python."""
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def need_extra(extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        click.UsageError: A package is missing; the message says how to install it.
    """
    missing = missing_package(*packages)
    if missing is not None:
        raise click.UsageError(
            f"this command needs the package {missing}, which is not installed: pip install 'quantsam[{extra}]'"
        )


def missing_package(*packages: str) -> str | None:
    """Return the first package that is not installed; None if all are."""
    return next((package for package in packages if importlib.util.find_spec(package) is None), None)


def use_threads(threads: int | None) -> None:
    """Set the number of threads of PyTorch, and of the engines that follow it, until the command ends."""
    if threads is None:
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    click.get_current_context().call_on_close(lambda: torch.set_num_threads(before))
