"""Repair `shift`: channels of a residual stream are centred about zero, so that one scale spans less.

Exact but for the last digits, and no node more in the graph: biases take it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.shift import shiftable_streams
from quantsam.models.structure import Convolution
from quantsam.plans.plan import Plan
from quantsam.plans.transforms import ShiftStreams
from quantsam.repair.extremes import ChannelRange

WORTH = 0.95
"""A stream is shifted where the width of its grid falls below this share."""


def shift_of_streams(prepared: ImageEncoder, plan: Plan, ranges: Mapping[str, ChannelRange]) -> ShiftStreams | None:
    """Return the shift of the residual streams that 1x1 convolutions alone read; None where none is worth it.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: What is quantized.
        ranges: See `channel_ranges`.
    """
    sites = {site.path: site for site in plan.sites}
    shifts = {}
    for stream in shiftable_streams(prepared):
        quantized = [sites[reader.input_site] for reader in stream.readers if reader.input_site in sites]
        if not quantized:
            continue
        low, high = _range_of(prepared, stream.readers, ranges)
        middle = (low + high) / 2
        if all(site.spec.symmetric for site in quantized):
            before = 2 * low.abs().maximum(high.abs()).max()
        else:
            before = high.max() - low.min()
        if bool((high - low).max() < WORTH * before):
            shifts[stream.name] = middle.float().cpu()
    return ShiftStreams(shifts) if shifts else None


def _range_of(
    prepared: ImageEncoder, readers: tuple[Convolution, ...], ranges: Mapping[str, ChannelRange]
) -> tuple[Tensor, Tensor]:
    """Return the range of a stream, (C,) and (C,), as its readers see it before any scale of theirs."""
    lows, highs = [], []
    for reader in readers:
        seen, conv = ranges[reader.input_site], prepared.get_submodule(reader.conv)
        assert isinstance(conv, Conv2d)
        factors = 1.0 if conv.input_scale is None else conv.input_scale.factors.to(seen.low.device)
        lows.append(seen.low / factors)
        highs.append(seen.high / factors)
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0)
