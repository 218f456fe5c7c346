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
"""A stream is shifted where the widths of its readers' grids fall below this share, root mean square."""


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
        low, high = _range_of(prepared, stream.readers, ranges)
        middle = (low + high) / 2
        noise = []  # of each reader's grid, a share of what it is without the shift
        for reader in stream.readers:
            if reader.input_site in sites:
                seen, factors = ranges[reader.input_site], _factors(prepared, reader)
                is_symmetric = sites[reader.input_site].spec.symmetric
                before = _width(seen.low, seen.high, is_symmetric)
                after = _width(seen.low - middle * factors, seen.high - middle * factors, is_symmetric)
                noise.append((after / before.clamp(min=1e-30)).square())
        if noise and bool(torch.stack(noise).mean() < WORTH**2):
            shifts[stream.name] = middle.float().cpu()
    return ShiftStreams(shifts) if shifts else None


def _width(low: Tensor, high: Tensor, is_symmetric: bool) -> Tensor:
    """Return what a grid for all channels spans, which is about zero, or holds it."""
    if is_symmetric:
        return 2 * low.abs().maximum(high.abs()).max()
    return high.max().clamp(min=0) - low.min().clamp(max=0)


def _factors(prepared: ImageEncoder, reader: Convolution) -> Tensor:
    """Return what a reader's input is multiplied by before its site, (C,)."""
    conv = prepared.get_submodule(reader.conv)
    assert isinstance(conv, Conv2d)
    return conv.weight.new_ones(conv.in_channels) if conv.input_scale is None else conv.input_scale.factors


def _range_of(
    prepared: ImageEncoder, readers: tuple[Convolution, ...], ranges: Mapping[str, ChannelRange]
) -> tuple[Tensor, Tensor]:
    """Return the range of a stream, (C,) and (C,), as its readers see it before any scale of theirs."""
    lows = [ranges[reader.input_site].low / _factors(prepared, reader) for reader in readers]
    highs = [ranges[reader.input_site].high / _factors(prepared, reader) for reader in readers]
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0)
