"""The formats that a search chooses from for every layer, all calibrated together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from quantsam.errors import InputError
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.cache import calibrate_once
from quantsam.plans.make import make_plan
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan, PlanSite
from quantsam.plans.prepare import prepare
from quantsam.plans.shared_grids import shared_grids, sharing
from quantsam.plans.transforms import ChooseRanges, Transform
from quantsam.progress import Progress
from quantsam.repair.calibrated import calibrated_plans
from quantsam.repair.repair import AFTER_CALIBRATION, repair_plan
from quantsam.schemes.line import uniform_scheme
from quantsam.schemes.repairs import RepairName, parse_repairs
from quantsam.schemes.scheme import Scheme
from quantsam.schemes.target import FLOAT
from quantsam.schemes.write import scheme_from_layers

OF_ONE_SCHEME: tuple[RepairName, ...] = ("rounding", "bias")
"""Repairs that depend on the rounding of one scheme. A search compares many schemes, so it cannot use them."""

Choice = tuple[int, ...]
"""Number of the chosen format for each layer of a palette."""


@dataclass(frozen=True, eq=False)
class Palette:
    """Formats and layers.

    Attributes:
        formats: Names such as `float`, `int8`, `w4a8`.
        layers: Addresses of the layers that the placement quantizes, in the order of the forward pass.
        kinds: Kind of each layer.
        plans: For each format, the calibrated plan with this format on all layers.
        repairs: Repairs that all plans have.
        shared: Key of the output whose grid an input takes, keyed by the input's key; see `plans.shared_grids`.
    """

    formats: tuple[str, ...]
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    plans: tuple[Plan, ...]
    repairs: tuple[RepairName, ...] = ()
    shared: Mapping[str, str] = field(default_factory=dict)

    def uniform(self, format_number: int) -> Choice:
        """Return the choice of one format for all layers."""
        return (format_number,) * len(self.layers)

    def sites(self, layer: int, format_number: int) -> tuple[PlanSite, ...]:
        """Return the quantized sites of a layer in a format."""
        address = self.layers[layer]
        return tuple(site for site in self.plans[format_number].sites if site.layer == address)

    def scheme(self, choice: Choice, name: str) -> Scheme:
        """Return a choice as a scheme."""
        formats = {address: self.formats[number] for address, number in zip(self.layers, choice, strict=True)}
        scheme = scheme_from_layers(formats, dict(zip(self.layers, self.kinds, strict=True)), name)
        return dataclasses.replace(scheme, repairs=self.repairs) if scheme.rules else scheme

    def plan(self, choice: Choice, name: str = "mixed") -> Plan:
        """Return a choice as a calibrated plan: the plan of its scheme, calibrated on the same images.

        Migrated scales were found with one format on all layers, so they may differ a little from that plan's.
        """
        sites = [site for layer, number in enumerate(choice) for site in self.sites(layer, number)]
        model_plan = max(self.plans, key=lambda plan: len(plan.sites))
        scheme = self.scheme(choice, name)
        needs_images = any(site.role == "activation" for site in sites)
        return dataclasses.replace(
            model_plan,
            scheme=name,
            scheme_digest=scheme.digest,
            sites=sharing(sites, self.shared),
            transforms=_with_ranges_of(sites, model_plan, self, choice),
            calibration=model_plan.calibration if needs_images else None,
        )


def make_palette(
    model: EfficientViTSam,
    formats: Sequence[str],
    images: Iterable[CalibrationImage],
    *,
    placement: str = "thesis",
    repairs: Sequence[str] = (),
    progress: Progress | None = None,
) -> Palette:
    """Calibrate every format on every layer.

    Args:
        model: The float model.
        formats: At least two formats: `float`, or anything that `uniform_scheme` accepts.
        images: Calibration images; without repairs, one pass per bit width of activations.
        placement: Where tensors are quantized.
        repairs: Repairs, see `repair_plan`, but none of `OF_ONE_SCHEME`. Only ranges differ between formats.
        progress: Wraps the iteration over the images.

    Raises:
        InputError: There are fewer than two formats or a format twice, or a repair is unknown or in `OF_ONE_SCHEME`.
        SchemeError: There is no such format.
    """
    names = tuple(name.strip().lower() for name in formats)
    check_choice(names)
    wanted = check_repairs(repairs)
    if wanted:
        plans = _repaired_plans(model, names, images, placement, wanted, progress)
    else:
        plans = calibrated_plans(model, format_schemes(names), images, placement, progress=progress)
    fullest = max(plans, key=lambda plan: len(plan.sites))
    kinds = {site.layer: site.kind for site in fullest.sites}
    shared = {key: output.key for key, output in shared_grids(prepare(model, fullest), fullest).items()}
    return Palette(names, tuple(kinds), tuple(kinds.values()), tuple(plans), wanted, shared)


def check_repairs(repairs: Sequence[str]) -> tuple[RepairName, ...]:
    """Check that a search can use the repairs, and return them in order.

    Raises:
        InputError: A repair is unknown, or depends on one scheme.
    """
    wanted = parse_repairs(repairs) if repairs else ()
    unfit = [name for name in wanted if name in OF_ONE_SCHEME]
    if unfit:
        raise InputError(
            f"a search cannot repair {' and '.join(unfit)}, which belongs to the rounding of one scheme: leave it out, "
            "and repair the scheme that is found"
        )
    return wanted


def _repaired_plans(
    model: EfficientViTSam,
    names: Sequence[str],
    images: Iterable[CalibrationImage],
    placement: str,
    repairs: tuple[RepairName, ...],
    progress: Progress | None,
) -> list[Plan]:
    """Return one plan per format. They share the encoder's transforms, found for one format; ranges are their own."""
    bare = [make_plan(model, scheme, placement) for scheme in format_schemes(names)]
    label = None if progress is None else (lambda _: progress)
    model_plan = bare[names.index("int8") if "int8" in names else next(n for n, p in enumerate(bare) if p.sites)]
    scales = [name for name in repairs if name not in AFTER_CALIBRATION]
    transforms = model_plan.transforms
    if scales:
        transforms = repair_plan(model, model_plan, images, scales, progress=label).transforms
    ranges = [name for name in repairs if name in AFTER_CALIBRATION]
    plans = []
    for plan in (dataclasses.replace(one, transforms=transforms) for one in bare):
        if not plan.sites:
            plans.append(plan)
        elif ranges:
            plans.append(repair_plan(model, plan, images, ranges, progress=label))
        else:
            plans.append(calibrate_once(model, plan, images, progress=progress))
    return plans


