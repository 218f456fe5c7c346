"""Repair `streams`: scale residual streams so that no channel dominates. Exact, and no extra node in the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from quantsam.models.blocks import Conv2d
from quantsam.models.encoder import ImageEncoder
from quantsam.models.scale import largest_weights
from quantsam.models.structure import Link, Port, structure_of
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.plans.transforms import ScaleStreams
from quantsam.progress import Progress
from quantsam.repair.balance import balanced
from quantsam.repair.extremes import ChannelRange
from quantsam.repair.trials import STRENGTHS, TRIED_ON, InputTrial, different, matters_of_outputs
from quantsam.repair.watch import watch_inputs

STRENGTH = 0.5
"""Activations and weights share equally: a scale put on a stream and taken off in its readers is fully recovered."""

WORTH = 0.9
"""Another strength is chosen if the readers' error falls below this share of the default strength's error."""


def scale_of_streams(
    prepared: ImageEncoder,
    plan: Plan,
    ranges: Mapping[str, ChannelRange],
    images: Iterable[CalibrationImage],
    progress: Progress | None = None,
) -> ScaleStreams | None:
    """Return the scaling of channels between an encoder's linear operations; None if it would change nothing.

    For each residual stream, the readers' error on a few images decides the strength: how much of the scale the weights
    absorb.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: The plan to repair.
        ranges: See `channel_ranges`.
        images: See `calibrate`; only the first few are used.
        progress: Wraps the iteration over these images.
    """
    links = {link.name: link for link in structure_of(prepared).links(prepared)}
    tried = {name: _tried(prepared, link, ranges) for name, link in links.items()}
    trials = _trials(prepared, plan, ranges, links, tried)
    lookers = {path: trial.look for some in trials.values() for path, trial in some.items()}
    if lookers:
        watch_inputs(prepared, lookers, images, most=TRIED_ON, progress=progress)
    chosen = {name: _best(tried[name], trials.get(name, {})) for name in links}
    exponents = {name: found.cpu() for name, found in chosen.items() if bool(found.any())}
    return ScaleStreams(exponents) if exponents else None


def _tried(prepared: ImageEncoder, link: Link, ranges: Mapping[str, ChannelRange]) -> list[Tensor]:
    """Return the exponents of all strengths, the default strength first."""
    reach = torch.stack([_of(port, ranges[port.convolution.input_site].reach) for port in link.readers]).amax(0)
    largest = _largest_weights(prepared, link)
    return different([balanced(reach, largest, s) for s in (STRENGTH, *STRENGTHS)])


def _trials(
    prepared: ImageEncoder,
    plan: Plan,
    ranges: Mapping[str, ChannelRange],
    links: Mapping[str, Link],
    tried: Mapping[str, Sequence[Tensor]],
) -> dict[str, dict[str, InputTrial]]:
    """Return the trials of quantized convolutions that read whole streams, keyed by stream and by path."""
    quantized = {weight.path: (weight, x) for weight, x in plan.quantized_convolutions()}
    matters = matters_of_outputs(prepared)
    found: dict[str, dict[str, InputTrial]] = {}
    for name, link in links.items():
        if len(tried[name]) > 1 and all(port.channels is None for port in link.readers):
            for reader in (port.convolution for port in link.readers if port.convolution.conv in quantized):
                weight, x = quantized[reader.conv]
                if not x.spec.per_channel and x.spec.quantizer == "uniform" and weight.spec.quantizer == "uniform":
                    trial = InputTrial(
                        prepared, weight, x, ranges[reader.input_site], matters[reader.conv], tried[name]
                    )
                    found.setdefault(name, {})[reader.conv] = trial
    return found


def _best(tried: Sequence[Tensor], trials: Mapping[str, InputTrial]) -> Tensor:
    """Return the exponents with the least relative error of the readers' outputs."""
    if not trials:
        return tried[0]
    errors = torch.stack([trial.errors / trial.positions for trial in trials.values()]).sum(0)
    least = int(errors.argmin())
    return tried[least if errors[least] < WORTH * errors[0] else 0]


def _largest_weights(prepared: ImageEncoder, link: Link) -> Tensor:
    """Return the largest magnitude of the weights that read each channel, (C,), relative to each reader's median."""
    found = []
    for reader in link.readers:
        conv = prepared.get_submodule(reader.convolution.conv)
        assert isinstance(conv, Conv2d)
        largest = _of(reader, largest_weights(conv))
        found.append(largest / largest.median().clamp(min=1e-30))
    return torch.stack(found).amax(0)


def _of(port: Port, channels: Tensor) -> Tensor:
    return channels if port.channels is None else channels[list(port.channels)]
