"""`open_run`: from plain values to a model, its data and its calibrated plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantsam.data.dataset import Dataset
from quantsam.data.detections import DetectionFile
from quantsam.data.open import ImageSource, open_dataset, open_images
from quantsam.engines.encoder import check_formats, check_runs
from quantsam.errors import InputError
from quantsam.evaluation.detector import open_detections
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import get_variant
from quantsam.models.zoo import load_model
from quantsam.notices import notice
from quantsam.plans.make import make_plan
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.plans.storage import load_plan
from quantsam.progress import Progress
from quantsam.repair.calibrated import calibrated_plans, repairs_of
from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, FilePath, ModelSource
from quantsam.runtime.engines import PYTORCH
from quantsam.schemes.load import load_scheme
from quantsam.schemes.scheme import Scheme


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A model with its data, ready to be calibrated and measured.

    Attributes:
        model: The float model.
        schemes: Schemes to calibrate.
        calibration: Calibration images; None if no scheme needs any.
        dataset: Dataset to score on; None if nothing is scored.
        detections: A detector's boxes for the dataset; None without a detector.
        loaded_plans: Plans that were loaded instead of calibrating schemes.
    """

    model: EfficientViTSam
    schemes: tuple[Scheme, ...] = ()
    calibration: ImageSource | Sequence[CalibrationImage] | None = None
    dataset: Dataset | None = None
    detections: DetectionFile | None = None
    loaded_plans: tuple[Plan, ...] = ()

    def plans(self, deployment: Deployment, progress: Progress | None = None) -> list[Plan]:
        """Return the plans for a deployment: the loaded plans, or else a calibrated plan for each scheme, in order.

        Args:
            deployment: What computes, and how.
            progress: Wraps the iteration over calibration images.

        Raises:
            SchemeError: A scheme does not fit the model.
            PlanError: The engine lacks a format, or a plan is for another engine. Nothing was calibrated then.
            CalibrationError: See `calibrate`.
        """
        if self.loaded_plans:
            for plan in self.loaded_plans if deployment.engine != PYTORCH else ():
                check_runs(plan, deployment.engine)
            return list(self.loaded_plans)
        self.check_formats(deployment)
        images = () if self.calibration is None else self.calibration
        plans = calibrated_plans(
            self.model,
            self.schemes,
            images,
            deployment.placed,
            **deployment.roles,
            repairs=deployment.repairs,
            progress=progress,
        )
        for scheme, plan in zip(self.schemes, plans, strict=True):
            idle = set(repairs_of(scheme, deployment.repairs, activations=deployment.activations)) - set(plan.repairs)
            if idle:
                notice(f"{', '.join(sorted(idle))} found nothing to repair in {scheme.name} ({deployment.placed})")
        return plans

    def check_formats(self, deployment: Deployment) -> None:
        """Check, before calibration, that the engine has the formats of all schemes.

        Raises:
            SchemeError: A scheme does not fit the model.
            PlanError: The engine lacks a format.
        """
        if deployment.engine == PYTORCH:
            return
        for scheme in self.schemes:
            plan = make_plan(self.model, scheme, deployment.placed, **deployment.roles)
            check_formats(plan.sites, deployment.engine)

    def dataset_to_score(self) -> Dataset:
        """Return the dataset; the run must have been opened with one."""
        assert self.dataset is not None
        return self.dataset


def open_run(
    model: ModelSource,
    *,
    schemes: Sequence[Scheme | str] = (),
    plans: Sequence[FilePath] = (),
    deployments: Sequence[Deployment] = (Deployment(),),
    calibration: CalibrationSource | None = None,
    data: DataSource | None = None,
    installed: bool = True,
) -> Run:
    """Open what a run needs: quick checks first, the model last.

    Args:
        model: Model to load.
        schemes: Schemes to calibrate, or what `load_scheme` takes.
        plans: Folders of plans to load instead of calibrating schemes.
        deployments: What is to compute. Pass one of these to `Run.plans` later.
        calibration: Images to calibrate on; the model's own if None. They are opened only if a scheme needs images.
        data: Data to score on; None to score nothing.
        installed: Whether the engines must be installed. False if plans are only made for them.

    Raises:
        QuantsamError: Something is unknown, missing, damaged, or does not fit.
    """
    for deployment in deployments:
        deployment.check(installed=installed)
        get_placement(deployment.placed)
    name = get_variant(model.name).name
    declared = () if plans else tuple(s if isinstance(s, Scheme) else load_scheme(s) for s in schemes)
    quantizes_activations = any(scheme.quantizes_activations for scheme in declared)
    if any(deployment.repairs for deployment in deployments) and not quantizes_activations:
        names = ", ".join(scheme.name for scheme in declared) or "no scheme"
        raise InputError(
            f"a repair needs a scheme that quantizes activations, got {names}: add --scheme int8, or leave --repair out"
        )
    dataset = None if data is None else open_data(data)
    boxes = None
    if data is not None and dataset is not None and data.detections is not None:
        boxes = open_detections(data.detections, dataset, skip_unknown_images=data.skip_unknown_images)
    needs_images = quantizes_activations and any(one.activations for one in deployments)
    images = open_calibration(calibration or CalibrationSource(), name) if needs_images else None
    opened = open_model(model)
    return Run(opened, declared, images, dataset, boxes, tuple(load_plan(plan, opened) for plan in plans))


def open_model(source: ModelSource) -> EfficientViTSam:
    """Load a model; see `load_model`."""
    return load_model(source.name, source.weights, device=source.device)


def open_data(source: DataSource) -> Dataset:
    """Open the dataset to score on; see `open_dataset`."""
    return open_dataset(
        source.spec,
        annotations=source.annotations,
        image_root=source.image_root,
        limit=source.images,
        seed=source.seed,
        crowds=source.crowds,
        strict=source.strict,
    )


def open_calibration(source: CalibrationSource, model: str) -> ImageSource:
    """Open the calibration images of a model; see `open_images`.

    Raises:
        InputError: No images were named, and the model has none of its own.
    """
    return open_images(source.spec_for(model), limit=source.images, seed=source.seed)
