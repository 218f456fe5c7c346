"""Repair `shift`: centre the channels of a residual stream about zero, so that one scale spans less.

The repair is exact except for the last digits, and the graph gets no extra node: biases absorb the shift.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.references import Convolution
from quantsam.models.shift import shiftable_streams
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.plans.transforms import ShiftStreams
from quantsam.progress import Progress
from quantsam.repair.extremes import ChannelRange
from quantsam.repair.trials import TRIED_ON, ShiftTrial, matters_of_outputs
from quantsam.repair.watch import watch_inputs

WORTH = 0.95
"""A stream is shifted if its readers' error falls below this share of its former value."""


def shift_of_streams(
    prepared: ImageEncoder,
    plan: Plan,
    ranges: Mapping[str, ChannelRange],
    images: Iterable[CalibrationImage],
    progress: Progress | None = None,
) -> ShiftStreams | None:
    """Return the shifts of residual streams that only 1x1 convolutions read; None if none is worth it.

    Biases compensate the effect of a shift through the float weights. Coarsely rounded weights leave an error, so the
    readers' error on a few images decides whether a stream is shifted.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: The plan to repair.
        ranges: See `channel_ranges`.
        images: See `calibrate`; only the first few are used.
        progress: Wraps the iteration over these images.
    """
    quantized = {weight.path: (weight, x) for weight, x in plan.quantized_convolutions()}
    matters = matters_of_outputs(prepared)
    middles: dict[str, Tensor] = {}
    trials: dict[str, dict[str, ShiftTrial]] = {}
    for stream in shiftable_streams(prepared):
        low, high = _range_of(prepared, stream.readers, ranges)
        middles[stream.name] = (low + high) / 2
        for reader in stream.readers:
            if reader.conv in quantized and not quantized[reader.conv][1].spec.per_channel:
                weight, x = quantized[reader.conv]
                shift = middles[stream.name] * _factors(prepared, reader)
                seen, tried = ranges[reader.input_site], (torch.zeros_like(shift), shift)
                trial = ShiftTrial(prepared, weight, x, seen, matters[reader.conv], tried)
                trials.setdefault(stream.name, {})[reader.conv] = trial
    lookers = {path: trial.look for some in trials.values() for path, trial in some.items()}
    if lookers:
        watch_inputs(prepared, lookers, images, most=TRIED_ON, progress=progress)
    shifts = {}
    for name, some in trials.items():
        before, after = torch.stack([trial.errors / trial.positions for trial in some.values()]).sum(0)
        if after < WORTH * before:
            shifts[name] = middles[name].float().cpu()
    return ShiftStreams(shifts) if shifts else None


def _factors(prepared: ImageEncoder, reader: Convolution) -> Tensor:
    """Return the factors by which a reader's input is multiplied before its site, (C,)."""
    conv = prepared.get_submodule(reader.conv)
    assert isinstance(conv, Conv2d)
    return conv.weight.new_ones(conv.in_channels) if conv.input_scale is None else conv.input_scale.factors


def _range_of(
    prepared: ImageEncoder, readers: tuple[Convolution, ...], ranges: Mapping[str, ChannelRange]
) -> tuple[Tensor, Tensor]:
    """Return the range of a stream, low (C,) and high (C,), before any scale of its readers."""
    lows = [ranges[reader.input_site].low / _factors(prepared, reader) for reader in readers]
    highs = [ranges[reader.input_site].high / _factors(prepared, reader) for reader in readers]
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0)
