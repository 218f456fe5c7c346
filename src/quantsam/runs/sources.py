"""What a run is about, in plain values. Nothing here is opened or imports PyTorch."""

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
    """Which model.

    Attributes:
        name: A variant's name.
        weights: A file; what comes along or the hub has, if None.
        device: Where PyTorch computes.
    """

    name: str = "nano"
    weights: FilePath | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """What a run scores on; see `open_dataset`.

    Attributes:
        spec: A folder, `coco`, `lvis` or `scenes:COUNT:SEED`.
        annotations: Another annotation file than the folder's.
        image_root: The folder of the images.
        images: How many images are scored; all if None.
        seed: Which images that takes.
        crowds: Whether groups are scored too.
        strict: Refuse what is never scored or looks wrong.
        detections: A detector's results file, whose boxes are the prompts.
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
        images: How many images; all if None.
        seed: Which images that takes.
    """

    spec: str | None = None
    images: int | None = None
    seed: int = 0

    def spec_for(self, model: str) -> str:
        """Return where the images of a model come from.

        Raises:
            InputError: None were named, and the model has none of its own.
        """
        found = self.spec or get_variant(model).calibration
        if found is None:
            raise InputError(
                f"calibrating {model} needs pictures, got no --calibration (in a sweep: calibration): name a folder of "
                "photographs, e.g. sa-1b"
            )
        return found


class Roles(TypedDict):
    """Which tensors are quantized."""

    weights: bool
    activations: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What computes, and what of a scheme is carried out for it.

    Attributes:
        engine: `pytorch`, which simulates, or an engine's name.
        placement: Where tensors are quantized; the engine's own, or `thesis` for PyTorch, if None.
        processors: On which processors the engine's integers are exact.
        precision: Of what the engine does not quantize.
        weights: Quantize weights.
        activations: Quantize activations.
        repairs: What is repaired, see `repair_plan`; None for what each scheme says, `()` for nothing.
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
        """The placement's name."""
        return self.placement or placement_of(self.engine, vnni=self.processors == "vnni")

    @property
    def roles(self) -> Roles:
        """Which tensors are quantized, as arguments."""
        return {"weights": self.weights, "activations": self.activations}

    def check(self, *, installed: bool = True) -> None:
        """Make sure, before anything is opened, that there is something that computes so.

        Args:
            installed: The engine must be installed.

        Raises:
            InputError: There is no such engine, it lacks the precision, or has another placement; or activations stay
                in float beside a repair.
            EngineError: The engine is not installed.
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
