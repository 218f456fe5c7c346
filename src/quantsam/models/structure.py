"""How an encoder is built, as typed references: blocks, convolutions with what follows each, residual streams.

All code that walks an encoder uses these references: quantizable layers, the ONNX writer, the steps of a shared
simulation, look-ups, outlier channels. A reference holds module paths. They are the same in every copy of an encoder:
float, folded, simulated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
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
from quantsam.models.encoder import ImageEncoder, UpSample

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


@dataclass(frozen=True, slots=True)
class NeckInput:
    """How the output of a stage enters the neck.

    Attributes:
        stage: Number of the stage.
        block: Block of the 1x1 convolution.
        up_sample: Path of the `UpSample` behind it.
    """

    stage: int
    block: Block
    up_sample: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A residual stream: one tensor that blocks add to and other blocks read.

    Attributes:
        name: `stage1`, ..., or `neck`.
        writers: Convolutions whose outputs, behind BatchNorm, add up to the stream.
        readers: Convolutions that read the stream.
    """

    name: str
    writers: tuple[Convolution, ...]
    readers: tuple[Convolution, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """Channels of a writer's output, or of a reader's input.

    Attributes:
        convolution: The writer or reader.
        channels: Numbers of the channels, in the order of the link's channels; None for all.
    """

    convolution: Convolution
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Channels between linear operations: if all writers apply a scale, all readers can undo it.

    Attributes:
        name: The stream's name for a residual stream; within attention `stage4:1/values`, `stage4:1/branch0`, ...
        writers: Ports whose outputs, behind BatchNorm, are added up.
        readers: Ports that read the sum.
    """

    name: str
    writers: tuple[Port, ...]
    readers: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Structure:
    """How an encoder is built.

    Attributes:
        stages: The blocks of each stage of the backbone.
        neck_inputs: Inputs of the neck, in the neck's order.
        neck_middle: Blocks that refine the sum of the neck's inputs.
        neck_output: Block of the last convolution.
    """

    stages: tuple[tuple[Block, ...], ...]
    neck_inputs: tuple[NeckInput, ...]
    neck_middle: tuple[Block, ...]
    neck_output: Block

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, in the order of the forward pass."""
        for stage in self.stages:
            yield from stage
        for entry in self.neck_inputs:
            yield entry.block
        yield from self.neck_middle
        yield self.neck_output

    @property
    def convolutions(self) -> Iterator[Convolution]:
        """All convolutions, in the order of the forward pass."""
        for block in self.blocks:
            for part in block.parts:
                yield from part.convolutions

    @property
    def following(self) -> dict[str, tuple[Chain | Attention, ...]]:
        """Parts that read a part's output directly, keyed by the part's path; none if it is up-sampled first."""
        backbone = [part for blocks in self.stages for block in blocks for part in block.parts]
        neck = [part for block in (*self.neck_middle, self.neck_output) for part in block.parts]
        found: dict[str, tuple[Chain | Attention, ...]] = {}
        found |= {p.path: (q,) for parts in (backbone, neck) for p, q in itertools.pairwise(parts)}
        for entry in self.neck_inputs:
            last = self.stages[entry.stage][-1].parts[-1].path
            found[last] = (*found.get(last, ()), entry.block.parts[0])
        return found

    @property
    def streams(self) -> Iterator[Stream]:
        """The residual streams of stages 1 to the last and of the neck."""
        for index, blocks in enumerate(self.stages[1:], start=1):
            parts = [part for block in blocks for part in block.parts]
            readers = [_first(part) for part in parts[1:]]  # the first reads the stage before
            if index + 1 < len(self.stages):
                readers.append(_first(self.stages[index + 1][0].parts[0]))
            readers += [_first(entry.block.parts[0]) for entry in self.neck_inputs if entry.stage == index]
            yield Stream(f"stage{index}", tuple(part.convolutions[-1] for part in parts), tuple(readers))
        inputs = [_first(entry.block.parts[0]) for entry in self.neck_inputs]
        parts = [part for block in self.neck_middle for part in block.parts]
        writers = (*inputs, *(part.convolutions[-1] for part in parts))
        yield Stream("neck", writers, (*map(_first, parts), _first(self.neck_output.parts[0])))

    def links(self, encoder: ImageEncoder) -> Iterator[Link]:
        """Yield all links between linear operations: the residual streams, then the links within attention.

        The attention's output is linear in its values, channel by channel. Its depthwise and grouped convolutions have
        no activation between them.

        Args:
            encoder: The described encoder, or a copy of it.
        """
        for stream in self.streams:
            yield Link(stream.name, tuple(map(Port, stream.writers)), tuple(map(Port, stream.readers)))
        for block in self.blocks:
            for part in block.parts:
                if isinstance(part, Attention):
                    core = encoder.get_submodule(part.core)
                    assert isinstance(core, LinearAttentionCore)
                    yield from _links_of(part, f"{block.stage}:{block.number}", core, encoder)


def _links_of(part: Attention, place: str, core: LinearAttentionCore, encoder: ImageEncoder) -> Iterator[Link]:
    proj = encoder.get_submodule(part.proj.conv)
    assert isinstance(proj, Conv2d)
    scales = 1 + len(part.branches)
    width = proj.in_channels // scales  # values of one scale
    values = tuple(3 * core.dim * (i // core.dim) + 2 * core.dim + i % core.dim for i in range(width))

    def reads(scale: int) -> Port:
        return Port(part.proj, tuple(range(scale * width, (scale + 1) * width)))

    depthwise = tuple(Port(first, values) for first, _ in part.branches)
    yield Link(f"{place}/values", (Port(part.qkv, values),), (reads(0), *depthwise))
    for index, (first, second) in enumerate(part.branches):
        yield Link(f"{place}/branch{index}", (Port(first),), (Port(second),))
        yield Link(f"{place}/branch{index}-values", (Port(second, values),), (reads(1 + index),))


def conv_of(encoder: ImageEncoder, convolution: Convolution) -> Conv2d:
    """Return a convolution's module in an encoder, or in any copy of it."""
    conv = encoder.get_submodule(convolution.conv)
    assert isinstance(conv, Conv2d)
    return conv


def structure_of(encoder: ImageEncoder) -> Structure:
    """Describe an encoder, or any copy of one; it may be on `meta`."""
    stages = tuple(
        tuple(
            Block(f"stage{index}", number, tuple(_parts(module, f"backbone.stages.{index}.op_list.{name}", "conv")))
            for number, (name, module) in enumerate(stage.get_submodule("op_list").named_children())
        )
        for index, stage in enumerate(encoder.backbone.stages)
    )
    neck = encoder.neck
    inputs = []
    for index, stage in enumerate(neck.stages):
        path = f"neck.input_ops.{index}.op_list"
        parts = tuple(_parts(encoder.get_submodule(f"{path}.0"), f"{path}.0", "neck_in"))
        assert isinstance(encoder.get_submodule(f"{path}.1"), UpSample)
        inputs.append(NeckInput(stage, Block("neck", index, parts), f"{path}.1"))
    middle = tuple(
        Block("neck", len(inputs) + index, tuple(_parts(module, f"neck.middle.op_list.{index}", "conv")))
        for index, module in enumerate(neck.middle.op_list)
    )
    path = "neck.output_ops.0.op_list.0"
    output = tuple(_parts(encoder.get_submodule(path), path, "neck_out"))
    return Structure(stages, tuple(inputs), middle, Block("neck", len(inputs) + len(middle), output))


def sides_of(encoder: ImageEncoder) -> dict[str, int]:
    """Return the side of the square input of each convolution, attention core and up-sampling.

    Only strides decide it: nothing is computed, and the encoder may be on `meta`.

    Returns:
        Sides in pixels, keyed by path, for the encoder's own input size.
    """
    structure = structure_of(encoder)
    sides: dict[str, int] = {}

    def enter(blocks: Iterable[Block], side: int) -> int:
        for part in (part for block in blocks for part in block.parts):
            if isinstance(part, Attention):
                sides[part.core] = side
            for conv in part.convolutions:
                module = encoder.get_submodule(conv.conv)
                assert isinstance(module, Conv2d)
                sides[conv.conv] = side
                side = -(-side // module.stride[0])
        return side

    side, behind = encoder.variant.input_size, []
    for stage in structure.stages:
        side = enter(stage, side)
        behind.append(side)
    for entry in structure.neck_inputs:
        sides[entry.up_sample] = enter([entry.block], behind[entry.stage])
    enter([*structure.neck_middle, structure.neck_output], encoder.variant.embed_size)
    return sides


def _parts(module: nn.Module, path: str, kind: str) -> Iterator[Chain | Attention]:
    """Yield the parts of a block; `kind` is the kind of a convolution that stands alone."""
    if isinstance(module, EfficientViTBlock):
        yield from _parts(module.context_module, f"{path}.context_module", kind)
        yield from _parts(module.local_module, f"{path}.local_module", kind)
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


def _first(part: Chain | Attention) -> Convolution:
    return part.convolutions[0]
