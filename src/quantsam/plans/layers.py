"""The quantizable layers of an encoder, discovered from the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from quantsam.errors import PlanError, nearest
from quantsam.models.blocks import (
    Conv2d,
    ConvLayer,
    EfficientViTBlock,
    FusedMBConv,
    LinearAttention,
    LinearAttentionCore,
    MBConv,
    ResBlock,
    Residual,
)
from quantsam.models.encoder import ImageEncoder
from quantsam.schemes.scheme import Address

Role = Literal["weight", "activation"]

CHAINS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ResBlock: (("conv1", "resblock"), ("conv2", "resblock")),
    FusedMBConv: (("spatial_conv", "fmbc_3x3"), ("point_conv", "fmbc_1x1")),
    MBConv: (("inverted_conv", "mbc_expand"), ("depth_conv", "mbc_depthwise"), ("point_conv", "mbc_project")),
}
"""Blocks that are a chain of convolutions: attribute and kind of each."""


@dataclass(frozen=True, slots=True)
class LayerSite:
    """One tensor of a layer.

    Attributes:
        name: Its name in the layer: `weight`, `input`, `conv`, `norm`, `act`, `q`, `depthwise0.input`, ...
        role: Whether it is a weight or an activation.
        path: The module in the encoder: the site itself, or the convolution that owns the weight.
    """

    name: str
    role: Role
    path: str


@dataclass(frozen=True, slots=True)
class Layer:
    """A quantizable layer.

    Attributes:
        address: Where it is.
        kind: What it is.
        sites: Its tensors, in the order of the forward pass.
        weight_shape: Shape of its first weight, (out, in / groups, kernel, kernel); None without weights.
        parameters: Weights and biases of all its convolutions; BatchNorm is not counted.
    """

    address: Address
    kind: str
    sites: tuple[LayerSite, ...]
    weight_shape: tuple[int, ...] | None
    parameters: int


def discover_layers(encoder: ImageEncoder) -> tuple[Layer, ...]:
    """Return every quantizable layer of an encoder, in the order of the forward pass."""
    found: list[Layer] = []
    for index, stage in enumerate(encoder.backbone.stages):
        blocks = list(stage.get_submodule("op_list").named_children())
        for number, (name, block) in enumerate(blocks):
            path = f"backbone.stages.{index}.op_list.{name}"
            found += _numbered(f"stage{index}", number, _layers_of(block, path, "conv"))
    found += _neck_layers(encoder)
    return tuple(found)


def find_layer(layers: tuple[Layer, ...], address: str) -> Layer:
    """Return the layer at an address.

    Raises:
        PlanError: There is none; the nearest addresses are named.
        SchemeError: The text is no address.
    """
    wanted = Address.parse(address)
    for layer in layers:
        if layer.address == wanted:
            return layer
    hint = nearest(str(wanted), [str(layer.address) for layer in layers])
    raise PlanError(f"layer must be one of the model's {len(layers)}, got {str(wanted)!r}: {hint}")


def _neck_layers(encoder: ImageEncoder) -> list[Layer]:
    neck = encoder.neck
    found: list[Layer] = []
    inputs, middle = len(neck.input_ops), len(neck.middle.op_list)
    for index in range(inputs):
        path = f"neck.input_ops.{index}.op_list.0"
        found += _numbered("neck", index, _layers_of(encoder.get_submodule(path), path, "neck_in"))
    for index, block in enumerate(neck.middle.op_list):
        found += _numbered("neck", inputs + index, _layers_of(block, f"neck.middle.op_list.{index}", "conv"))
    path = "neck.output_ops.0.op_list.0"
    found += _numbered("neck", inputs + middle, _layers_of(encoder.get_submodule(path), path, "neck_out"))
    return found


_Parts = Iterator[tuple[str, list[tuple[str, nn.Module, str]]]]  # kind, then (prefix of names, module, path)


def _numbered(stage: str, block: int, parts: _Parts) -> list[Layer]:
    layers = []
    for number, (kind, modules) in enumerate(parts):
        sites: list[LayerSite] = []
        convolutions: list[Conv2d] = []
        for prefix, module, path in modules:
            sites += _sites_of(prefix, module, path)
            convolutions += [m for m in module.modules() if isinstance(m, Conv2d)]
        layers.append(
            Layer(
                address=Address(stage, block, number),
                kind=kind,
                sites=tuple(sites),
                weight_shape=tuple(convolutions[0].weight.shape) if convolutions else None,
                parameters=sum(p.numel() for conv in convolutions for p in conv.parameters()),
            )
        )
    return layers


def _layers_of(block: nn.Module, path: str, kind: str) -> _Parts:
    """Yield the layers of a block; `kind` is the kind of a convolution that stands alone."""
    if isinstance(block, Residual):
        yield from _layers_of(block.main, f"{path}.main", kind)
    elif isinstance(block, ConvLayer):
        yield kind, [("", block, path)]
    elif isinstance(block, EfficientViTBlock):
        yield from _layers_of(block.context_module, f"{path}.context_module", kind)
        yield from _layers_of(block.local_module, f"{path}.local_module", kind)
    elif isinstance(block, LinearAttention):
        branches: list[tuple[str, nn.Module, str]] = []
        for index, branch in enumerate(block.aggreg):
            for number, name in enumerate(("depthwise", "pointwise")):
                place = f"{path}.aggreg.{index}.{number}"
                branches.append((f"{name}{index}.", branch.get_submodule(str(number)), place))
        yield "qkv", [("", block.qkv, f"{path}.qkv"), *branches]
        yield "attention", [("", block.core, f"{path}.core")]
        yield "attention_proj", [("", block.proj, f"{path}.proj")]
    else:
        for attribute, part_kind in CHAINS[type(block)]:
            yield part_kind, [("", block.get_submodule(attribute), f"{path}.{attribute}")]


def _sites_of(prefix: str, module: nn.Module, path: str) -> Iterator[LayerSite]:
    if isinstance(module, LinearAttentionCore):
        for name in module.SITES:
            yield LayerSite(name, "activation", f"{path}.sites.{name}")
        return
    conv_path = path if isinstance(module, Conv2d) else f"{path}.conv"
    yield LayerSite(f"{prefix}input", "activation", f"{conv_path}.input_site")
    yield LayerSite(f"{prefix}weight", "weight", conv_path)
    yield LayerSite(f"{prefix}conv", "activation", f"{conv_path}.conv_site")
    if isinstance(module, ConvLayer):
        for name in ("norm", "act"):
            if getattr(module, name) is not None:
                yield LayerSite(f"{prefix}{name}", "activation", f"{path}.{name}_site")


def count_macs(encoder: ImageEncoder) -> dict[Address, int]:
    """Return the multiply-accumulate operations of each layer for one image.

    The encoder is run on PyTorch's `meta` device: nothing is computed.
    """
    with torch.device("meta"):
        blank = ImageEncoder(encoder.variant).eval()
        image = torch.empty(1, 3, encoder.variant.input_size, encoder.variant.input_size)
    owners: dict[str, Address] = {
        site.path: layer.address for layer in discover_layers(blank) for site in layer.sites if site.role == "weight"
    }
    owners |= {
        site.path.removesuffix(".sites.q"): layer.address
        for layer in discover_layers(blank)
        for site in layer.sites
        if site.name == "q"
    }
    macs: dict[Address, int] = {layer.address: 0 for layer in discover_layers(blank)}

    def count(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, Conv2d):
                macs[owners[name]] += output.numel() * module.weight[0].numel()
            elif isinstance(module, LinearAttentionCore):  # two products of (dim + 1, dim) by H * W a head
                macs[owners[name]] += 2 * output.numel() * (module.dim + 1)

        blank.get_submodule(name).register_forward_hook(hook)

    for name in owners:
        count(name)
    blank(image)
    return macs
