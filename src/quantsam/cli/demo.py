"""`quantsam demo`: the whole job on the shipped model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantsam.cli.evaluation_table import report
from quantsam.cli.output import json_option, progress
from quantsam.data.defaults import NANO_CALIBRATION

if TYPE_CHECKING:
    from quantsam.data.dataset import Annotation, BoolMask, Dataset
    from quantsam.models.sam import EfficientViTSam
    from quantsam.plans.plan import Plan
    from quantsam.results.record import Record

SCHEMES = ("fp32", "int8", "mix-dwsc", "mix-mbc-neck")
_ROWS = 8


@click.command(name="demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("quantsam-demo"), show_default=True, help="Folder."
)
@click.option("--scenes", default=100, show_default=True, type=click.IntRange(min=1), help="Scenes to score.")
@json_option
def command(out: Path, scenes: int, as_json: bool) -> None:
    """Quantize nano, the small trained model that comes along, by three schemes; score and picture them.

    Calibrates on toy scenes, scores on others, prints a table and draws a contact sheet. Nothing is
    downloaded.
    """
    from quantsam.data.open import open_dataset, open_images
    from quantsam.errors import OutputError
    from quantsam.evaluation.experiment import Switches, calibrated_plans, score_plans
    from quantsam.files import atomic_write, unwritable
    from quantsam.models.zoo import load_model
    from quantsam.results.store import ResultStore
    from quantsam.schemes.load import load_scheme

    problem = unwritable(out.absolute())
    if problem:
        raise OutputError(f"cannot write to {out}: {problem}; choose another folder with --out")
    dataset = open_dataset(f"scenes:{scenes}:2")
    model = load_model("nano")
    schemes = [load_scheme(name) for name in SCHEMES]
    plans = calibrated_plans(model, schemes, open_images(NANO_CALIBRATION), Switches(), progress("calibrating"))
    records = list(score_plans(model, plans, dataset, progress=progress))
    sheet = _sheet(model, plans[:2], dataset, records)
    store = ResultStore(out / "results.sqlite")
    for record in records:
        store.append(record)  # makes the folder
    picture = out / "contact-sheet.png"
    with atomic_write(picture) as aside:
        sheet.save(aside)
    report(records, as_json)
    click.echo(f"\npicture: {picture}   results: {store.path}", err=as_json)


def _sheet(model: EfficientViTSam, plans: Sequence[Plan], dataset: Dataset, records: Sequence[Record]) -> Any:
    """Draw objects that quantization changed a lot, a little and not at all, as FP32 and INT8 see them."""
    from quantsam.evaluation.prompts import answer_boxes
    from quantsam.metrics.iou import mask_iou
    from quantsam.models.predictor import Predictor
    from quantsam.report.contact_sheet import Row, contact_sheet
    from quantsam.simulation.simulator import simulate

    predictors = [Predictor(model.with_encoder(simulate(model, p)) if p.sites else model) for p in plans]
    rows = []
    for annotation in _chosen(dataset, records):
        image, truth = dataset.image(annotation.image_id), dataset.mask(annotation)
        masks: list[BoolMask] = []
        for predictor in predictors:
            predictor.set_image(image)
            masks += [answer.mask for answer in answer_boxes(predictor, [annotation.box_xyxy])]
        ious = [mask_iou(mask, truth) for mask in masks]
        rows.append(Row(image, truth, masks, ious, annotation.box_xyxy))
    return contact_sheet(rows, [plan.scheme.upper() for plan in plans])


def _chosen(dataset: Dataset, records: Sequence[Record]) -> list[Annotation]:
    """Return objects at even ranks of how much the second record's IoU differs from the first's."""
    first = {score.annotation_id: score.iou for score in records[0].scores}
    ranked = sorted(records[1].scores, key=lambda s: (first[s.annotation_id] - s.iou, s.annotation_id), reverse=True)
    picked = [ranked[round(i * (len(ranked) - 1) / max(1, _ROWS - 1))] for i in range(min(_ROWS, len(ranked)))]
    found = []
    for score in picked:
        annotations = {a.id: a for a in dataset.annotations(score.image_id)}
        found.append(annotations[score.annotation_id])
    return found
