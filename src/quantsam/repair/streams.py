"""Repair `streams`: no channel of a residual stream dominates the others. Exact, and no node more in the graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quantsam.models.encoder import ImageEncoder
from quantsam.models.structure import Stream, structure_of
from quantsam.plans.transforms import ScaleStreams
from quantsam.repair.balance import balanced
from quantsam.repair.ranges import ChannelRange

STRENGTH = 0.5
"""Activations and weights share alike: what was put on a stream and taken off its readers comes back whole."""


def scale_of_streams(prepared: ImageEncoder, ranges: Mapping[str, ChannelRange]) -> ScaleStreams | None:
    """Return the scaling of an encoder's residual streams; None where none would change anything.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        ranges: See `channel_ranges`.
    """
    exponents = {}
    for stream in structure_of(prepared).streams:
        reach = torch.stack([ranges[reader.input_site].reach for reader in stream.readers]).amax(0)
        found = balanced(reach, _largest_weights(prepared, stream), STRENGTH)
        if bool(found.any()):
            exponents[stream.name] = found.cpu()
    return ScaleStreams(exponents) if exponents else None


def _largest_weights(prepared: ImageEncoder, stream: Stream) -> Tensor:
    """Return the largest magnitude of the weights that read each channel, (C,), over the median of each reader."""
    found = []
    for reader in stream.readers:
        largest = prepared.get_submodule(reader.conv).get_parameter("weight").detach().abs().amax((0, 2, 3))
        found.append(largest / largest.median().clamp(min=1e-30))
    return torch.stack(found).amax(0)
