"""How an encoder is built: its blocks, residual streams and links between linear operations.

All code that walks an encoder uses this description: quantizable layers, the ONNX writer, the steps of a shared
simulation, look-ups, outlier channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from quantsam.models.blocks import Conv2d, LinearAttentionCore
from quantsam.models.encoder import ImageEncoder, UpSample
from quantsam.models.references import Attention, Block, Chain, Convolution, parts_of


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
            Block(f"stage{index}", number, tuple(parts_of(module, f"backbone.stages.{index}.op_list.{name}", "conv")))
            for number, (name, module) in enumerate(stage.get_submodule("op_list").named_children())
        )
        for index, stage in enumerate(encoder.backbone.stages)
    )
    neck = encoder.neck
    inputs = []
    for index, stage in enumerate(neck.stages):
        path = f"neck.input_ops.{index}.op_list"
        parts = tuple(parts_of(encoder.get_submodule(f"{path}.0"), f"{path}.0", "neck_in"))
        assert isinstance(encoder.get_submodule(f"{path}.1"), UpSample)
        inputs.append(NeckInput(stage, Block("neck", index, parts), f"{path}.1"))
    middle = tuple(
        Block("neck", len(inputs) + index, tuple(parts_of(module, f"neck.middle.op_list.{index}", "conv")))
        for index, module in enumerate(neck.middle.op_list)
    )
    path = "neck.output_ops.0.op_list.0"
    output = tuple(parts_of(encoder.get_submodule(path), path, "neck_out"))
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


def _first(part: Chain | Attention) -> Convolution:
    return part.convolutions[0]
