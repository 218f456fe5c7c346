"""`quantsam segment`: masks for your own image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.groups import option_group
from quantsam.cli.options import calibration_options, model_options, refuse_beside, was_given
from quantsam.cli.output import json_option, print_json, progress
from quantsam.cli.written import PICTURES, check_not_read, check_suffix, save_picture
from quantsam.notices import notice
from quantsam.runs.sources import CalibrationSource, Deployment, ModelSource

if TYPE_CHECKING:
    from quantsam.data.dataset import UInt8Image
    from quantsam.prediction.grid import GridSettings
    from quantsam.prediction.tally import Tally
    from quantsam.runtime.picture import PictureMask, PicturePrompts, Segmenter


_HELD = ("model", "weights", "device", "scheme", "calibration", "calibration_images", "seed")


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic only in the type checker's eyes
    """Numbers separated by commas."""

    def __init__(self, form: str, counts: tuple[int, ...]) -> None:
        self.name, self._counts = form, counts

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in self._counts or not all(abs(n) < 1e9 for n in numbers):
            self.fail(f"must be {self.name} in pixels, got {value!r}", param, ctx)
        return numbers


prompts_options = option_group(
    "prompts",
    lambda given: _prompts(given["boxes"], given["points"], given["everything"]),
    click.option("--box", "boxes", multiple=True, type=_Numbers("x0,y0,x1,y1", (4,)), help="A mask for this box."),
    click.option(
        "--point",
        "points",
        multiple=True,
        type=_Numbers("x,y or x,y,label", (2, 3)),
        help="A point on the object, or off it with label 0; all points together give one mask.",
    ),
    click.option("--everything", is_flag=True, help="Masks for everything that can be found."),
)
"""Add --box, --point, --everything: `prompts`, a `PicturePrompts`."""


def _grid(given: Mapping[str, Any]) -> dict[str, float]:
    thresholds = {"iou_threshold": given["min_iou"], "stability_threshold": given["min_stability"]}
    chosen = {name: value for name, value in thresholds.items() if value is not None}
    return {"points_per_side": given["points_per_side"], "crop_layers": given["crop_layers"], **chosen}


grid_options = option_group(
    "grid",
    _grid,
    click.option("--points-per-side", default=32, show_default=True, help="--everything: points per side of the grid."),
    click.option("--min-iou", type=float, help="--everything: lowest predicted IoU of a mask. [0.88; nano: 0.5]"),
    click.option("--min-stability", type=float, help="--everything: lowest stability of a mask. [0.95; nano: 0.5]"),
    click.option(
        "--crop-layers", default=0, show_default=True, help="--everything: layers of crops to search for small objects."
    ),
)
"""Add --points-per-side, --min-iou, --min-stability, --crop-layers: `grid`, fields of `GridSettings`."""


@click.command(name="segment")
@click.argument("image", type=click.Path(path_type=Path))
@prompts_options
@grid_options
@model_options
@click.option("--scheme", help="Show this scheme beside FP32: a name, a TOML file, or a line like int8@stage3:2:2.")
@calibration_options
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Use a bundle from `quantsam export`; needs no PyTorch."
)
@click.option("--engine", help="--bundle: onnxruntime, openvino or web [the one it was exported for].")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File for the image with masks: .png, .jpg, .webp, .tif or .bmp. [IMAGE-masks.png here]",
)
@click.option(
    "--masks",
    "masks_file",
    type=click.Path(path_type=Path),
    help="Also write the masks as COCO RLEs to this .json file.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    image: Path,
    prompts: PicturePrompts,
    grid: Mapping[str, float],
    model: ModelSource,
    scheme: str | None,
    calibration: CalibrationSource,
    bundle: Path | None,
    engine: str | None,
    out: Path | None,
    masks_file: Path | None,
    as_json: bool,
) -> None:
    """Segment an image by boxes, by points, or everything in it, and draw the masks.

    With --scheme, the command draws the quantized model's masks beside the float model's, and prints their IoU.
    """
    from quantsam.data.images import load_image
    from quantsam.prediction.tally import Tally
    from quantsam.runtime.picture import agreements, segment_picture

    _check_grid(ctx, grid, prompts.everything)
    out = out or Path(f"{image.stem}-masks.png")
    held = [] if bundle is None else [bundle / name for name in ("manifest.json", "encoder.onnx", "decoder.onnx")]
    _check_outputs(out, masks_file, [image, model.weights, scheme, *held])
    pixels = load_image(image, apply_exif=True)
    prompts = _fitted(prompts, (pixels.shape[0], pixels.shape[1]))
    if bundle is not None:
        refuse_beside(ctx, "--bundle", _HELD, "a bundle")
        segmenters = _bundled(bundle, engine)
    elif scheme is None and any(was_given(ctx, name) for name in ("calibration", "calibration_images")):
        raise click.UsageError("--calibration is of --scheme, got none: add --scheme int8, or leave it out")
    elif engine is not None:
        raise click.UsageError("--engine is of --bundle, got no bundle: make one with `quantsam export`")
    else:
        segmenters = _loaded(model, scheme, calibration)
    settings = _grid_of(bundle, model.name, grid)
    tallies = {name: Tally() for name in segmenters}
    found = {
        name: segment_picture(segmenter, pixels, prompts, grid=settings, progress=progress(name), tally=tallies[name])
        for name, segmenter in segmenters.items()
    }
    reference, *others = found.values()
    ious = agreements(reference, others[0], paired=not prompts.everything) if others else []
    _draw(out, pixels, found, prompts)
    described: dict[str, list[dict[str, Any]]] = {}
    if masks_file is not None or as_json:
        described = {name: [mask.to_json_dict() for mask in masks] for name, masks in found.items()}
    if masks_file is not None:
        _write_masks(masks_file, described if others else described[next(iter(found))])
    if as_json:
        print_json({"picture": str(out), "masks": described, "iou_with_fp32": ious})
        return
    _print(found, ious, prompts, {name: (tally, settings) for name, tally in tallies.items()})
    click.echo(f"image: {out}" + (f"   masks: {masks_file}" if masks_file else ""))


def _check_grid(ctx: click.Context, grid: Mapping[str, float], everything: bool) -> None:
    """Check that options of --everything are given together with it, and are in range."""
    from quantsam.prediction.grid import usual_settings

    options = {
        "points_per_side": "--points-per-side",
        "crop_layers": "--crop-layers",
        "iou_threshold": "--min-iou",
        "stability_threshold": "--min-stability",
    }
    if not everything:
        for option in options.values():
            given = ctx.get_parameter_source(option.removeprefix("--").replace("-", "_"))
            if given is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(f"{option} is of --everything: leave it out, or the boxes and points")
    usual_settings("nano", **grid)


def _grid_of(bundle: Path | None, model: str, grid: Mapping[str, float]) -> GridSettings:
    """Return the settings of --everything: the model's defaults, overridden by the given options."""
    from quantsam.models.variants import get_variant
    from quantsam.prediction.grid import usual_settings
    from quantsam.runtime.manifest import read_manifest

    return usual_settings(get_variant(model).name if bundle is None else read_manifest(bundle).model, **grid)


