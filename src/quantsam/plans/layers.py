"""The quantizable layers of an encoder, discovered from the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from quantsam.errors import PlanError, nearest
from quantsam.models.blocks import Conv2d, LinearAttentionCore
from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Attention, Chain, Convolution
from quantsam.models.structure import sides_of, structure_of
from quantsam.schemes.scheme import Address

Role = Literal["weight", "activation"]


class SiteName:
    """Reads from a site's name and path which tensor of which convolution it is."""

    __slots__ = ()
    name: str
    path: str

    @property
    def tensor(self) -> str:
        """Its name at its convolution: `weight`, `input`, `conv`, `norm`, `act`; in attention `q`, ..., `out`."""
        return self.name.rpartition(".")[2]

    @property
    def branch(self) -> str:
        """Prefix that distinguishes the layer's convolutions: `depthwise0.`; empty if there is only one."""
        return self.name.removesuffix(self.tensor)

    @property
    def convolution(self) -> str:
        """Path of the convolution to whose weight, input or output the site belongs."""
        return self.path.removesuffix(f".{self.tensor}_site")


@dataclass(frozen=True, slots=True)
class LayerSite(SiteName):
    """One tensor of a layer.

    Attributes:
        name: Its name in the layer: `weight`, `input`, `conv`, `norm`, `act`, `q`, `depthwise0.input`, ...; `shortcut`
            is the input of a residual block that is added to the block's output.
        role: Weight or activation.
        path: Path of the module in the encoder: the site itself, or the convolution that owns the weight.
    """

    name: str
    role: Role
    path: str


def is_depthwise(kind: str, branch: str) -> bool:
    """Return whether a convolution is depthwise, by its layer's kind and its branch."""
    return kind == "mbc_depthwise" or branch.startswith("depthwise")


@dataclass(frozen=True, slots=True)
class Layer:
    """A quantizable layer.

    Attributes:
        address: Address of the layer.
        kind: Kind of the layer.
        sites: Its tensors, in the order of the forward pass.
        weight_shape: Shape of its first weight, (out, in / groups, kernel, kernel); None without weights.
        parameters: Number of weights and biases in all its convolutions; BatchNorm is not counted.
    """

    address: Address
    kind: str
    sites: tuple[LayerSite, ...]
    weight_shape: tuple[int, ...] | None
    parameters: int


def discover_layers(encoder: ImageEncoder, *, shortcuts: bool = False) -> tuple[Layer, ...]:
    """Return every quantizable layer of an encoder, in the order of the forward pass.

    Args:
        encoder: The encoder, on any device, including `meta`.
        shortcuts: Also list the inputs of residual blocks that are added, at the first layer of each block. In float
            they are the same tensors as that layer's input.
    """
    found: list[Layer] = []
    for block in structure_of(encoder).blocks:
        entries = [entry for part in block.parts for entry in _layers_of(part, shortcuts and part.shortcut)]
        for number, (kind, tensors, convolutions) in enumerate(entries):
            modules = [encoder.get_submodule(c.conv) for c in convolutions]
            found.append(
                Layer(
                    address=Address(block.stage, block.number, number),
                    kind=kind,
                    sites=tensors,
                    weight_shape=tuple(modules[0].get_parameter("weight").shape) if modules else None,
                    parameters=sum(p.numel() for module in modules for p in module.parameters()),
                )
            )
    return tuple(found)


def find_layer(layers: tuple[Layer, ...], address: str) -> Layer:
    """Return the layer at an address.

    Raises:
        PlanError: There is no such layer; the message names the nearest addresses.
        SchemeError: The text is not an address.
    """
    wanted = Address.parse(address)
    for layer in layers:
        if layer.address == wanted:
            return layer
    hint = nearest(str(wanted), [str(layer.address) for layer in layers])
    raise PlanError(f"layer must be one of the model's {len(layers)}, got {str(wanted)!r}: {hint}")


_Entry = tuple[str, tuple[LayerSite, ...], tuple[Convolution, ...]]  # kind, sites, convolutions


def _layers_of(part: Chain | Attention, shortcut: bool) -> Iterator[_Entry]:
    sites = [LayerSite("shortcut", "activation", part.shortcut_site)] if shortcut else []
    if isinstance(part, Chain):
        for conv in part.convolutions:
            yield conv.kind, (*sites, *_sites_of("", conv)), (conv,)
            sites = []
        return
    sites += _sites_of("", part.qkv)
    for index, (depthwise, pointwise) in enumerate(part.branches):
        sites += [*_sites_of(f"depthwise{index}.", depthwise), *_sites_of(f"pointwise{index}.", pointwise)]
    yield part.qkv.kind, tuple(sites), part.convolutions[:-1]
    names = LinearAttentionCore.SITES
    yield "attention", tuple(LayerSite(name, "activation", f"{part.core}.sites.{name}") for name in names), ()
    yield part.proj.kind, tuple(_sites_of("", part.proj)), (part.proj,)


def _sites_of(prefix: str, conv: Convolution) -> Iterator[LayerSite]:
    yield LayerSite(f"{prefix}input", "activation", conv.input_site)
    yield LayerSite(f"{prefix}weight", "weight", conv.conv)
    yield LayerSite(f"{prefix}conv", "activation", conv.conv_site)
    if conv.norm is not None:
        yield LayerSite(f"{prefix}norm", "activation", conv.norm_site)
    if conv.act is not None:
        yield LayerSite(f"{prefix}act", "activation", conv.act_site)


def count_macs(encoder: ImageEncoder) -> dict[Address, int]:
    """Return the number of multiply-accumulate operations per layer for one image, without running the encoder."""
    sides = sides_of(encoder)
    parts = (part for block in structure_of(encoder).blocks for part in block.parts)
    attentions = (part for part in parts if isinstance(part, Attention))
    macs: dict[Address, int] = {}
    for layer in discover_layers(encoder):
        if layer.kind == "attention":
            macs[layer.address] = _macs_of_attention(encoder, next(attentions), sides)
            continue
        convolutions = [encoder.get_submodule(site.path) for site in layer.sites if site.role == "weight"]
        entering = [sides[site.path] for site in layer.sites if site.role == "weight"]
        macs[layer.address] = sum(map(_macs_of_convolution, convolutions, entering))
    return macs


def _macs_of_convolution(module: nn.Module, side: int) -> int:
    assert isinstance(module, Conv2d)
    return int((-(-side // module.stride[0])) ** 2 * module.weight.numel())


def _macs_of_attention(encoder: ImageEncoder, part: Attention, sides: dict[str, int]) -> int:
    """Return the operations of two products of (dim + 1, dim) by H * W per head."""
    core, proj = encoder.get_submodule(part.core), encoder.get_submodule(part.proj.conv)
    assert isinstance(core, LinearAttentionCore)
    assert isinstance(proj, Conv2d)
    return int(2 * proj.in_channels * sides[part.core] ** 2 * (core.dim + 1))
