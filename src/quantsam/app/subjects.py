"""What answers: each model under each scheme on each engine, made when first asked for, and once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from quantsam.app.jobs import Job
from quantsam.app.limits import Limits
from quantsam.app.lru import Lru
from quantsam.data.open import ImageSource
from quantsam.evaluation.experiment import PYTORCH, Switches, calibrated_plans, quantized_model
from quantsam.evaluation.subject import sizes
from quantsam.models.sam import EfficientViTSam
from quantsam.models.transforms import preprocess
from quantsam.plans.plan import Plan, make_plan
from quantsam.schemes.scheme import Scheme

FP32 = Scheme("fp32", (), "The float model.")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What can be chosen.

    Attributes:
        models: By name, in float.
        schemes: By name, without FP32, which is always there.
        engines: `pytorch`, which simulates, or names of engines.
        calibration: For each model the pictures that its schemes are calibrated on.
    """

    models: Mapping[str, EfficientViTSam]
    schemes: Mapping[str, Scheme]
    engines: tuple[str, ...]
    calibration: Mapping[str, ImageSource]

    def check(self) -> None:
        """Make sure that every scheme fits every model.

        Raises:
            SchemeError: One selects layers that a model has not.
        """
        for model in self.models.values():
            for scheme in self.schemes.values():
                make_plan(model, scheme, placement(self.engines[0]))


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model that runs a scheme.

    Attributes:
        model: With the encoder that runs it.
        size_bytes: Of the encoder's weights under the scheme.
    """

    model: EfficientViTSam
    size_bytes: int


class Subjects:
    """Makes subjects and keeps them; to be used by one thread."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self.catalogue = catalogue
        self._plans: dict[tuple[str, str], dict[str, Plan]] = {}
        self._made: Lru[tuple[str, str, str], Subject] = Lru(limits.encoders, 2**40)

    def get(self, model: str, scheme: str, engine: str, job: Job) -> Subject:
        """Return a subject; says in the job's status what takes time.

        Raises:
            QuantsamError: The scheme does not fit the model or the engine, or calibration gives no ranges.
        """
        key = (model, scheme, engine)
        subject = self._made.get(key)
        if subject is None:
            subject = self._make(model, scheme, engine, job)
            self._made.put(key, subject, subject.size_bytes)
        return subject

    def _make(self, model: str, scheme: str, engine: str, job: Job) -> Subject:
        float_model = self.catalogue.models[model]
        plan = self._plan(model, scheme, engine, job)
        job.status(f"preparing {scheme} of {model} {where(engine)}")
        quantized = quantized_model(float_model, plan, engine)
        # The first run compiles and fills caches: it is not the time that a picture takes.
        side = float_model.variant.input_size
        with torch.inference_mode():
            quantized.image_encoder(preprocess(np.zeros((side, side, 3), np.uint8), side).to(device_of(float_model)))
        size_bytes = sizes(quantized)["size_bytes"]
        assert isinstance(size_bytes, int)
        return Subject(quantized, size_bytes)

    def _plan(self, model: str, scheme: str, engine: str, job: Job) -> Plan:
        """Return a calibrated plan; the first one of a model and placement calibrates all schemes in one pass."""
        float_model, placed = self.catalogue.models[model], placement(engine)
        if scheme == FP32.name:
            return make_plan(float_model, FP32, placed)
        if (model, placed) not in self._plans:
            source = self.catalogue.calibration[model]
            schemes = self.catalogue.schemes
            text = f"calibrating {', '.join(schemes)} of {model} {where(engine)} on pictures of {source.name}"
            steps = job.steps(text, shared=True)
            plans = calibrated_plans(float_model, list(schemes.values()), source, Switches(placed), steps)
            self._plans[model, placed] = dict(zip(schemes, plans, strict=True))
        return self._plans[model, placed][scheme]


def placement(engine: str) -> str:
    """Return where an engine's plans quantize."""
    return Switches().placement if engine == PYTORCH else engine


def where(engine: str) -> str:
    """Return where a plan runs, in words."""
    return "simulated in PyTorch" if engine == PYTORCH else f"on {engine}"


def device_of(model: EfficientViTSam) -> torch.device:
    """Return where a model is."""
    return next(model.mask_decoder.parameters()).device
