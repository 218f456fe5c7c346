"""Placements: which tensors an engine (or the thesis) quantizes, and by which conventions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantsam.errors import InputError, one_of
from quantsam.plans.layers import Layer, LayerSite, is_depthwise
from quantsam.plans.transforms import FoldNorms, Transform
from quantsam.quant.params import TensorSpec
from quantsam.quant.quantizers import QUANTIZERS
from quantsam.quant.saturation import PairOrder
from quantsam.schemes.scheme import Target

_ALL = frozenset({"weight", "input", "conv", "norm", "act", "attention"})
_INPUTS = frozenset({"weight", "input"})


@dataclass(frozen=True, slots=True)
class Placement:
    """Where tensors are quantized, with defaults for what a scheme leaves open.

    Attributes:
        name: Name of the placement.
        description: One line for tables.
        places: Sites that exist: `weight`, `input`, `conv`, `norm`, `act` for convolutions, `attention` for all steps
            of linear attention, `shortcut` for the inputs of residual blocks that are added.
        folds_norm: BatchNorm is folded into the convolution before it, before anything is measured.
        observer: Default observer of activations.
        unsigned: Integer activations are unsigned and affine: `int8` in a scheme means `uint8` with a zero point.
        narrow: Symmetric integer grids leave out the lowest code: int8 divides by 127, not by 127.5.
        per_channel_depthwise: The input of a depthwise convolution has a scale per channel.
        rounds_shifted: The zero point is added before rounding, so ties go to even codes. Otherwise ties go to even
            multiples of the scale.
        scales_in_rounding: The engine can quantize with a scale per channel and dequantize with a scale per tensor, or
            the reverse, at no cost. A repair's scales then become part of the rounding. Other engines multiply; ONNX
            Runtime can also do it, several times slower (`benchmarks/repair.py`).
        rounds_once: A rounded value that enters the next layer unchanged is not rounded again: the output's site and
            the sites of the inputs that read it share one grid.
        integer_bias: If input and weight are quantized, the bias is an int32 of scale `s_x * s_w`.
        pairs: How the engine's x86 kernels without VNNI pair products, which they add in saturating 16-bit sums; None
            if it has no such kernels.
        saturation_free: Weight scales are so large that no such pair saturates, see `quant.saturation`. The kernels
            are then exact on any processor.
    """

    name: str
    description: str
    places: frozenset[str] = _ALL
    folds_norm: bool = False
    observer: str = "ema"
    unsigned: bool = False
    narrow: bool = False
    per_channel_depthwise: bool = False
    scales_in_rounding: bool = False
    rounds_once: bool = False
    integer_bias: bool = False
    rounds_shifted: bool = False
    pairs: PairOrder | None = None
    saturation_free: bool = False

    @property
    def engine(self) -> str:
        """The engine of this placement: its name without changes."""
        return self.name.split("+")[0]

    def sites(self, layer: Layer) -> tuple[LayerSite, ...]:
        """Return the sites of a layer, in the order of the forward pass."""
        return tuple(site for site in layer.sites if _place(layer, site) in self.places)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """Transforms that the placement applies to the float encoder first."""
        return (FoldNorms(),) if self.folds_norm else ()

    def complete(self, target: Target, layer: Layer, site: LayerSite) -> TensorSpec:
        """Fill in what a scheme leaves open."""
        fmt, is_weight = target.fmt, site.role == "weight"
        observer = target.observer or ("minmax" if is_weight else self.observer)
        is_integer = QUANTIZERS[target.quantizer].is_integer
        name, symmetric = fmt.name, fmt.signed if target.symmetric is None else target.symmetric
        if self.unsigned and is_integer and not is_weight and fmt.signed:
            name, symmetric = f"u{name}", bool(target.symmetric)
        per_channel = target.per_channel
        if per_channel is None:
            per_channel = (
                is_weight or observer == "ptf" or (self.per_channel_depthwise and _feeds_depthwise(layer, site))
            )
        narrow = self.narrow and symmetric and is_integer and not name.startswith("u")
        return TensorSpec(name, observer, symmetric, per_channel, target.quantizer, narrow)


def _place(layer: Layer, site: LayerSite) -> str:
    return "attention" if layer.kind == "attention" else site.tensor


def _feeds_depthwise(layer: Layer, site: LayerSite) -> bool:
    return site.tensor == "input" and is_depthwise(layer.kind, site.branch)


PLACEMENTS: dict[str, Placement] = {
    placement.name: placement
    for placement in (
        Placement(
            name="thesis",
            description="BatchNorm not folded; input, weight, convolution, norm and activation quantized one by one; "
            "every step of linear attention; additions, up-sampling and the last LayerNorm in float",
        ),
        Placement(
            name="onnxruntime",
            description="BatchNorm folded; input, weight and output of every convolution, affine uint8 activations, "
            "int32 bias: what QLinearConv computes; attention, GELU, additions and up-sampling in float",
            places=_INPUTS | {"conv"},
            folds_norm=True,
            observer="minmax",
            unsigned=True,
            narrow=True,
            rounds_once=True,
            integer_bias=True,
            pairs="running",
            saturation_free=True,
        ),
        Placement(
            name="openvino",
            description="BatchNorm folded; input and weight of every convolution, affine uint8 activations, one scale "
            "a channel before depthwise convolutions; attention, GELU, additions and up-sampling in float",
            places=_INPUTS,
            folds_norm=True,
            observer="minmax",
            unsigned=True,
            narrow=True,
            per_channel_depthwise=True,
            scales_in_rounding=True,
            rounds_shifted=True,
            pairs="padded",
            saturation_free=True,
        ),
        Placement(
            name="tensorrt",
            description="BatchNorm folded; input and weight of every convolution, symmetric int8; attention, "
            "LayerNorm, GELU, additions and up-sampling in float",
            places=_INPUTS,
            folds_norm=True,
            observer="minmax",
            narrow=True,
        ),
    )
}

CHANGES: dict[str, Mapping[str, Any]] = {
    "fold": {"folds_norm": True},
    "additions": {"add": ("shortcut",)},
    "inputs": {"drop": ("conv", "norm", "act")},
    "float-attention": {"drop": ("attention",)},
    "minmax": {"observer": "minmax"},
    "narrow": {"narrow": True},
    "affine": {"unsigned": True},
    "per-channel-depthwise": {"per_channel_depthwise": True},
    "integer-bias": {"integer_bias": True},
    "saturation-free": {"saturation_free": True},
    "vnni": {"saturation_free": False},
}
"""Changes to a placement in names such as `thesis+fold+minmax`, to measure what each choice is worth.

`vnni` makes a plan only for processors with VNNI: `openvino+vnni`. `additions` rounds both terms of residual
additions, so that an engine may add integers: `onnxruntime+additions`."""

RUNNABLE = frozenset({"additions", "vnni"})
"""Changes under which an engine can still run the plan."""


def get_placement(name: str) -> Placement:
    """Return a placement by name, with changes after plus signs: `openvino`, `thesis+fold`.

    Raises:
        InputError: There is no such placement or change.
    """
    base, *changes = name.split("+")
    if base not in PLACEMENTS:
        raise InputError(one_of("placement", name, PLACEMENTS, like=base))
    placement = dataclasses.replace(PLACEMENTS[base], name=name)
    for change in changes:
        if change not in CHANGES:
            raise InputError(one_of(f"placement {name!r}: what follows '+'", change, CHANGES))
        fields = dict(CHANGES[change])
        if "drop" in fields:
            fields["places"] = placement.places - set(fields.pop("drop"))
        if "add" in fields:
            fields["places"] = placement.places | set(fields.pop("add"))
        placement = dataclasses.replace(placement, **fields)
    return placement
