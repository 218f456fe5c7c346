"""A point of a sweep: one run, said in plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantsam.data.open import BARE_NAMES
from quantsam.errors import InputError, nearest
from quantsam.files import expanded
from quantsam.notices import notice
from quantsam.runs.sources import CalibrationSource, DataSource, Deployment, ModelSource
from quantsam.runtime.sessions import Precision
from quantsam.schemes.load import scheme_names
from quantsam.schemes.repairs import asked_repairs
from quantsam.sensitivity.rows import Mode, Part, Unit
from quantsam.sensitivity.study import Method

KINDS = ("evaluate", "sensitivity")
QUANTIZE = ("both", "weights", "activations")
CROWDS = ("yes", "no")
_OF_ONE_KIND = {
    "evaluate": ("quantize", "detections", "precision"),
    "sensitivity": ("by", "mode", "part", "method", "first"),
}
_RENAMED = {"limit": "calibration_images"}
_PATHS = ("weights", "detections", "annotations", "image_root", "data", "calibration", "scheme")
_BARE = (*BARE_NAMES, *scheme_names())  # what these say is no path, even beside a folder of that name


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run; every attribute is a key of a sweep's file.

    Attributes:
        kind: `evaluate` or `sensitivity`.
        model: A variant's name.
        weights: A file; `{model}` in it stands for the model's name.
        device: Where PyTorch computes.
        scheme: As `quantsam evaluate` takes it; of a sensitivity study also a bare format.
        observer: What finds the ranges of activations; what the scheme or the placement says if None.
        quantize: `both`, `weights` or `activations`.
        repair: What is repaired, `streams+migrate`, or `none`; what the scheme says if None.
        placement: Where tensors are quantized; the engine's own, or `thesis`, if None.
        engine: What computes.
        precision: Of what OpenVINO does not quantize.
        data: As `quantsam evaluate` takes it.
        annotations: See `open_dataset`.
        image_root: See `open_dataset`.
        crowds: `yes`, or `no`: whether crowds are scored too, as in the authors' evaluation.
        images: How many images are scored; all if None.
        prompts: Which prompts.
        detections: A detector's results file, instead of prompts.
        calibration: Images; nano's come along.
        calibration_images: How many of them; all if None.
        calibration_seed: Which of them; `seed` if None.
        seed: Which images are taken where a number is given.
        by: Of a sensitivity study, as are the rest; see `StudySettings`.
        mode: See there.
        part: See there.
        method: See there.
        first: See there.
    """

    kind: str = "evaluate"
    model: str = "nano"
    weights: str | None = None
    device: str = "cpu"
    scheme: str = "fp32"
    observer: str | None = None
    quantize: str = "both"
    repair: str | None = None
    placement: str | None = None
    engine: str = "pytorch"
    precision: Precision = "f32"
    data: str = "scenes:300"
    annotations: str | None = None
    image_root: str | None = None
    crowds: str = "yes"
    images: int | None = None
    prompts: str = "box"
    detections: str | None = None
    calibration: str | None = None
    calibration_images: int | None = None
    calibration_seed: int | None = None
    seed: int = 0
    by: Unit = "layer"
    mode: Mode = "in"
    part: Part = "both"
    method: Method = "race"
    first: int = 8

    @property
    def label(self) -> str:
        """What tells it from others, in a few words."""
        shown = ("model", "scheme", "data", "prompts", "engine")
        words = [self.kind] if self.kind != "evaluate" else []
        words += [Path(str(getattr(self, name))).name for name in shown]
        usual = Point(kind=self.kind)
        rest = [f.name for f in dataclasses.fields(self) if f.name not in (*shown, "kind", "weights", "calibration")]
        words += [f"{name}={getattr(self, name)}" for name in rest if getattr(self, name) != getattr(usual, name)]
        return " ".join(words)

    @property
    def quantized(self) -> str:
        """`both`, `weights` or `activations`: of a study what its rows may quantize."""
        return self.part if self.kind == "sensitivity" and self.part in QUANTIZE else self.quantize

    @property
    def model_source(self) -> ModelSource:
        """Its model."""
        return ModelSource(name=self.model, weights=self.weights, device=self.device)

    @property
    def data_source(self) -> DataSource:
        """What it is scored on."""
        return DataSource(
            spec=self.data,
            annotations=self.annotations,
            image_root=self.image_root,
            images=self.images,
            seed=self.seed,
            crowds=self.crowds == "yes",
        )

    @property
    def calibration_source(self) -> CalibrationSource:
        """What it is calibrated on."""
        seed = self.seed if self.calibration_seed is None else self.calibration_seed
        return CalibrationSource(spec=self.calibration, images=self.calibration_images, seed=seed)

    @property
    def deployment(self) -> Deployment:
        """What computes, and what of the scheme is carried out."""
        return Deployment(
            engine=self.engine,
            placement=self.placement,
            precision=self.precision,
            weights=self.quantized != "activations",
            activations=self.quantized != "weights",
            repairs=None if self.repair is None else asked_repairs(self.repair),
        )


_FIELDS = {f.name: f for f in dataclasses.fields(Point)}
_TYPES = {name: int if "int" in str(f.type) else str for name, f in _FIELDS.items()}


def value_type(key: str) -> type | None:
    """Return whether a key takes text or whole numbers; None for an unknown one."""
    return _TYPES.get(_RENAMED.get(key, key))


def make_point(values: Mapping[str, Any], where: str) -> Point:
    """Make a point of plain values; paths become absolute, so that it means the same wherever it runs.

    Args:
        values: By key; what is left out has its default.
        where: How to call it in errors.

    Raises:
        InputError: A key is not known or of another kind, a value is of the wrong type.
    """
    values = _with_new_names(values, where)
    kind = values.get("kind", "evaluate")
    if kind not in KINDS:
        raise InputError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}: {nearest(str(kind), KINDS)}")
    others = {key: other for other, keys in _OF_ONE_KIND.items() if other != kind for key in keys}
    for key, value in values.items():
        if key not in _FIELDS:
            raise InputError(f"{where}: unknown key {key!r}: {nearest(key, _FIELDS)}")
        if key in others:
            raise InputError(f"{where}: {key!r} is of kind {others[key]!r}, got kind {kind!r}: leave it out")
        wanted = _TYPES[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            word = "a whole number" if wanted is int else "a string"
            raise InputError(f"{where}: {key!r} must be {word} or a list of such, got {value!r}")
    point = Point(**values)
    point = dataclasses.replace(point, model=point.model.lower())
    if point.weights is not None:
        point = dataclasses.replace(point, weights=point.weights.replace("{model}", point.model))
    absolute: dict[str, Any] = {
        name: str(expanded(v).absolute()) for name in _PATHS if _is_path(v := getattr(point, name))
    }
    for name in ("weights", "detections"):
        if getattr(point, name) is not None and name not in absolute:
            raise InputError(f"{where}: {name} must be a file, got {getattr(point, name)!r}: check the path")
    return dataclasses.replace(point, **absolute)


def _with_new_names(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return values whose keys are of this version."""
    for old, new in _RENAMED.items():
        if old in values:
            if new in values:
                raise InputError(f"{where}: {old!r} and {new!r} are one key: leave {old!r} out")
            notice(f"{where}: {old!r} is now called {new!r}: the old name goes with the next version")
            values = {new if key == old else key: value for key, value in values.items()}
    return dict(values)


def _is_path(value: str | None) -> bool:
    return value is not None and value not in _BARE and expanded(value).exists()