def _with_ranges_of(
    sites: Sequence[PlanSite], model_plan: Plan, palette: Palette, choice: Choice
) -> tuple[Transform, ...]:
    """Return the transforms of a mixed plan: those that all plans share, and the ranges of each layer's own plan.

    An input that reads an output in float keeps the range that its own plan chose for that output.
    """
    shared = tuple(t for t in model_plan.transforms if not isinstance(t, ChooseRanges))
    chosen = [
        {k: v for t in p.transforms if isinstance(t, ChooseRanges) for k, v in t.values.items()} for p in palette.plans
    ]
    numbers, there = dict(zip(palette.layers, choice, strict=True)), {site.key for site in sites}
    found = {}
    for site in sites:
        own = chosen[numbers[site.layer]]
        output = palette.shared.get(site.key)
        key = output if output is not None and output not in there else site.key
        if key in own:
            found[site.key] = own[key]
    return (*shared, ChooseRanges(found)) if found else shared


def check_choice(names: Sequence[str]) -> None:
    """Check, before long work, that there is something to choose from.

    Raises:
        InputError: There are fewer than two formats, or a format twice.
        SchemeError: There is no such format.
    """
    format_schemes(names)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"a search needs at least two different formats, got {', '.join(names) or 'none'}: float,int8")


def format_schemes(names: Sequence[str]) -> list[Scheme]:
    """Return, for each name, the scheme with this format, or float, on all layers.

    Raises:
        SchemeError: There is no such format.
    """
    return [Scheme(FLOAT) if name == FLOAT else uniform_scheme(name) for name in names]
