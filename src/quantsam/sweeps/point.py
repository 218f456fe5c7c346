"""A point of a sweep: one run as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantsam.data.open import BARE_NAMES
from quantsam.errors import InputError, nearest, one_of
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
_BARE = (*BARE_NAMES, *scheme_names())  # never a path, even if there is a folder of that name


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run; every attribute is a key of a sweep's file.

    Attributes:
        kind: `evaluate` or `sensitivity`.
        model: Name of a variant.
        weights: Weights file; `{model}` in it stands for the model's name.
        device: Device on which PyTorch computes.
        scheme: Scheme, as for `quantsam evaluate`. A sensitivity study also takes a bare format.
        observer: Observer that finds the ranges of activations; None for that of the scheme or the placement.
        quantize: `both`, `weights` or `activations`.
        repair: Repairs to apply, for example `streams+migrate`, or `none`; None for those of the scheme.
        placement: Where tensors are quantized. If None, the engine's own placement, or `thesis`.
        engine: What computes: `pytorch` or an engine.
        precision: Precision of the parts that OpenVINO does not quantize.
        data: Data to score on, as for `quantsam evaluate`.
        annotations: See `open_dataset`.
        image_root: See `open_dataset`.
        crowds: `yes` to score crowds too, as in the authors' evaluation, or `no`.
        images: Number of images to score; all if None.
        prompts: Prompts, for example `box`.
        detections: A detector's results file, instead of prompts.
        calibration: Calibration images; the model's own if None.
        calibration_images: Number of calibration images; all if None.
        calibration_seed: Seed that chooses the calibration images; `seed` if None.
        seed: Seed that chooses images where a number of images is given.
        by: Sensitivity studies only; see `StudySettings`.
        mode: Likewise.
        part: Likewise.
        method: Likewise.
        first: Likewise.
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
        """A few words that distinguish the point from others."""
        shown = ("model", "scheme", "data", "prompts", "engine")
        words = [self.kind] if self.kind != "evaluate" else []
        words += [Path(str(getattr(self, name))).name for name in shown]
        usual = Point(kind=self.kind)
        rest = [f.name for f in dataclasses.fields(self) if f.name not in (*shown, "kind", "weights", "calibration")]
        words += [f"{name}={getattr(self, name)}" for name in rest if getattr(self, name) != getattr(usual, name)]
        return " ".join(words)

    @property
    def quantized(self) -> str:
        """`both`, `weights` or `activations`; for a study, what its rows may quantize."""
        return self.part if self.kind == "sensitivity" and self.part in QUANTIZE else self.quantize

    @property
    def model_source(self) -> ModelSource:
        """The model."""
        return ModelSource(name=self.model, weights=self.weights, device=self.device)

    @property
    def data_source(self) -> DataSource:
        """The data to score on."""
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
        """The calibration images."""
        seed = self.seed if self.calibration_seed is None else self.calibration_seed
        return CalibrationSource(spec=self.calibration, images=self.calibration_images, seed=seed)

    @property
    def deployment(self) -> Deployment:
        """What computes, and which parts of the scheme it applies."""
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
    """Return the type of a key's values, text or whole numbers; None for an unknown key."""
    return _TYPES.get(_RENAMED.get(key, key))


def make_point(values: Mapping[str, Any], where: str) -> Point:
    """Make a point from plain values. Paths become absolute, so that the point means the same wherever it runs.

    Args:
        values: Values by key; other keys keep their defaults.
        where: What errors call the point.

    Raises:
        InputError: A key is unknown or belongs to another kind, or a value has the wrong type.
    """
    values = _with_new_names(values, where)
    kind = values.get("kind", "evaluate")
    if kind not in KINDS:
        raise InputError(one_of(f"{where}: kind", kind, KINDS))
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
    return dataclasses.replace(point, **absolute)


def _with_new_names(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return values with old keys renamed to those of this version."""
    for old, new in _RENAMED.items():
        if old in values:
            if new in values:
                raise InputError(f"{where}: {old!r} and {new!r} are one key: leave {old!r} out")
            notice(f"{where}: {old!r} is now called {new!r}: the old name goes with the next version")
            values = {new if key == old else key: value for key, value in values.items()}
    return dict(values)


def _is_path(value: str | None) -> bool:
    return value is not None and value not in _BARE and expanded(value).exists()
