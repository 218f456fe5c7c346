"""Corrective clicks for training: where an answer is wrong, for all prompts of a step at once, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

DEEPEST = 127  # px
SHARE_DEEPEST = 0.6  # of the clicks lie at the deepest pixel; the others at one of the deep ones


def depths(regions: Tensor) -> Tensor:
    """Return how far each pixel is from the nearest one outside of its region, squared; 0 outside.

    Beyond the picture is outside. The distance along the row is counted, then the nearest row is searched. Deeper
    than 127 px counts as 127 px, so that 16 bits hold the sums.

    Args:
        regions: (B, S, S) bool.

    Returns:
        (B, S, S) int16, px squared.
    """
    side = regions.shape[-1]
    place = torch.arange(1, side + 1, device=regions.device, dtype=torch.int16)
    before = torch.where(regions, 0, place).cummax(-1).values
    after = torch.where(regions, 0, place.flip(0)).flip(-1).cummax(-1).values.flip(-1)
    along = torch.minimum(place - before, place.flip(0) - after).clamp_(max=DEEPEST)
    most = int(along.max())  # no depth is larger
    along = along * along
    framed = torch.nn.functional.pad(along, (0, 0, most, most))
    squared = along.clone()
    for step in range(1, most + 1):
        above, below = framed[:, most - step : most - step + side], framed[:, most + step : most + step + side]
        torch.minimum(squared, torch.minimum(above, below).add_(step**2), out=squared)
    return squared


def corrective_clicks(answers: Tensor, truths: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a click for each answer, in the deeper one of what it misses and what it has too much.

    Args:
        answers: (B, S, S) bool.
        truths: (B, S, S) bool.
        generator: Draws, on the same device.

    Returns:
        Places (B, 2) float32, x y px; labels (B,) int64: 1 inside the object, 0 outside, -1 where nothing is wrong.
    """
    count, side, device = len(answers), answers.shape[-1], answers.device
    wrong = torch.stack([truths & ~answers, answers & ~truths]).flatten(0, 1)
    missed, excess = depths(wrong).float().view(2, count, -1)
    is_missed = missed.amax(1) > excess.amax(1)
    depth = torch.where(is_missed[:, None], missed, excess)
    most = depth.amax(1)
    share = 0.8 * torch.rand(count, device=device, generator=generator)
    share = torch.where(torch.rand(count, device=device, generator=generator) < SHARE_DEEPEST, 1.0, share)
    deep = (depth > 0) & (depth >= share[:, None].square() * most[:, None])
    where = (deep * (1 + torch.rand(depth.shape, device=device, generator=generator))).argmax(1)
    places = torch.stack([where % side, where // side], 1).float()
    labels = torch.where(most > 0, is_missed.long(), -1)
    return places, labels
