"""Each model under each scheme on each engine, made once, on the first request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from quantsam.app.catalogue import FP32, Catalogue, where
from quantsam.app.jobs import Job
from quantsam.app.limits import Limits
from quantsam.app.lru import Lru
from quantsam.evaluation.quantized import quantized_model
from quantsam.evaluation.record_fields import sizes
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.make import make_plan
from quantsam.plans.plan import Plan
from quantsam.prediction.transforms import preprocess
from quantsam.repair.calibrated import calibrated_plans
from quantsam.runtime.engines import placement_of


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedModel:
    """A model under a scheme on an engine; FP32 is the scheme that quantizes nothing.

    Attributes:
        model: Model with the encoder that runs the scheme.
        size_bytes: Size of the encoder's weights under the scheme.
    """

    model: EfficientViTSam
    size_bytes: int


class QuantizedModels:
    """Makes quantized models and keeps the most recently used. Only one thread may use it."""

    def __init__(self, catalogue: Catalogue, limits: Limits) -> None:
        self.catalogue = catalogue
        self._plans: dict[tuple[str, str], dict[str, Plan]] = {}
        self._made: Lru[tuple[str, str, str], QuantizedModel] = Lru(limits.encoders)

    def get(self, model: str, scheme: str, engine: str, job: Job) -> QuantizedModel:
        """Return a quantized model. The job's status says what takes time.

        Raises:
            QuantsamError: The scheme does not fit the model or the engine, or calibration gives no ranges.
        """
        key = (model, scheme, engine)
        made = self._made.get(key)
        if made is None:
            made = self._make(model, scheme, engine, job)
            self._made.put(key, made, made.size_bytes)
        return made

    def _make(self, model: str, scheme: str, engine: str, job: Job) -> QuantizedModel:
        float_model = self.catalogue.models[model]
        plan = self._plan(model, scheme, engine, job)
        job.status(f"preparing {scheme} of {model} {where(engine)}")
        quantized = quantized_model(float_model, plan, engine)
        # The first run compiles and fills caches, so its time is not the time of an image.
        side = float_model.variant.input_size
        with torch.inference_mode():
            quantized.image_encoder(preprocess(np.zeros((side, side, 3), np.uint8), side).to(float_model.device))
        size_bytes = sizes(quantized)["size_bytes"]
        assert isinstance(size_bytes, int)
        return QuantizedModel(quantized, size_bytes)

    def _plan(self, model: str, scheme: str, engine: str, job: Job) -> Plan:
        """Return a calibrated plan. The first plan of a model and placement calibrates all schemes in one pass."""
        float_model, placed = self.catalogue.models[model], placement_of(engine)
        if scheme == FP32.name:
            return make_plan(float_model, FP32, placed)
        if (model, placed) not in self._plans:
            source = self.catalogue.calibration[model]
            schemes = self.catalogue.schemes
            text = f"calibrating {', '.join(schemes)} of {model} {where(engine)} on images of {source.name}"
            steps = job.steps(text, shared=True)
            plans = calibrated_plans(float_model, list(schemes.values()), source, placed, progress=steps)
            self._plans[model, placed] = dict(zip(schemes, plans, strict=True))
        return self._plans[model, placed][scheme]
