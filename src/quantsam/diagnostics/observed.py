"""Observe how all weights and activations are distributed, and how much of them a plan's grids cover."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantsam.diagnostics.site_meter import SiteMeter
from quantsam.errors import CalibrationError, InputError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import with_modules
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import Layer, LayerSite, discover_layers
from quantsam.plans.observation import CalibrationImage, encoder_input
from quantsam.plans.placements import get_placement
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import prepare
from quantsam.plans.transforms import transformed
from quantsam.progress import Progress
from quantsam.results.distribution_record import SiteDistribution


@dataclass(slots=True, eq=False)
class Distributions:
    """The distributions observed over a stream of images.

    Attributes:
        meters: One meter per site, in the order of the forward pass.
        images: Number of images seen.
    """

    meters: tuple[SiteMeter, ...]
    images: int = 0

    def state_bytes(self) -> int:
        """Return the memory in use, in bytes; it is the same for one image and for thousands."""
        return sum(meter.state_bytes() for meter in self.meters)

    def summaries(self) -> list[SiteDistribution]:
        """Return each site's entry in a record."""
        return [meter.summary() for meter in self.meters]


class _MeterSite(nn.Module):
    """A site that passes its values to a meter."""

    def __init__(self, meter: SiteMeter) -> None:
        super().__init__()
        self.meter = meter

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` unchanged."""
        self.meter.observe(x)
        return x


def observe_distributions(
    model: EfficientViTSam, plan: Plan, images: Iterable[CalibrationImage], *, progress: Progress | None = None
) -> Distributions:
    """Observe the values of every site per channel: each weight, and each activation over all images.

    The encoder runs in float, as for calibration; sites only observe. Sites that the plan does not quantize are
    observed too. The histograms take 198 MiB for L0 and 563 MiB for XL1.

    Args:
        model: The float model.
        plan: A calibrated plan for this model.
        images: Images, as for calibration; memory does not grow with their number.
        progress: Wraps the iteration over the images, and receives their number if known.

    Returns:
        Every channel's histogram; `summaries()` has one entry per site, in the order of the forward pass.

    Raises:
        PlanError: The plan is not calibrated, or was made for another model.
        InputError: An image is not a valid image.
        CalibrationError: There are no images, or a value is not finite.
    """
    if isinstance(images, (str, bytes, os.PathLike)):
        raise InputError(
            f"images must be a sequence of images, got the single {os.fspath(images)!r}: "
            "give a list of files, or quantsam.open_images(...)"
        )
    plan.check_calibrated()
    encoder = prepare(model, plan)
    device = next(encoder.parameters()).device
    meters = _meters(encoder, plan, device)
    seen = Distributions(tuple(meters.values()))
    found = {f"{layer.address}/{site.name}": site for layer, site in _sites(encoder)}
    for key, site in found.items():  # first, because errors in weights show at once
        if site.role == "weight":
            meters[key].observe(encoder.get_submodule(site.path).get_parameter("weight").unsqueeze(0))
    watched = with_modules(
        encoder, {site.path: _MeterSite(meters[key]) for key, site in found.items() if site.role == "activation"}
    ).eval()
    wrapped = progress(images, len(images) if isinstance(images, Sized) else None) if progress else images
    with torch.inference_mode():
        for image in wrapped:
            x = encoder_input(image, encoder.variant.input_size)
            watched(x.to(device))
            seen.images += len(x)
    if not seen.images:
        raise CalibrationError("distributions need at least one image, got none: name a folder or 'scenes:16'")
    return seen


def site_names(model: EfficientViTSam, placement: str) -> list[str]:
    """Return the names of all measured sites, in the order of the forward pass.

    Raises:
        InputError: The placement is unknown.
    """
    encoder = transformed(model.float_encoder, get_placement(placement).transforms)
    return [f"{layer.address}/{site.name}" for layer, site in _sites(encoder)]


def activation_names(model: EfficientViTSam, placement: str) -> list[str]:
    """Return the names of the measured sites that are activations; see `site_names`."""
    encoder = transformed(model.float_encoder, get_placement(placement).transforms)
    return [f"{layer.address}/{site.name}" for layer, site in _sites(encoder) if site.role == "activation"]


def save_histograms(seen: Distributions, path: str | os.PathLike[str]) -> None:
    """Write every channel's histogram to a NumPy `.npz` file.

    Each site has arrays under its name: `stage3:4:2/input.counts` (C, bins) int64, `.exponents` (C,) int64, and the
    exact extremes `.lows` and `.highs` (C,) float32. The bins of a channel with exponent k have equal width and cover
    [-2^k, 2^k).

    The file is written in place; for an atomic write, pass a path from `files.atomic_write`.
    """
    arrays: dict[str, Any] = {}
    for meter in seen.meters:
        histogram = meter.histogram
        assert histogram is not None, "values were seen"
        assert histogram.exponents is not None, "values were seen"
        low, high = histogram.range()
        parts = {"counts": meter.counts, "exponents": histogram.exponents, "lows": low, "highs": high}
        arrays |= {f"{meter.site}.{name}": part.cpu().numpy() for name, part in parts.items()}
    with Path(path).open("wb") as file:  # given a name, NumPy would add its own suffix
        np.savez_compressed(file, **arrays)  # mostly zeros: compresses to a twentieth


def _sites(encoder: ImageEncoder) -> list[tuple[Layer, LayerSite]]:
    return [(layer, site) for layer in discover_layers(encoder) for site in layer.sites]


def _meters(encoder: ImageEncoder, plan: Plan, device: torch.device) -> dict[str, SiteMeter]:
    grids = {site.key: (site.spec, site.params) for site in plan.sites}
    meters = {}
    for layer, site in _sites(encoder):
        key = f"{layer.address}/{site.name}"
        spec, params = grids.get(key, (None, None))
        meters[key] = SiteMeter(key, layer.kind, site.role, spec, None if params is None else params.to(device))
    return meters
