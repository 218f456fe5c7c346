"""Repair `reflect`: a few massive positions of a residual stream come to lie in one channel, which `streams` scales.

Large models have such positions by nature (Sun et al., 2024, arXiv:2402.17762): in all channels, so that no scale per
channel undoes them, but in one direction. A reflection turns that direction into one channel. Exact but for the last
digits, and no node more in the graph: between blocks a stream is linear, and its writers and readers take the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantsam.models.encoder import ImageEncoder
from quantsam.models.reflect import reflectable_streams
from quantsam.notices import notice
from quantsam.plans.observation import CalibrationImage
from quantsam.plans.plan import Plan
from quantsam.plans.transforms import ReflectStreams
from quantsam.progress import Progress
from quantsam.repair.watch import watch_inputs

LOOKED_AT = 8
"""Calibration images in which massive positions are looked for."""

MASSIVE = 10.0
"""How many times as large as the median position of its image a position is; each channel in units of its own mean
magnitude, so that an outlier channel alone makes none."""

IN_ONE_DIRECTION = 0.8
"""The share of the massive positions' energy that lies in one direction where a stream is reflected."""


def reflection_of_streams(
    prepared: ImageEncoder, plan: Plan, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> ReflectStreams | None:
    """Return the reflections of the residual streams that have massive positions in one direction; None without any.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: What is quantized.
        images: See `calibrate`; the first few are looked at.
        progress: Wraps the iteration over these.
    """
    streams = {stream.name: _Stream() for stream in reflectable_streams(prepared)}
    lookers = {r.conv: streams[s.name].look for s in reflectable_streams(prepared) for r in s.readers}
    if not lookers:
        notice(
            f"repair reflect needs BatchNorm folded, which placement {plan.placement} does not do: it changes nothing"
        )
        return None
    watch_inputs(prepared, lookers, images, most=LOOKED_AT, progress=progress)
    mirrors = {name: mirror for name, stream in streams.items() if (mirror := stream.mirror()) is not None}
    return ReflectStreams(mirrors) if mirrors else None


class _Stream:
    """The massive positions of a stream, and how large its channels are elsewhere."""

    def __init__(self) -> None:
        self._squares: Tensor | None = None  # (C,) sums over usual positions
        self._count = 0
        self._massive: list[Tensor] = []  # each (found, C)

    def look(self, x: Tensor) -> None:
        """Take what a reader reads, (N, C, H, W)."""
        for image in x.flatten(2).double():  # (C, positions)
            even = image / image.abs().mean(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            size = even.square().mean(0).sqrt()
            massive = size > MASSIVE * size.median()
            squares = image[:, ~massive].square().sum(1)
            self._squares = squares if self._squares is None else self._squares + squares
            self._count += int((~massive).sum())
            self._massive.append(image[:, massive].T)

    def mirror(self) -> Tensor | None:
        """Return `a` and `b` of the reflection, (2, C) float32; None where there is nothing to reflect."""
        massive = torch.cat(self._massive)
        if self._squares is None or not len(massive):
            return None
        usual = (self._squares / self._count).sqrt()
        usual = usual.clamp(min=1e-3 * float(usual.median()))  # of channels that are all but dead
        directions = massive / usual
        _, energies, vectors = torch.linalg.svd(directions, full_matrices=False)
        share = float(energies[0].square() / energies.square().sum())
        v = vectors[0]
        axis = int(v.abs().argmax())
        if (
            share < IN_ONE_DIRECTION or float(v[axis].square()) > IN_ONE_DIRECTION
        ):  # the second: it is a channel already
            return None
        w = v.clone()
        w[axis] += torch.sign(v[axis])
        w = w / w.norm()
        return torch.stack([2 * usual * w, w / usual]).float().cpu()