def _check_outputs(out: Path, masks_file: Path | None, inputs: Sequence[Path | str | None]) -> None:
    """Check, before long work, that the outputs can be written and replace no input."""
    from quantsam.files import check_file

    written = {"--out": (out, tuple(PICTURES)), "--masks": (masks_file, (".json",))}
    for option, (path, suffixes) in written.items():
        if path is not None:
            check_suffix(option, path, suffixes)
            check_not_read(option, path, inputs)
            check_file(path)


def _fitted(prompts: PicturePrompts, image_hw: tuple[int, int]) -> PicturePrompts:
    """Return prompts within the image. A notice names boxes that reached beyond it by more than a pixel."""
    prompts.check(image_hw)
    cut = prompts.within(image_hw)
    for given, box in zip(prompts.boxes_xyxy, cut.boxes_xyxy, strict=True):
        if max(abs(a - b) for a, b in zip(given, box, strict=True)) > 1:
            shown, left = (",".join(f"{value:g}" for value in values) for values in (given, box))
            notice(
                f"the box {shown} reaches beyond the image, {image_hw[1]} x {image_hw[0]} pixels, and is cut to "
                f"{left}: was it meant for an image of another size?"
            )
    return cut


def _draw(out: Path, pixels: UInt8Image, found: dict[str, list[PictureMask]], prompts: PicturePrompts) -> None:
    from quantsam.report.overlay import overlay, side_by_side
    from quantsam.runtime.picture import matches

    drawn = (prompts.boxes_xyxy, prompts.points_xy, prompts.labels)
    reference = next(iter(found.values()))
    panels = []
    for masks in found.values():  # one object has one colour in all of them
        colours = matches(reference, masks) if prompts.everything and masks is not reference else None
        panels.append(overlay(pixels, [m.mask for m in masks], *drawn, colours))
    save_picture(panels[0] if len(panels) == 1 else side_by_side(panels, list(found)), out)


