"""The inputs of a run as plain values. This module opens nothing and does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from quantsam.errors import InputError
from quantsam.models.variants import get_variant
from quantsam.runtime.engines import ENGINES, PYTORCH, check_engine, check_precision, get_engine, placement_of
from quantsam.runtime.processor import Processors
from quantsam.runtime.sessions import Precision
from quantsam.schemes.repairs import RepairName

FilePath = str | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which model to load.

    Attributes:
        name: Name of a variant.
        weights: Weights file. If None, the shipped weights or those from the hub.
        device: Device on which PyTorch computes.
    """

    name: str = "nano"
    weights: FilePath | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """What a run scores on; see `open_dataset`.

    Attributes:
        spec: A folder, `coco`, `lvis` or `scenes:COUNT:SEED`.
        annotations: Annotation file to use instead of the folder's.
        image_root: Folder of the images.
        images: Number of images to score; all if None.
        seed: Seed that chooses these images.
        crowds: Score groups too.
        strict: Refuse annotations that are never scored or look wrong.
        detections: A detector's results file; its boxes are the prompts.
        skip_unknown_images: See `open_detections`.
    """

    spec: str = "scenes:300"
    annotations: FilePath | None = None
    image_root: FilePath | None = None
    images: int | None = None
    seed: int = 0
    crowds: bool = True
    strict: bool = False
    detections: FilePath | None = None
    skip_unknown_images: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSource:
    """Which images a run calibrates on; see `open_images`.

    Attributes:
        spec: A folder, `sa-1b` or `scenes:COUNT:SEED`; the model's own images if None.
        images: Number of images; all if None.
        seed: Seed that chooses these images.
    """

    spec: str | None = None
    images: int | None = None
    seed: int = 0

    def spec_for(self, model: str) -> str:
        """Return where a model's calibration images come from.

        Raises:
            InputError: No images were named, and the model has none of its own.
        """
        found = self.spec or get_variant(model).calibration
        if found is None:
            raise InputError(
                f"calibrating {model} needs images, got no --calibration (in a sweep: calibration): name a folder of "
                "photographs, e.g. sa-1b"
            )
        return found


class Roles(TypedDict):
    """Which tensors are quantized."""

    weights: bool
    activations: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What computes, and which parts of a scheme it applies.

    Attributes:
        engine: `pytorch`, which simulates, or an engine's name.
        placement: Where tensors are quantized. If None, the engine's own placement, or `thesis` for PyTorch.
        processors: Processors on which the engine's integers are exact.
        precision: Precision of the parts that the engine does not quantize.
        weights: Quantize weights.
        activations: Quantize activations.
        repairs: Repairs to apply, see `repair_plan`; None for those that each scheme names, `()` for none.
    """

    engine: str = PYTORCH
    placement: str | None = None
    processors: Processors = "any"
    precision: Precision = "f32"
    weights: bool = True
    activations: bool = True
    repairs: tuple[RepairName, ...] | None = None

    @property
    def placed(self) -> str:
        """Name of the placement."""
        return self.placement or placement_of(self.engine, vnni=self.processors == "vnni")

    @property
    def roles(self) -> Roles:
        """Which tensors are quantized, as keyword arguments."""
        return {"weights": self.weights, "activations": self.activations}

    def check(self, *, installed: bool = True) -> None:
        """Check, before anything is opened, that the engine can compute this.

        Args:
            installed: Whether the engine must be installed.

        Raises:
            InputError: The engine is unknown, lacks the precision, or has another placement; or a repair is given while
                activations stay in float.
            EngineError: The engine is not installed, or its device is missing.
        """
        check_engine(self.engine) if installed or self.engine == PYTORCH else get_engine(self.engine)
        check_precision(self.engine, self.precision)
        if self.repairs and not self.activations:
            raise InputError(f"a repair needs quantized activations, got weights alone: leave {self.repairs[0]} out")
        if self.engine == PYTORCH or self.placement is None:
            return
        own = ENGINES[self.engine].placement
        if self.placement.split("+")[0] != own:
            raise InputError(
                f"engine {self.engine} has a placement of its own, {own}, got placement {self.placement}: leave it out"
            )
