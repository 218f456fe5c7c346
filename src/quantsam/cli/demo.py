"""`quantsam demo`: the complete workflow on the shipped models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantsam.cli.evaluation_table import report
from quantsam.cli.options import DRAWING, missing_package
from quantsam.cli.output import json_option, progress
from quantsam.cli.stores import command_line
from quantsam.models.variants import VARIANTS
from quantsam.runtime.engines import PYTORCH, installed_engines, placement_of

if TYPE_CHECKING:
    from quantsam.data.dataset import Dataset
    from quantsam.data.open import ImageSource
    from quantsam.models.sam import EfficientViTSam
    from quantsam.results.agreement_record import AgreementRecord
    from quantsam.results.record import Record
    from quantsam.results.store import ResultStore

PLAIN, HARD = "nano", "nano-hard"
CALIBRATION = str(VARIANTS[PLAIN].calibration)
SCHEMES = ("fp32", "int8", "mix-dwsc", "mix-mbc-neck")
_FEW = 12  # scenes for the slower steps
_NOISE_IMAGES = 5
_REPAIRS = ("reflect", "streams", "migrate", "ranges")


@click.command(name="demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("quantsam-demo"),
    show_default=True,
    help="Folder for the results.",
)
@click.option("--scenes", default=60, show_default=True, type=click.IntRange(min=1), help="Number of scenes to score.")
@json_option
def command(out: Path, scenes: int, as_json: bool) -> None:
    """Quantize two of the small shipped models, score them in simulation and on real engines, and report the results.

    The demo calibrates on toy scenes and scores on others. For the model that is hard to quantize, it finds the layers
    that hurt, repairs them and shows what changed. It prints tables and writes a report for a browser. It downloads
    nothing.
    """
    from quantsam.data.open import open_dataset, open_images
    from quantsam.errors import OutputError
    from quantsam.files import unwritable
    from quantsam.models.zoo import load_model
    from quantsam.results.store import ResultStore
    from quantsam.runtime.processor import processor_text

    problem = unwritable(out.absolute())
    if problem:
        raise OutputError(f"cannot write to {out}: {problem}; choose another folder with --out")
    tell = _Steps()
    dataset, few = open_dataset(f"scenes:{scenes}:2"), open_dataset(f"scenes:{min(scenes, _FEW)}:2")
    images = open_images(CALIBRATION)
    store = ResultStore(out / "results.sqlite")
    store.check_writable()
    records: list[Record] = []
    gaps: Sequence[AgreementRecord] = ()
    for name, is_hard in ((PLAIN, False), (HARD, True)):
        model = load_model(name)
        tell(f"{name}: {', '.join(SCHEMES)} on {scenes} scenes")
        found = _simulated(model, images, dataset, store)
        if not as_json:
            report(found, as_json=False)
            click.echo()
        records += found
        if not is_hard:
            engines = ", ".join(installed_engines()) or "of which none is installed"
            tell(f"{name}: FP32 and INT8 on real engines, {engines}")
            gaps = _on_engines(model, images, dataset, few, store)
        else:
            tell(f"{name}: which layers hurt before and after repair, on {len(few.image_ids)} scenes")
            _study(model, images, few, store)
            tell(f"{name}: INT8 repaired, {', '.join(_REPAIRS)}")
            found = _repaired(model, images, dataset, store)
            if not as_json:
                report(found, as_json=False)
                click.echo()
            records += found
    if as_json:
        report(records, as_json)
    elif gaps:
        told = ", ".join(f"{r.engine} {r.figures['gap']:+.2f} ({r.verdict.answer})" for r in gaps)
        click.echo(f"INT8 on real engines, points of mIoU off the simulation: {told}")
        click.echo(f"processor: {processor_text(gaps[0].engine)}")
    tell("the report")
    _write_page(out, store, as_json)


class _Steps:
    """Prints the current step to standard error, because the demo takes minutes."""

    def __init__(self) -> None:
        self._done, self._all = 0, 6  # two for the first model, three for the other, the report

    def __call__(self, what: str) -> None:
        self._done += 1
        click.echo(f"{self._done}/{self._all} {what}", err=True)


def _simulated(model: EfficientViTSam, images: ImageSource, dataset: Dataset, store: ResultStore) -> list[Record]:
    """Score the schemes, and keep images of some objects."""
    from quantsam.evaluation.experiment import score_plans
    from quantsam.repair.calibrated import calibrated_plans

    plans = calibrated_plans(model, SCHEMES, images, progress=progress("calibrating"))
    return list(score_plans(model, plans, dataset, store=store, progress=progress, gallery=3))


def _study(model: EfficientViTSam, images: ImageSource, few: Dataset, store: ResultStore) -> None:
    """Find the layers that hurt and the distributions of values, before and after repair."""
    from quantsam.diagnostics.distributions import measure_distributions
    from quantsam.repair.calibrated import calibrated_plans
    from quantsam.sensitivity.study import StudySettings, measure_sensitivity

    for repairs in ((), _REPAIRS):
        wrap = progress("repairing" if repairs else "calibrating")
        (plan,) = calibrated_plans(model, ("int8",), images, _placement(), repairs=repairs, progress=wrap)
        measure_sensitivity(model, plan, few, StudySettings(method="race"), store=store, progress=progress)
        measure_distributions(model, plan, images, store=store, progress=progress("distributions"))


def _on_engines(
    model: EfficientViTSam, images: ImageSource, dataset: Dataset, few: Dataset, store: ResultStore
) -> Sequence[AgreementRecord]:
    """Run FP32 and INT8 on the installed engines; return how INT8 agrees with its simulation."""
    from quantsam.diagnostics.agreement import measure_agreement
    from quantsam.evaluation.experiment import score_plans
    from quantsam.repair.calibrated import calibrated_plans

    int8 = []
    for engine in installed_engines():
        placement = placement_of(engine)
        plans = calibrated_plans(model, ("fp32", "int8"), images, placement, progress=progress("calibrating"))
        for _ in score_plans(model, plans, dataset, engine=engine, store=store, progress=progress):
            pass
        int8.append(plans[1])
    if not int8:
        return ()
    return measure_agreement(
        model, int8, few, noise_images=_NOISE_IMAGES, store=store, progress=progress("simulation and engines")
    )


def _repaired(model: EfficientViTSam, images: ImageSource, dataset: Dataset, store: ResultStore) -> list[Record]:
    """Score FP32 and INT8 before and after repairs, on an engine if one is installed."""
    from quantsam.evaluation.experiment import score_plans
    from quantsam.repair.calibrated import calibrated_plans

    engine, placement = next(iter(installed_engines()), PYTORCH), _placement()
    plans = calibrated_plans(model, ("fp32", "int8"), images, placement, progress=progress("calibrating"))
    plans += calibrated_plans(model, ("int8",), images, placement, repairs=_REPAIRS, progress=progress("repairing"))
    return list(score_plans(model, plans, dataset, engine=engine, store=store, progress=progress, gallery=3))


def _placement() -> str:
    """Return the placement to repair: that of the first installed engine, or else OpenVINO's."""
    engine = next(iter(installed_engines()), None)
    return "openvino" if engine is None else placement_of(engine)


def _write_page(out: Path, store: ResultStore, as_json: bool) -> None:
    """Write the report if the packages that draw it are installed."""
    if missing_package(*DRAWING) is not None:
        click.echo(f"results: {command_line('quantsam results', store)}", err=as_json)
        click.echo("for a report of them: pip install 'quantsam[report]'", err=as_json)
        return
    from quantsam.report.page import write_report

    page = out / "report.html"
    write_report(page, store)
    lists, shows = (command_line(f"quantsam {name}", store) for name in ("results", "report"))
    click.echo(f"results: {store.path}: {lists} lists them, {shows} makes a report of them", err=as_json)
    click.echo(f"report: {page}   open it in a browser", err=as_json)
