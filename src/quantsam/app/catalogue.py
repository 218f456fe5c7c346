"""The models, schemes and engines that a user can choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantsam.data.open import ImageSource
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.make import make_plan
from quantsam.runtime.engines import PYTORCH, placement_of
from quantsam.schemes.scheme import FLOAT_NAME, Scheme

FP32 = Scheme(FLOAT_NAME, (), "The float model.")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a user can choose.

    Attributes:
        models: Float models by name.
        schemes: Schemes by name, without FP32, which is always available.
        engines: `pytorch`, which simulates, or names of engines.
        calibration: For each model, the calibration images for its schemes.
    """

    models: Mapping[str, EfficientViTSam]
    schemes: Mapping[str, Scheme]
    engines: tuple[str, ...]
    calibration: Mapping[str, ImageSource]

    def check(self) -> None:
        """Check that every scheme fits every model.

        Raises:
            SchemeError: A scheme selects layers that a model does not have.
        """
        for model in self.models.values():
            for scheme in self.schemes.values():
                make_plan(model, scheme, placement_of(self.engines[0]))


def where(engine: str) -> str:
    """Return where a plan runs, in words."""
    return "simulated in PyTorch" if engine == PYTORCH else f"on {engine}"
