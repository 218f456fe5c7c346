"""quantsam: INT8 quantization of EfficientViT-SAM that can be trusted.

>>> import quantsam as qs
>>> model = qs.load_model("nano")
>>> plan = qs.calibrate(model, qs.make_plan(model, "int8"), qs.open_images("scenes:4:1"))
>>> encoder = qs.simulate(model, plan)
>>> record = qs.evaluate(model.with_encoder(encoder), qs.open_dataset("scenes:4"), prompts="box")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from quantsam.bundles.export import export_bundle
    from quantsam.data.coco import CocoDataset
    from quantsam.data.dataset import Dataset
    from quantsam.data.detections import DetectionFile
    from quantsam.data.folders import ImageFolder
    from quantsam.data.images import load_image
    from quantsam.data.lvis import LvisDataset
    from quantsam.data.open import open_dataset, open_images
    from quantsam.data.scenes import SceneDataset
    from quantsam.diagnostics.agreement import measure_agreement
    from quantsam.diagnostics.compared import measure_activations
    from quantsam.diagnostics.distributions import measure_distributions
    from quantsam.engines.encoder import make_engine_encoder
    from quantsam.errors import QuantsamError
    from quantsam.evaluation.detector import open_detections
    from quantsam.evaluation.evaluator import evaluate
    from quantsam.evaluation.latency import measure_latency
    from quantsam.memory import keep_freed_memory
    from quantsam.models.encoder import Encoder
    from quantsam.models.sam import EfficientViTSam
    from quantsam.models.zoo import create_model, load_model
    from quantsam.plans.calibration import calibrate, observe
    from quantsam.plans.make import make_plan
    from quantsam.plans.placements import Placement
    from quantsam.plans.plan import Plan
    from quantsam.plans.storage import load_plan, save_plan
    from quantsam.plans.transforms import Transform
    from quantsam.prediction.automatic import segment_everything
    from quantsam.prediction.grid import GridSettings
    from quantsam.prediction.predictor import Predictor
    from quantsam.repair.calibrated import calibrated_plans
    from quantsam.repair.repair import repair_plan
    from quantsam.report.page import write_report
    from quantsam.results.activation_record import ActivationRecord
    from quantsam.results.agreement_record import AgreementRecord
    from quantsam.results.compare import compare
    from quantsam.results.distribution_record import DistributionRecord
    from quantsam.results.record import Record
    from quantsam.results.repair_record import RepairRecord
    from quantsam.results.search_record import SearchRecord
    from quantsam.results.sensitivity_record import SensitivityRecord
    from quantsam.results.store import ResultStore
    from quantsam.runs.run import Run, open_run
    from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, ModelSource
    from quantsam.runtime.bundle import load_bundle
    from quantsam.runtime.engine import Engine
    from quantsam.schemes.load import load_scheme, scheme_names
    from quantsam.schemes.scheme import Scheme
    from quantsam.search.palette import make_palette
    from quantsam.search.repair_settings import RepairSettings
    from quantsam.search.repairs import find_repairs
    from quantsam.search.schemes import search_schemes
    from quantsam.search.settings import SearchSettings
    from quantsam.sensitivity.study import StudySettings, measure_sensitivity
    from quantsam.simulation.simulator import simulate
    from quantsam.sweeps.driver import run_sweep
    from quantsam.sweeps.sweep import read_sweep

_HOMES = {
    "ActivationRecord": "results.activation_record",
    "AgreementRecord": "results.agreement_record",
    "CalibrationSource": "runs.sources",
    "CocoDataset": "data.coco",
    "DataSource": "runs.sources",
    "Dataset": "data.dataset",
    "Deployment": "runs.sources",
    "DetectionFile": "data.detections",
    "DistributionRecord": "results.distribution_record",
    "EfficientViTSam": "models.sam",
    "Encoder": "models.encoder",
    "Engine": "runtime.engine",
    "GridSettings": "prediction.grid",
    "ImageFolder": "data.folders",
    "LvisDataset": "data.lvis",
    "ModelSource": "runs.sources",
    "Placement": "plans.placements",
    "Plan": "plans.plan",
    "Predictor": "prediction.predictor",
    "QuantsamError": "errors",
    "Record": "results.record",
    "ResultStore": "results.store",
    "Run": "runs.run",
    "SceneDataset": "data.scenes",
    "Scheme": "schemes.scheme",
    "RepairRecord": "results.repair_record",
    "RepairSettings": "search.repair_settings",
    "SearchRecord": "results.search_record",
    "SearchSettings": "search.settings",
    "SensitivityRecord": "results.sensitivity_record",
    "StudySettings": "sensitivity.study",
    "Transform": "plans.transforms",
    "calibrate": "plans.calibration",
    "calibrated_plans": "repair.calibrated",
    "compare": "results.compare",
    "create_model": "models.zoo",
    "evaluate": "evaluation.evaluator",
    "export_bundle": "bundles.export",
    "find_repairs": "search.repairs",
    "keep_freed_memory": "memory",
    "load_bundle": "runtime.bundle",
    "load_image": "data.images",
    "load_model": "models.zoo",
    "load_plan": "plans.storage",
    "load_scheme": "schemes.load",
    "make_engine_encoder": "engines.encoder",
    "make_palette": "search.palette",
    "make_plan": "plans.make",
    "measure_activations": "diagnostics.compared",
    "measure_agreement": "diagnostics.agreement",
    "measure_distributions": "diagnostics.distributions",
    "measure_latency": "evaluation.latency",
    "measure_sensitivity": "sensitivity.study",
    "observe": "plans.calibration",
    "open_dataset": "data.open",
    "open_detections": "evaluation.detector",
    "open_images": "data.open",
    "open_run": "runs.run",
    "read_sweep": "sweeps.sweep",
    "repair_plan": "repair.repair",
    "run_sweep": "sweeps.driver",
    "save_plan": "plans.storage",
    "scheme_names": "schemes.load",
    "search_schemes": "search.schemes",
    "segment_everything": "prediction.automatic",
    "simulate": "simulation.simulator",
    "write_report": "report.page",
}

__all__ = [
    "ActivationRecord",
    "AgreementRecord",
    "CalibrationSource",
    "CocoDataset",
    "DataSource",
    "Dataset",
    "Deployment",
    "DetectionFile",
    "DistributionRecord",
    "EfficientViTSam",
    "Encoder",
    "Engine",
    "GridSettings",
    "ImageFolder",
    "LvisDataset",
    "ModelSource",
    "Placement",
    "Plan",
    "Predictor",
    "QuantsamError",
    "Record",
    "RepairRecord",
    "RepairSettings",
    "ResultStore",
    "Run",
    "SceneDataset",
    "Scheme",
    "SearchRecord",
    "SearchSettings",
    "SensitivityRecord",
    "StudySettings",
    "Transform",
    "calibrate",
    "calibrated_plans",
    "compare",
    "create_model",
    "evaluate",
    "export_bundle",
    "find_repairs",
    "keep_freed_memory",
    "load_bundle",
    "load_image",
    "load_model",
    "load_plan",
    "load_scheme",
    "make_engine_encoder",
    "make_palette",
    "make_plan",
    "measure_activations",
    "measure_agreement",
    "measure_distributions",
    "measure_latency",
    "measure_sensitivity",
    "observe",
    "open_dataset",
    "open_detections",
    "open_images",
    "open_run",
    "read_sweep",
    "repair_plan",
    "run_sweep",
    "save_plan",
    "scheme_names",
    "search_schemes",
    "segment_everything",
    "simulate",
    "write_report",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import quantsam` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'quantsam' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"quantsam.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from quantsam.versions import missing

        line = missing(error)
        if line is None:
            raise
        raise ImportError(f"quantsam.{name}: {line}", name=error.name) from error
    globals()[name] = value
    return value
