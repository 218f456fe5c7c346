"""One training step: from a batch to its loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from decoding import decode
from losses import DenseHeads, MaskLoss, prompt_loss
from network import set_window, window_position
from numpy.typing import NDArray
from samples import Batch, depth_of
from torch import Tensor

from quantsam.models.mask_decoder import MaskDecoder
from quantsam.models.sam import EfficientViTSam
from quantsam.prediction.transforms import PIXEL_MEAN, PIXEL_STD

DENSE_WEIGHT = 0.5
ALL_MASKS = range(MaskDecoder.NUM_MASKS)
Points = tuple[Tensor, Tensor]


@dataclass
class Learner:
    """What is trained, and where.

    Attributes:
        model: The model.
        heads: Read the embedding, in training only.
        device: Where both are.
        precision: Type of most products; float32, or bfloat16 for mixed precision.
        seen: What the last steps measured, by name.
    """

    model: EfficientViTSam
    heads: DenseHeads
    device: torch.device
    precision: torch.dtype = torch.float32
    seen: dict[str, list[float]] = field(default_factory=dict)

    def mixed(self) -> torch.autocast:
        """Return the context in which most products take `precision`."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def note(self, **values: float) -> None:
        """Remember values for the log."""
        for name, value in values.items():
            self.seen.setdefault(name, []).append(value)


@dataclass(frozen=True)
class _Objects:
    """Some objects of each window.

    Attributes:
        embedding: (N, dim, S / 4, S / 4) of the windows.
        position: (N, dim, S / 4, S / 4).
        truth: (N * K, S, S) bool, the objects of a window next to each other.
    """

    embedding: Tensor
    position: Tensor
    truth: Tensor


def _chosen(masks: Tensor, which: Tensor) -> Tensor:
    """Return of (N, M, S, S) masks those that (N, K) name: (N * K, S, S)."""
    return masks[torch.arange(len(masks), device=masks.device)[:, None], which].flatten(0, 1)


def normalise(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return (N, 3, S, S) float32 of (N, S, S, 3) uint8, normalized as the predictor does."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
    x = (x - PIXEL_MEAN.to(device).view(1, 3, 1, 1)) / PIXEL_STD.to(device).view(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def step_loss(learner: Learner, batch: Batch, rng: np.random.Generator) -> Tensor:
    """Return the loss of a batch; `rng` draws the corrective clicks."""
    model, device, form = learner.model, learner.device, batch.form
    set_window(model, form.side)
    with learner.mixed():
        embedding = model.image_encoder(normalise(batch.images, device))
    masks = torch.from_numpy(batch.masks).to(device)
    complete, seeds = torch.from_numpy(batch.complete).to(device), torch.from_numpy(batch.seeds).to(device)
    with learner.mixed():
        dense = learner.heads(embedding, masks, seeds, complete)
    position = window_position(model, torch.from_numpy(batch.corners).to(device), form.side)
    learner.note(dense=dense.item())
    total: Tensor = DENSE_WEIGHT * dense
    objects = _Objects(embedding, position, _chosen(masks, torch.from_numpy(batch.boxed).to(device)))
    by_box = _by_box(learner, objects, torch.from_numpy(batch.boxes).to(device).flatten(0, 1))
    objects = _Objects(embedding, position, _chosen(masks, torch.from_numpy(batch.clicked).to(device)))
    by_click = _by_clicks(learner, objects, batch, rng)
    share: float = batch.boxes.shape[1] / (batch.boxes.shape[1] + batch.clicks.shape[1])
    return total + 2 * share * by_box.loss + 2 * (1 - share) * by_click.loss


def _decode(
    learner: Learner, objects: _Objects, points: Points | None, boxes: Tensor | None, masks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Decode prompts; positions are computed in float32, or a picture's far ends would blur."""
    sparse, dense = learner.model.prompt_encoder(points, boxes, masks)
    embedding, position = objects.embedding, objects.position
    with learner.mixed():
        if masks is None:
            logits, predicted = decode(learner.model.mask_decoder, embedding, position, sparse, dense[:1])
        else:  # no two prompts of a window see the same image
            prompts = len(sparse) // len(embedding)
            logits, predicted = learner.model.mask_decoder(
                embedding.repeat_interleave(prompts, 0),
                position.repeat_interleave(prompts, 0),
                sparse,
                dense,
                ALL_MASKS,
            )
    return logits.float(), predicted.float()


def _by_box(learner: Learner, objects: _Objects, boxes: Tensor) -> MaskLoss:
    logits, predicted = _decode(learner, objects, None, boxes, None)
    result = prompt_loss(logits, predicted, objects.truth, best=0.4)
    learner.note(box=result.chosen.mean().item(), box_best=result.iou.amax(1).mean().item())
    return result


def _by_clicks(learner: Learner, objects: _Objects, batch: Batch, rng: np.random.Generator) -> MaskLoss:
    """Train the answer to the first click, or to further ones, each where the answer before is wrong."""
    form, device = batch.form, learner.device
    first = torch.from_numpy(batch.clicks).to(device).flatten(0, 1).unsqueeze(1)
    points: Points = (first, torch.ones(len(first), 1, dtype=torch.long, device=device))
    boxes = torch.from_numpy(batch.clicked_boxes).to(device).flatten(0, 1) if form.boxed else None
    corners = np.repeat(batch.corners, batch.clicks.shape[1], axis=0)
    truth = objects.truth.cpu().numpy()
    feedback = None
    for _ in range(form.rounds):
        with torch.no_grad():
            logits, predicted = _decode(learner, objects, points, boxes, None)
        best = 1 + predicted[:, MaskDecoder.MULTI].argmax(1)
        answer = logits[torch.arange(len(best), device=device), best]
        feedback = answer.unsqueeze(1) if form.feedback else None
        points = _with_corrections(points, (answer > 0).cpu().numpy(), truth, corners, rng)
    logits, predicted = _decode(learner, objects, points, boxes, feedback)
    ambiguous = form.rounds == 0 and not form.boxed
    result = prompt_loss(logits, predicted, objects.truth, best=0.9 if ambiguous else 0.5)
    name = "click" if ambiguous else "clicks"
    learner.note(**{name: result.chosen.mean().item(), f"{name}_best": result.iou.amax(1).mean().item()})
    return result


def _with_corrections(
    points: Points,
    answers: NDArray[np.bool_],
    truths: NDArray[np.bool_],
    corners: NDArray[np.float32],
    rng: np.random.Generator,
) -> Points:
    """Add a click to each object's, where its answer is most wrong, or thereabouts; padding where nothing is wrong.

    Args:
        points: (B, N, 2) px of the frame and (B, N) labels.
        answers: (B, S, S) bool.
        truths: (B, S, S) bool.
        corners: (B, 2) px, where the windows lie in the frame.
        rng: Draws.
    """
    places, labels = np.zeros((len(answers), 1, 2), np.float32), np.full((len(answers), 1), -1)
    for i, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        draws = None if rng.random() < 0.6 else rng
        missed, excess = depth_of(truth & ~answer, draws), depth_of(answer & ~truth, draws)
        if missed[0] > excess[0]:
            places[i, 0], labels[i] = missed[1:] + corners[i], 1
        elif excess[0] > 0:
            places[i, 0], labels[i] = excess[1:] + corners[i], 0
    device = points[0].device
    return (
        torch.cat([points[0], torch.from_numpy(places).to(device)], 1),
        torch.cat([points[1], torch.from_numpy(labels).to(device)], 1),
    )
