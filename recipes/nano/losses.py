"""What the recipe minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from network import CELL
from torch import Tensor, nn

FOCAL = 2.0
EXTRA_AREA = 50.0  # px: keeps the smallest objects from weighing without bound


@dataclass(frozen=True)
class MaskLoss:
    """Losses of a batch of prompts, and how good their masks are.

    Attributes:
        loss: Scalar.
        iou: (B, 3), IoU of the three ambiguous masks; no gradient.
        chosen: (B,), IoU of the one of them with the highest predicted IoU, which an evaluation takes.
    """

    loss: Tensor
    iou: Tensor
    chosen: Tensor


def per_mask(logits: Tensor, truth: Tensor) -> Tensor:
    """Return focal + dice of each mask, (B, M).

    The focal part is a sum over pixels, in units of the object's area: a wrong pixel costs as much as it costs
    IoU, whether the object is small or large. Its logarithm is taken, or one small object whose mask flooded the
    picture would outweigh all others.

    Args:
        logits: (B, M, H, W).
        truth: (B, H, W) bool.
    """
    target = truth.unsqueeze(1).to(logits.dtype)
    probability = logits.sigmoid()
    cross_entropy = F.softplus(logits) - logits * target
    focal = (cross_entropy * (probability - target).square()).sum((2, 3))
    area = target.sum((2, 3))
    overlap = (probability * target).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + area + 1)
    return torch.log1p(FOCAL * focal / (area + EXTRA_AREA)) + dice


@torch.no_grad()
def mask_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of thresholded logits (B, M, H, W) with (B, H, W) bool: (B, M)."""
    on, target = logits > 0, truth.unsqueeze(1)
    return (on & target).sum((2, 3)).float() / (on | target).sum((2, 3)).clamp(min=1)


def prompt_loss(logits: Tensor, predicted_iou: Tensor, truth: Tensor, best: float) -> MaskLoss:
    """Weigh the losses of the single mask, of the three ambiguous ones and of the predicted IoU.

    Args:
        logits: (B, 4, H, W).
        predicted_iou: (B, 4).
        truth: (B, H, W) bool.
        best: Weight of the best ambiguous mask; the rest goes to the mean of the three.
    """
    logits, predicted_iou = logits.float(), predicted_iou.float()
    each, iou = per_mask(logits, truth), mask_iou(logits, truth)
    ambiguous = each[:, 1:]
    loss = 0.4 * each[:, 0].mean() + best * ambiguous.amin(1).mean() + (1 - best) * ambiguous.mean()
    loss = loss + 2 * F.mse_loss(predicted_iou, iou)
    chosen = iou[:, 1:].gather(1, predicted_iou[:, 1:].argmax(1, keepdim=True))[:, 0]
    return MaskLoss(loss, iou[:, 1:], chosen)


class DenseHeads(nn.Module):
    """Reads borders and likeness off the embedding; used in training only, then thrown away.

    A prompt teaches the encoder one object; these teach it all of a picture's objects at once.
    """

    KINDS, WIDTH = 3, 24

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.borders = nn.Conv2d(embed_dim, 2 * CELL**2, 1)
        self.keys = nn.Conv2d(embed_dim, self.KINDS * self.WIDTH, 1)
        self.queries = nn.Linear(embed_dim, self.KINDS * (self.WIDTH + 1))

    def forward(self, embedding: Tensor, members: Tensor, masks: Tensor, seeds: Tensor, complete: Tensor) -> Tensor:
        """Return the loss of borders and likeness.

        Args:
            embedding: (N, dim, S, S).
            members: (N, 4 S, 4 S) int; bit k of a pixel says whether it is in mask k.
            masks: (N, M, 4 S, 4 S) bool, the same apart; empty ones are padding.
            seeds: (N, M, 2) int, x y of a cell of each object.
            complete: (N,) bool, whether every object of a picture is among its masks.
        """
        return self._border_loss(embedding, members, complete) + self._likeness_loss(embedding, masks, seeds)

    def _border_loss(self, embedding: Tensor, members: Tensor, complete: Tensor) -> Tensor:
        """Tell where a pixel and its neighbour to the right, or below, belong to different sets of objects.

        Where not all objects are known, pairs of pixels outside of all masks say nothing.
        """
        logits = F.pixel_shuffle(self.borders(embedding), CELL).float()
        right, below = members.roll(-1, 2), members.roll(-1, 1)
        others = torch.stack([right, below], 1)
        truth = (others != members.unsqueeze(1)).float()
        known = (others | members.unsqueeze(1)) != 0
        known |= complete.view(-1, 1, 1, 1)
        known[:, 0, :, -1], known[:, 1, -1] = False, False
        weight = known * (1 + 7 * truth)  # borders are few
        return F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum") / weight.sum().clamp(min=1)

    def _likeness_loss(self, embedding: Tensor, masks: Tensor, seeds: Tensor) -> Tensor:
        """From one cell of an object, find its other cells: three answers, of which the best counts most."""
        images, _, height, width = embedding.shape
        parts = F.avg_pool2d(masks.float(), CELL) >= 0.5
        image, mask = torch.nonzero(parts.flatten(2).any(2), as_tuple=True)
        if len(image) == 0:
            return embedding.new_zeros(())
        x, y = seeds[image, mask].unbind(1)
        tokens = embedding.permute(0, 2, 3, 1).flatten(0, 2)
        # index_select, whose gradient is summed in the same order each time
        query = self.queries(tokens.index_select(0, (image * height + y) * width + x))
        query = query.view(-1, self.KINDS, self.WIDTH + 1)
        keys = self.keys(embedding).view(images, self.KINDS, self.WIDTH, height * width).index_select(0, image)
        logits = (query[:, :, None, :-1] @ keys).squeeze(2) / self.WIDTH**0.5 + query[:, :, -1:]
        truth = parts[image, mask]
        each = per_mask(logits.float().unflatten(2, (height, width)), truth)
        return 0.8 * each.amin(1).mean() + 0.2 * each.mean()
