"""Repair `reflect`: move massive positions of a residual stream into one channel, which `streams` then scales.

Large models have such positions by nature (Sun et al., 2024, arXiv:2402.17762). All channels are large there, so no
scale per channel undoes them, but they lie in one direction. A reflection turns that direction into one channel. The
repair is exact except for the last digits, and the graph gets no extra node: a stream is linear between blocks, so its
writers and readers absorb the matrix.
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
"""Number of calibration images that are searched for massive positions."""

MASSIVE = 10.0
"""A position is massive if it is this many times as large as the median position of its image. Each channel counts in
units of its own mean magnitude, so an outlier channel alone makes no position massive."""

IN_ONE_DIRECTION = 0.8
"""A stream is reflected if at least this share of the massive positions' energy lies in one direction."""


def reflection_of_streams(
    prepared: ImageEncoder, plan: Plan, images: Iterable[CalibrationImage], progress: Progress | None = None
) -> ReflectStreams | None:
    """Return the reflections of residual streams with massive positions in one direction; None if there are none.

    Args:
        prepared: The float encoder with the plan's transforms so far.
        plan: The plan to repair.
        images: See `calibrate`; only the first few are used.
        progress: Wraps the iteration over these images.
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
    """The massive positions of a stream, and the size of its channels at other positions."""

    def __init__(self) -> None:
        self._squares: Tensor | None = None  # (C,) sums over usual positions
        self._count = 0
        self._massive: list[Tensor] = []  # each (found, C)

    def look(self, x: Tensor) -> None:
        """Take a reader's input, (N, C, H, W)."""
        for image in x.flatten(2).double():  # (C, positions)
            even = image / image.abs().mean(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            size = even.square().mean(0).sqrt()
            massive = size > MASSIVE * size.median()
            squares = image[:, ~massive].square().sum(1)
            self._squares = squares if self._squares is None else self._squares + squares
            self._count += int((~massive).sum())
            self._massive.append(image[:, massive].T)

    def mirror(self) -> Tensor | None:
        """Return `a` and `b` of the reflection, (2, C) float32; None if there is nothing to reflect."""
        massive = torch.cat(self._massive)
        if self._squares is None or not len(massive):
            return None
        usual = (self._squares / self._count).sqrt()
        usual = usual.clamp(min=1e-3 * float(usual.median()))  # lower limit for nearly dead channels
        directions = massive / usual
        _, energies, vectors = torch.linalg.svd(directions, full_matrices=False)
        share = float(energies[0].square() / energies.square().sum())
        v = vectors[0]
        axis = int(v.abs().argmax())
        if (
            share < IN_ONE_DIRECTION or float(v[axis].square()) > IN_ONE_DIRECTION
        ):  # the second condition: the direction is a channel already
            return None
        w = v.clone()
        w[axis] += torch.sign(v[axis])
        w = w / w.norm()
        return torch.stack([2 * usual * w, w / usual]).float().cpu()