def _write_masks(path: Path, described: Any) -> None:
    from quantsam.files import atomic_write

    with atomic_write(path) as aside:
        aside.write_text(json.dumps(described), encoding="utf-8")


def _prompts(
    boxes: tuple[tuple[float, float, float, float], ...], points: tuple[tuple[float, ...], ...], everything: bool
) -> PicturePrompts:
    from quantsam.runtime.picture import PicturePrompts

    if everything == bool(boxes or points):
        raise click.UsageError(
            "segment needs --box, --point or --everything, "
            + ("and --everything excludes the others" if everything else "got none: try --everything")
        )
    for point in points:
        if len(point) == 3 and point[2] not in (0, 1):
            raise click.UsageError(f"--point: a label must be 1, on the object, or 0, off it, got {point[2]:g}")
    labels = tuple(int(point[2]) if len(point) == 3 else 1 for point in points)
    return PicturePrompts(boxes, tuple((x, y) for x, y, *_ in points), labels)


def _loaded(model: ModelSource, scheme: str | None, calibration: CalibrationSource) -> dict[str, Segmenter]:
    from quantsam.evaluation.quantized import quantized_model
    from quantsam.prediction.segmenter import ModelSegmenter
    from quantsam.runs.run import open_run

    deployment = Deployment()
    run = open_run(model, schemes=() if scheme is None else [scheme], deployments=[deployment], calibration=calibration)
    segmenters: dict[str, Segmenter] = {"fp32": ModelSegmenter(run.model)}
    for plan in run.plans(deployment, progress("calibrating")):
        segmenters[str(scheme)] = ModelSegmenter(quantized_model(run.model, plan))
    return segmenters


def _bundled(bundle: Path, engine: str | None) -> dict[str, Segmenter]:
    from quantsam.runtime.bundle import load_bundle

    predictor = load_bundle(bundle, engine=engine)
    return {predictor.manifest.scheme: predictor}


def _print(
    found: dict[str, list[PictureMask]],
    ious: list[float],
    prompts: PicturePrompts,
    left_out: Mapping[str, tuple[Tally, GridSettings]],
) -> None:
    """Print a few lines about the masks that were found."""
    if prompts.everything:
        for name, masks in found.items():
            tally, settings = left_out[name]
            way_out = "" if masks else f"; {tally.way_out()}"
            click.echo(f"{name}: {len(masks)} masks; {tally.sentence(settings)}{way_out}")
        if ious:
            mean = 100 * sum(ious) / len(ious)
            click.echo(f"IoU of each FP32 mask with the nearest quantized one: {mean:.1f} % on average")
        return
    reference, (_, *others) = next(iter(found.values())), found
    for index, mask in enumerate(reference):
        iou = f", IoU with {others[0]}'s mask {100 * ious[index]:.1f} %" if ious else ""
        click.echo(f"mask {index + 1}: {mask.area} pixels, predicted IoU {100 * mask.predicted_iou:.0f} %{iou}")
