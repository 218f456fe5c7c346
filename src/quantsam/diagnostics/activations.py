"""Compare one image's activations at an encoder's sites: float and quantized simulation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantsam.errors import InputError
from quantsam.models.encoder import ImageEncoder
from quantsam.models.graph import with_modules
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.layers import discover_layers
from quantsam.plans.observation import CalibrationImage, encoder_input
from quantsam.plans.plan import Plan
from quantsam.plans.prepare import prepare
from quantsam.simulation.simulator import simulate


@dataclass(frozen=True, slots=True, eq=False)
class SiteActivations:
    """The activations of one image at one site.

    Attributes:
        site: Name of the site, such as `stage3:4:2/input`.
        kind: Kind of the layer.
        format: The plan's format for the site; None in float.
        fp32: (C, ...) float32, from the float encoder; scaled by repairs in the same way as the quantized activations.
        quantized: The same from the simulation: rounded here and at all earlier sites.
    """

    site: str
    kind: str
    format: str | None
    fp32: Tensor
    quantized: Tensor

    @property
    def channel_sqnr_db(self) -> list[float]:
        """SQNR per channel: power in float over power of the difference, in dB; infinite without a difference."""
        power, noise = (_power(x) for x in (self.fp32, self.quantized - self.fp32))
        return [_decibels(p, n) for p, n in zip(power, noise, strict=True)]

    @property
    def sqnr_db(self) -> float:
        """SQNR over all channels, in dB."""
        power, noise = (sum(_power(x)) for x in (self.fp32, self.quantized - self.fp32))
        return _decibels(power, noise)

    @property
    def worst_channels(self) -> list[int]:
        """Channels by the power of the quantization error, largest first."""
        noise = _power(self.quantized - self.fp32)
        return sorted(range(len(noise)), key=lambda channel: -noise[channel])


def compare_activations(
    model: EfficientViTSam, plan: Plan, image: CalibrationImage, wanted: Callable[[str], bool] = lambda site: True
) -> list[SiteActivations]:
    """Return one image's activations at sites, in float and under a plan.

    Args:
        model: The float model.
        plan: A calibrated plan for this model.
        image: An image, as for calibration.
        wanted: Takes a site's name and returns whether to keep it; all sites take hundreds of MiB in large models.

    Returns:
        One entry per site, in the order of the forward pass; empty if no site is wanted.

    Raises:
        PlanError: The plan is not calibrated, or was made for another model.
        InputError: The image is not a valid image.
        ImageError: A file cannot be read.
    """
    plan.check_calibrated()
    prepared = prepare(model, plan)
    x = encoder_input(image, model.variant.input_size)
    if len(x) != 1:
        raise InputError(f"activations are of one image, got a batch of {len(x)}: give one of them")
    formats = {site.key: site.spec.format for site in plan.sites}
    sites = {
        f"{layer.address}/{site.name}": (site.path, layer.kind)
        for layer in discover_layers(prepared)
        for site in layer.sites
        if site.role == "activation" and wanted(f"{layer.address}/{site.name}")
    }
    paths = {key: path for key, (path, _) in sites.items()}
    device = next(prepared.parameters()).device
    fp32 = _seen(with_modules(prepared, {}).eval(), paths, x.to(device))
    quantized = _seen(simulate(model, plan, fused=False).encoder, paths, x.to(device))
    return [
        SiteActivations(key, kind, formats.get(key), fp32[key], quantized[key])
        for key, (_, kind) in sites.items()
        if key in fp32
    ]


def worst_sites(found: Sequence[SiteActivations], most: int) -> list[SiteActivations]:
    """Return the sites that quantization changes most, the lowest SQNR first.

    One layer's output is another layer's input. If several sites have the same values, in any shape, the last one is
    taken.

    Args:
        found: Activations in the order of the forward pass.
        most: Largest number of sites.
    """
    kept: list[int] = []
    sqnr = [site.sqnr_db for site in found]
    for number in sorted(range(len(found)), key=lambda number: sqnr[number]):
        twin = next((place for place, other in enumerate(kept) if _same(found[number], found[other])), None)
        if twin is not None:
            kept[twin] = max(number, kept[twin])
        elif len(kept) < most:
            kept.append(number)
    return [found[number] for number in kept]


def save_activations(found: Sequence[SiteActivations], path: str | os.PathLike[str]) -> None:
    """Write activations to a NumPy `.npz` file: `SITE.fp32` and `SITE.quantized` for each site, (C, ...) float32.

    The file is written in place; for an atomic write, pass a path from `files.atomic_write`.
    """
    arrays: dict[str, Any] = {}
    for site in found:
        arrays |= {f"{site.site}.fp32": site.fp32.numpy(), f"{site.site}.quantized": site.quantized.numpy()}
    with Path(path).open("wb") as file:  # given a name, NumPy would add its own suffix
        np.savez_compressed(file, **arrays)


def _seen(encoder: ImageEncoder, paths: Mapping[str, str], x: Tensor) -> dict[str, Tensor]:
    """Run an encoder and return each site's output, without the batch dimension."""
    seen: dict[str, Tensor] = {}

    def keep(key: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen[key] = output[0].float().cpu().clone()

        return hook

    hooks = [encoder.get_submodule(path).register_forward_hook(keep(key)) for key, path in paths.items()]
    try:
        with torch.inference_mode():
            encoder(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _same(one: SiteActivations, other: SiteActivations) -> bool:
    pairs = ((one.fp32, other.fp32), (one.quantized, other.quantized))
    return all(torch.equal(x.flatten(), y.flatten()) for x, y in pairs)


def _power(x: Tensor) -> list[float]:
    """Return the sum of squares of each channel of (C, ...)."""
    found: list[float] = x.double().reshape(len(x), -1).square().sum(1).tolist()
    return found


def _decibels(power: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return -math.inf if power == 0 else 10 * math.log10(power / noise)
