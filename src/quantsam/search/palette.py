"""What a search chooses from: formats for every layer, all calibrated in one go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantsam.errors import InputError
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan, PlanSite
from quantsam.progress import Progress
from quantsam.repair.calibrated import calibrated_plans
from quantsam.schemes.load import FLOAT, uniform_scheme
from quantsam.schemes.scheme import Scheme
from quantsam.schemes.write import scheme_from_layers

Choice = tuple[int, ...]
"""The number of a format for each layer of a palette."""


@dataclass(frozen=True, eq=False)
class Palette:
    """Formats and layers.

    Attributes:
        formats: Names such as `float`, `int8`, `w4a8`.
        layers: Addresses, in the order of the forward pass; those that the placement quantizes at all.
        kinds: Kind of each layer.
        plans: For each format the calibrated plan that has it everywhere.
    """

    formats: tuple[str, ...]
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    plans: tuple[Plan, ...]

    def uniform(self, format_number: int) -> Choice:
        """Return the choice of one format everywhere."""
        return (format_number,) * len(self.layers)

    def sites(self, layer: int, format_number: int) -> tuple[PlanSite, ...]:
        """Return what is quantized of a layer in a format."""
        address = self.layers[layer]
        return tuple(site for site in self.plans[format_number].sites if site.layer == address)

    def scheme(self, choice: Choice, name: str) -> Scheme:
        """Return a choice as a scheme."""
        formats = {address: self.formats[number] for address, number in zip(self.layers, choice, strict=True)}
        return scheme_from_layers(formats, dict(zip(self.layers, self.kinds, strict=True)), name)

    def plan(self, choice: Choice, name: str = "mixed") -> Plan:
        """Return a choice as a calibrated plan, the one that its scheme would resolve and calibrate to."""
        sites = [site for layer, number in enumerate(choice) for site in self.sites(layer, number)]
        model_plan = max(self.plans, key=lambda plan: len(plan.sites))
        scheme = self.scheme(choice, name)
        needs_images = any(site.role == "activation" for site in sites)
        return dataclasses.replace(
            model_plan,
            scheme=name,
            scheme_digest=scheme.digest,
            sites=tuple(sites),
            calibration=model_plan.calibration if needs_images else None,
        )


def make_palette(
    model: EfficientViTSam,
    formats: Sequence[str],
    images: Iterable[CalibrationImage],
    *,
    placement: str = "thesis",
    progress: Progress | None = None,
) -> Palette:
    """Calibrate every format on every layer.

    Args:
        model: In float.
        formats: At least two, the same as `uniform_scheme` takes, or `float`.
        images: To calibrate on; gone through once for each width of activations.
        placement: Where tensors are quantized.
        progress: Wraps the iteration over the images.

    Raises:
        InputError: Fewer than two formats, or one twice.
        SchemeError: There is no such format.
    """
    names = tuple(name.strip().lower() for name in formats)
    check_choice(names)
    plans = calibrated_plans(model, format_schemes(names), images, placement, progress=progress)
    fullest = max(plans, key=lambda plan: len(plan.sites))
    kinds = {site.layer: site.kind for site in fullest.sites}
    return Palette(names, tuple(kinds), tuple(kinds.values()), tuple(plans))


def check_choice(names: Sequence[str]) -> None:
    """Make sure, before long work, that there is something to choose from.

    Raises:
        InputError: Fewer than two formats, or one twice.
        SchemeError: There is no such format.
    """
    format_schemes(names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"a search needs at least two different formats, got {', '.join(names) or 'none'}: float,int8")


def format_schemes(names: Sequence[str]) -> list[Scheme]:
    """Return for each name the scheme that has this format, or float, everywhere.

    Raises:
        SchemeError: There is no such format.
    """
    return [Scheme(FLOAT) if name == FLOAT else uniform_scheme(name) for name in names]
