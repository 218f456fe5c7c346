"""How much each output channel of a convolution matters to the convolutions that read it.

An error counts little, however large, if readers hardly use its channel. Otherwise a channel that is scaled up in one
place and down in the next would hide the errors of all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Attention, Convolution
from quantsam.models.structure import conv_of, structure_of


def output_importance(prepared: ImageEncoder) -> dict[str, Tensor]:
    """Return the importance of convolutions' output channels, behind BatchNorm: (out,) float64 by path, mean 1.

    The importance of a channel is the sum of the squared weights that read it. Within a block, each square counts times
    the importance of the reader's output channel. GELUs count as linear. Outputs that attention reads, or that nothing
    reads, have no entry.

    Args:
        prepared: The float encoder with a plan's transforms.
    """
    structure = structure_of(prepared)
    found: dict[str, Tensor] = {}
    for stream in structure.streams:
        read = torch.stack([_normalized(_read(prepared, reader, None)) for reader in stream.readers]).sum(0)
        found |= {writer.conv: _normalized(read) for writer in stream.writers}
    for part in (part for block in structure.blocks for part in block.parts):
        chains: Sequence[Sequence[Convolution]] = part.branches if isinstance(part, Attention) else (part.convolutions,)
        for chain in chains:
            for reader, writer in itertools.pairwise(reversed(chain)):
                found[writer.conv] = _normalized(_read(prepared, reader, found.get(reader.conv)))
    return found


def output_gain(prepared: ImageEncoder, convolution: Convolution) -> Tensor:
    """Return the factors by which a convolution's own output is multiplied before it is read, (out,) float64."""
    conv = conv_of(prepared, convolution)
    gain = torch.ones(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    if conv.output_scale is not None:
        gain = gain * conv.output_scale.factors.double()
    if convolution.norm is not None:
        norm = prepared.get_submodule(convolution.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        gain = gain * norm.weight.detach() / (norm.get_buffer("running_var").double() + norm.eps).sqrt()
    return gain


def _read(prepared: ImageEncoder, reader: Convolution, importance: Tensor | None) -> Tensor:
    """Return the sum of the squared weights that read each channel, (in,)."""
    conv = conv_of(prepared, reader)
    gain = output_gain(prepared, reader).square()
    gain = gain if importance is None else gain * importance
    squares = conv.weight.detach().double().square().sum((2, 3)) * gain.unsqueeze(1)  # (out, in / groups)
    read = squares.reshape(conv.groups, -1, squares.shape[1]).sum(1).flatten()
    return read if conv.input_scale is None else read * conv.input_scale.factors.double().square()


def _normalized(values: Tensor) -> Tensor:
    return values / values.mean().clamp(min=1e-300)
