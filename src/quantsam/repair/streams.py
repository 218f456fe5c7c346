"""Repair `streams`: no channel of a residual stream dominates the others. Exact, and no node more in the graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.scale import largest_weights
from quantsam.models.structure import Link, Port, structure_of
from quantsam.plans.transforms import ScaleStreams
from quantsam.repair.balance import balanced
from quantsam.repair.extremes import ChannelRange

STRENGTH = 0.5
"""Activations and weights share alike: what was put on a stream and taken off its readers comes back whole."""


def scale_of_streams(prepared: ImageEncoder, ranges: Mapping[str, ChannelRange]) -> ScaleStreams | None:
    """Return the scaling of what lies between an encoder's linear operations; None where none would change anything.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        ranges: See `channel_ranges`.
    """
    exponents = {}
    for link in structure_of(prepared).links(prepared):
        reach = torch.stack([_of(port, ranges[port.convolution.input_site].reach) for port in link.readers]).amax(0)
        found = balanced(reach, _largest_weights(prepared, link), STRENGTH)
        if bool(found.any()):
            exponents[link.name] = found.cpu()
    return ScaleStreams(exponents) if exponents else None


def _largest_weights(prepared: ImageEncoder, link: Link) -> Tensor:
    """Return the largest magnitude of the weights that read each channel, (C,), over the median of each reader."""
    found = []
    for reader in link.readers:
        conv = prepared.get_submodule(reader.convolution.conv)
        assert isinstance(conv, Conv2d)
        largest = _of(reader, largest_weights(conv))
        found.append(largest / largest.median().clamp(min=1e-30))
    return torch.stack(found).amax(0)


def _of(port: Port, channels: Tensor) -> Tensor:
    return channels if port.channels is None else channels[list(port.channels)]
