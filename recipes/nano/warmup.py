"""The first steps: prompt encoder and decoder learn to fill boxes, or what a click may mean, on noise.

From scratch, the whole model begins with a long stretch of empty masks; and a small object is lost by a model that
cannot tell to a pixel where a box ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from decoding import decode
from losses import MaskLoss, prompt_loss
from network import CELL, set_window, window_position
from torch import Tensor

from quantsam.models.sam import EfficientViTSam

SIDE = 80  # of the windows, px
BOXES, CLICKS = 32, 12  # a step


def boxes_and_masks(count: int, frame: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw windows with a box in each, sides evenly spread over orders of magnitude.

    Args:
        count: How many.
        frame: Side of the frame in px.
        generator: Draws.

    Returns:
        Corners of the windows (B, 2) and boxes (B, 4), px of the frame; masks (B, 80, 80) bool.
    """
    corners = CELL * torch.randint((frame - SIDE) // CELL + 1, (count, 2), generator=generator).float()
    length = 3 * torch.exp(torch.rand(count, 2, generator=generator) * math.log(SIDE / 3))
    middle = SIDE * torch.rand(count, 2, generator=generator)
    low, high = (middle - length / 2).clamp(0, SIDE - 3), (middle + length / 2).clamp(3, SIDE)
    pixel = torch.arange(SIDE) + 0.5
    column = (pixel > low[:, :1]) & (pixel < high[:, :1])
    row = (pixel > low[:, 1:]) & (pixel < high[:, 1:])
    return corners, torch.cat([low + corners, high + corners], 1), row[:, :, None] & column[:, None, :]


def noise(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return what stands in for embeddings, (B, dim, 20, 20): normalized as they are, and more or less smooth.

    An encoder that has learnt nothing gives nearly the same in all cells.
    """
    side = SIDE // CELL
    parts = [torch.randn(count, dim, size, size, generator=generator) for size in (1, 5, side)]
    parts = [F.interpolate(part, size=(side, side), mode="bilinear") for part in parts]
    weights = torch.rand(3, count, 1, 1, 1, generator=generator)
    mixed = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    assert isinstance(mixed, Tensor)
    return F.layer_norm(mixed.movedim(1, 3), (dim,)).movedim(3, 1)


@dataclass(frozen=True)
class Filled:
    """How boxes were filled, and what was said to clicks in some of them."""

    boxes: MaskLoss
    clicks: MaskLoss
    loss: Tensor


def fill_boxes(model: EfficientViTSam, even: float, generator: torch.Generator) -> Filled:
    """Return the loss of filling boxes; of the last ones, only a click near the middle is told.

    What a click means is unknown then. The three ambiguous masks learn to be of three sizes, and not to be empty.

    Args:
        model: Its prompt encoder and decoder are used.
        even: Weight of a loss to which inside and outside of a box contribute alike: for a start, else small boxes
            end as empty masks.
        generator: Draws.
    """
    device = next(model.parameters()).device
    drawn = boxes_and_masks(BOXES + CLICKS, model.variant.input_size, generator)
    embedding = noise(BOXES + CLICKS, model.variant.embed_dim, generator)
    near = 0.3 + 0.4 * torch.rand(BOXES + CLICKS, 2, generator=generator).to(device)
    corners, boxes, target = (x.to(device) for x in drawn)
    clicks = (boxes[:, :2] + near * (boxes[:, 2:] - boxes[:, :2]))[BOXES:, None]
    set_window(model, SIDE)
    by_box, dense = model.prompt_encoder(None, boxes[:BOXES], None)
    by_click, _ = model.prompt_encoder((clicks, torch.ones_like(clicks[..., 0])), None, None)
    position, sparse = window_position(model, corners, SIDE), torch.cat([by_box, by_click])
    logits, predicted = decode(model.mask_decoder, embedding.to(device), position, sparse, dense[:1])
    filled = prompt_loss(logits[:BOXES], predicted[:BOXES], target[:BOXES], best=0.5)
    clicked = prompt_loss(logits[BOXES:], predicted[BOXES:], target[BOXES:], best=0.9)
    loss = filled.loss + 0.5 * clicked.loss
    if even > 0:
        outside = F.softplus(logits).mul(~target[:, None]).sum((2, 3)) / (~target).sum((1, 2))[:, None].clamp(min=1)
        inside = F.softplus(-logits).mul(target[:, None]).sum((2, 3)) / target.sum((1, 2))[:, None].clamp(min=1)
        loss = loss + even * (outside + inside).mean()
    return Filled(filled, clicked, loss)
