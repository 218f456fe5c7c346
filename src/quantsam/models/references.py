"""Typed references to the parts of an encoder: convolutions with what follows each, attention, blocks.

A reference holds module paths. They are the same in every copy of an encoder: float, folded, simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

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

_CHAINS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ResBlock: (("conv1", "resblock"), ("conv2", "resblock")),
    FusedMBConv: (("spatial_conv", "fmbc_3x3"), ("point_conv", "fmbc_1x1")),
    MBConv: (("inverted_conv", "mbc_expand"), ("depth_conv", "mbc_depthwise"), ("point_conv", "mbc_project")),
}
"""Blocks that are a chain of convolutions: attribute and kind of each convolution."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution, and what follows it before another reads its output.

    Attributes:
        kind: `resblock`, `fmbc_3x3`, `mbc_expand`, `conv`, `qkv`, `neck_in`, ...
        path: Path of its `ConvLayer`, or of the `Conv2d` itself if it stands alone.
        conv: Path of its `Conv2d`.
        norm: Path of its BatchNorm; None if it has none, or if it was folded.
        act: Path of its activation; None if it has none.
    """

    kind: str
    path: str
    conv: str
    norm: str | None = None
    act: str | None = None

    @property
    def input_site(self) -> str:
        """The site of its input."""
        return f"{self.conv}.input_site"

    @property
    def conv_site(self) -> str:
        """The site of its output, with the bias added."""
        return f"{self.conv}.conv_site"

    @property
    def norm_site(self) -> str:
        """The site behind its BatchNorm, if it has one."""
        return f"{self.path}.norm_site"

    @property
    def act_site(self) -> str:
        """The site behind its activation, if it has one."""
        return f"{self.path}.act_site"


class _MayAddItsInput:
    """A part of a block. Some add their input to their output, and may round it first."""

    __slots__ = ()
    path: str

    @property
    def shortcut_site(self) -> str:
        """The site of the input that is added to the part's output."""
        return f"{self.path}.shortcut_site"


@dataclass(frozen=True, slots=True)
class Chain(_MayAddItsInput):
    """Consecutive convolutions; a shortcut adds their input to their output.

    Attributes:
        path: Path of the module; with a shortcut, of the `Residual`.
        convolutions: The convolutions, in order.
        shortcut: Whether the input is added.
    """

    path: str
    convolutions: tuple[Convolution, ...]
    shortcut: bool = False


@dataclass(frozen=True, slots=True)
class Attention(_MayAddItsInput):
    """Multi-scale linear attention; a shortcut adds its input to its output.

    Attributes:
        path: Path of the module; with a shortcut, of the `Residual`.
        main: Path of the `LinearAttention`.
        qkv: The convolution that computes queries, keys and values.
        branches: The depthwise and the grouped 1x1 convolution of each further scale; they read the output of `qkv`.
        core: Path of the `LinearAttentionCore`, which has no weights.
        proj: The convolution that reads the attention's output.
        shortcut: Whether the input is added.
    """

    path: str
    main: str
    qkv: Convolution
    branches: tuple[tuple[Convolution, Convolution], ...]
    core: str
    proj: Convolution
    shortcut: bool = True

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """All its convolutions, in the order of the forward pass."""
        return (self.qkv, *(conv for branch in self.branches for conv in branch), self.proj)


@dataclass(frozen=True, slots=True)
class Block:
    """A numbered block of a stage or of the neck.

    Attributes:
        stage: `stage3`, or `neck`.
        number: Number of the block within the stage.
        parts: Parts of the block, in order; an EfficientViT block has two.
    """

    stage: str
    number: int
    parts: tuple[Chain | Attention, ...]


def parts_of(module: nn.Module, path: str, kind: str) -> Iterator[Chain | Attention]:
    """Yield the parts of a block; `kind` is the kind of a convolution that stands alone."""
    if isinstance(module, EfficientViTBlock):
        yield from parts_of(module.context_module, f"{path}.context_module", kind)
        yield from parts_of(module.local_module, f"{path}.local_module", kind)
    elif isinstance(module, Residual):
        yield _part(module.main, path, f"{path}.main", kind, module.shortcut)
    else:
        yield _part(module, path, path, kind, False)


def _part(main: nn.Module, path: str, main_path: str, kind: str, shortcut: bool) -> Chain | Attention:
    if isinstance(main, LinearAttention):
        return _attention(main, path, main_path, shortcut)
    if isinstance(main, ConvLayer):
        return Chain(path, (_convolution(main, main_path, kind),), shortcut)
    named = [(main.get_submodule(name), f"{main_path}.{name}", kind) for name, kind in _CHAINS[type(main)]]
    return Chain(path, tuple(_convolution(*entry) for entry in named), shortcut)


def _attention(main: LinearAttention, path: str, main_path: str, shortcut: bool) -> Attention:
    assert isinstance(main.core, LinearAttentionCore)
    branches = []
    for index, branch in enumerate(main.aggreg):
        place = f"{main_path}.aggreg.{index}"
        depthwise, pointwise = (_convolution(branch.get_submodule(n), f"{place}.{n}", "qkv") for n in ("0", "1"))
        branches.append((depthwise, pointwise))
    return Attention(
        path,
        main_path,
        _convolution(main.qkv, f"{main_path}.qkv", "qkv"),
        tuple(branches),
        f"{main_path}.core",
        _convolution(main.proj, f"{main_path}.proj", "attention_proj"),
        shortcut,
    )


def _convolution(module: nn.Module, path: str, kind: str) -> Convolution:
    if isinstance(module, Conv2d):
        return Convolution(kind, path, path)
    assert isinstance(module, ConvLayer)
    norm, act = (None if getattr(module, name) is None else f"{path}.{name}" for name in ("norm", "act"))
    return Convolution(kind, path, f"{path}.conv", norm, act)
