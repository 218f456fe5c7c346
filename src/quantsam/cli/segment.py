"""`quantsam segment`: masks for a picture of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.options import calibration_source, model_options
from quantsam.cli.output import json_option, print_json, progress

if TYPE_CHECKING:
    from quantsam.models.sam import EfficientViTSam
    from quantsam.runtime.picture import PictureMask, PicturePrompts, Segmenter


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


@click.command(name="segment")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--box", "boxes", multiple=True, type=_Numbers("x0,y0,x1,y1", (4,)), help="A mask for this box.")
@click.option(
    "--point",
    "points",
    multiple=True,
    type=_Numbers("x,y or x,y,label", (2, 3)),
    help="A point on the object, or with label 0 off it; all points together are for one mask.",
)
@click.option("--everything", is_flag=True, help="Masks for all that can be found.")
@click.option("--points-per-side", default=32, show_default=True, help="--everything: the grid's density.")
@click.option("--min-iou", default=0.88, show_default=True, help="--everything: least predicted IoU of a mask.")
@click.option("--min-stability", default=0.95, show_default=True, help="--everything: least stability of a mask.")
@click.option("--crop-layers", default=0, show_default=True, help="--everything: also look at crops, for small things.")
@model_options
@click.option("--scheme", help="Show beside FP32 what this scheme makes of it: a name, a TOML file, int8@stage3:4:2.")
@click.option("--calibration", help="Calibration images for the scheme [nano: scenes].")
@click.option("--bundle", type=click.Path(path_type=Path), help="Use a bundle of `quantsam export`; needs no PyTorch.")
@click.option("--engine", help="--bundle: onnxruntime or openvino [the one it was exported for].")
@click.option("--out", type=click.Path(path_type=Path), help="The picture with masks [IMAGE-masks.png here].")
@click.option("--masks", "masks_file", type=click.Path(path_type=Path), help="Also write the masks here, as COCO RLEs.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    image: Path,
    boxes: tuple[tuple[float, float, float, float], ...],
    points: tuple[tuple[float, ...], ...],
    everything: bool,
    points_per_side: int,
    min_iou: float,
    min_stability: float,
    crop_layers: int,
    model: str,
    weights: str | None,
    device: str,
    scheme: str | None,
    calibration: str | None,
    bundle: Path | None,
    engine: str | None,
    out: Path | None,
    masks_file: Path | None,
    as_json: bool,
) -> None:
    """Segment a picture by boxes, by points, or all of it, and draw the masks.

    With --scheme the quantized model's masks are drawn beside the float model's, and their IoU is printed.
    """
    from quantsam.data.images import load_image
    from quantsam.files import atomic_write
    from quantsam.models.grid import GridSettings
    from quantsam.report.overlay import overlay, side_by_side
    from quantsam.runtime.picture import agreements, segment_picture

    prompts = _prompts(boxes, points, everything)
    grid = GridSettings(
        points_per_side=points_per_side,
        iou_threshold=min_iou,
        stability_threshold=min_stability,
        crop_layers=crop_layers,
    )
    pixels = load_image(image, apply_exif=True)
    prompts.check((pixels.shape[0], pixels.shape[1]))
    out = out or Path(f"{image.stem}-masks.png")
    if bundle is not None:
        _refuse_beside_bundle(ctx)
        subjects = _bundled(bundle, engine)
    elif engine is not None:
        raise click.UsageError("--engine is of --bundle, got no bundle: make one with `quantsam export`")
    else:
        subjects = _loaded(model, weights, device, scheme, calibration)
    found = {
        name: segment_picture(subject, pixels, prompts, grid=grid, progress=progress(name))
        for name, subject in subjects.items()
    }
    panels = [
        overlay(pixels, [m.mask for m in masks], prompts.boxes_xyxy, prompts.points_xy, prompts.labels)
        for masks in found.values()
    ]
    reference, *others = found.values()
    ious = agreements(reference, others[0], paired=not prompts.everything) if others else []
    with atomic_write(out) as aside:
        (panels[0] if len(panels) == 1 else side_by_side(panels, list(found))).save(aside, format="PNG")
    described: dict[str, list[dict[str, Any]]] = {}
    if masks_file is not None or as_json:
        described = {name: [mask.to_json_dict() for mask in masks] for name, masks in found.items()}
    if masks_file is not None:
        import json

        with atomic_write(masks_file) as aside:
            aside.write_text(json.dumps(described if others else described[next(iter(found))]), encoding="utf-8")
    if as_json:
        print_json({"picture": str(out), "masks": described, "iou_with_fp32": ious})
        return
    _print(found, ious, prompts)
    click.echo(f"picture: {out}" + (f"   masks: {masks_file}" if masks_file else ""))


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


def _quantized(model: EfficientViTSam, scheme: str, calibration: str | None) -> EfficientViTSam:
    from quantsam.data.open import open_images
    from quantsam.evaluation.experiment import Switches, calibrated_plans
    from quantsam.schemes.load import load_scheme
    from quantsam.simulation.simulator import simulate

    declared = load_scheme(scheme)
    source = open_images(calibration_source(model.name, calibration)) if declared.rules else ()
    (plan,) = calibrated_plans(model, [declared], source, Switches(), progress("calibrating"))
    return model.with_encoder(simulate(model, plan)) if plan.sites else model


def _loaded(
    model: str, weights: str | None, device: str, scheme: str | None, calibration: str | None
) -> dict[str, Segmenter]:
    from quantsam.evaluation.picture import ModelSegmenter
    from quantsam.models.zoo import load_model

    loaded = load_model(model, weights, device=device)
    subjects: dict[str, Segmenter] = {"fp32": ModelSegmenter(loaded)}
    if scheme is not None:
        subjects[scheme] = ModelSegmenter(_quantized(loaded, scheme, calibration))
    return subjects


def _bundled(bundle: Path, engine: str | None) -> dict[str, Segmenter]:
    from quantsam.runtime.bundle import load_bundle

    predictor = load_bundle(bundle, engine=engine)
    return {predictor.manifest.scheme: predictor}


def _refuse_beside_bundle(ctx: click.Context) -> None:
    """Refuse options that would be ignored."""
    for name in ("model", "weights", "device", "scheme", "calibration"):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--bundle and --{name} exclude each other: a bundle already holds all of that")


def _print(found: dict[str, list[PictureMask]], ious: list[float], prompts: PicturePrompts) -> None:
    """Say in a few lines what was found."""
    if prompts.everything:
        for name, masks in found.items():
            click.echo(f"{name}: {len(masks)} masks")
        if ious:
            mean = 100 * sum(ious) / len(ious)
            click.echo(f"IoU of each FP32 mask with the nearest quantized one: {mean:.1f} % on average")
        return
    reference = next(iter(found.values()))
    for index, mask in enumerate(reference):
        iou = f", IoU of the two {100 * ious[index]:.1f} %" if ious else ""
        click.echo(f"mask {index + 1}: {mask.area} pixels, predicted IoU {100 * mask.predicted_iou:.0f} %{iou}")
