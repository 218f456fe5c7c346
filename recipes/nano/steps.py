"""One training step: from a batch to its loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from corrections import corrective_clicks
from decoding import decode
from losses import DenseHeads, MaskLoss, prompt_loss
from network import set_window, window_position
from numpy.typing import NDArray
from samples import Batch
from torch import Tensor
from windows import MOST_MASKS

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
        seen: What the last steps measured, by name; scalars that may still be on the device.
    """

    model: EfficientViTSam
    heads: DenseHeads
    device: torch.device
    precision: torch.dtype = torch.float32
    seen: dict[str, list[Tensor]] = field(default_factory=dict)

    def mixed(self) -> torch.autocast:
        """Return the context in which most products take `precision`."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def note(self, **values: Tensor) -> None:
        """Remember scalars for the log; the device is not waited for."""
        for name, value in values.items():
            self.seen.setdefault(name, []).append(value.detach())


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


def apart(members: Tensor) -> Tensor:
    """Return (N, M, S, S) bool of (N, S, S) int whose bit k says whether a pixel is in mask k."""
    bits = (1 << torch.arange(MOST_MASKS, device=members.device)).view(1, -1, 1, 1)
    return (members.unsqueeze(1) & bits) != 0


def step_loss(learner: Learner, batch: Batch, generator: torch.Generator) -> Tensor:
    """Return the loss of a batch; `generator`, on the learner's device, draws the corrective clicks."""
    model, device, form = learner.model, learner.device, batch.form
    set_window(model, form.side)
    with learner.mixed():
        embedding = model.image_encoder(normalise(batch.images, device))
    members = torch.from_numpy(batch.members).to(device)
    masks = apart(members)
    complete, seeds = torch.from_numpy(batch.complete).to(device), torch.from_numpy(batch.seeds).to(device)
    with learner.mixed():
        dense = learner.heads(embedding, members, masks, seeds, complete)
    position = window_position(model, torch.from_numpy(batch.corners).to(device), form.side)
    learner.note(dense=dense)
    total: Tensor = DENSE_WEIGHT * dense
    objects = _Objects(embedding, position, _chosen(masks, torch.from_numpy(batch.boxed).to(device)))
    by_box = _by_box(learner, objects, torch.from_numpy(batch.boxes).to(device).flatten(0, 1))
    objects = _Objects(embedding, position, _chosen(masks, torch.from_numpy(batch.clicked).to(device)))
    by_click = _by_clicks(learner, objects, batch, generator)
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
    learner.note(box=result.chosen.mean(), box_best=result.iou.amax(1).mean())
    return result


def _by_clicks(learner: Learner, objects: _Objects, batch: Batch, generator: torch.Generator) -> MaskLoss:
    """Train the answer to the first click, or to further ones, each where the answer before is wrong."""
    form, device = batch.form, learner.device
    first = torch.from_numpy(batch.clicks).to(device).flatten(0, 1).unsqueeze(1)
    points: Points = (first, torch.ones(len(first), 1, dtype=torch.long, device=device))
    boxes = torch.from_numpy(batch.clicked_boxes).to(device).flatten(0, 1) if form.boxed else None
    corners = torch.from_numpy(batch.corners).to(device).repeat_interleave(batch.clicks.shape[1], 0)
    feedback = None
    for _ in range(form.rounds):
        with torch.no_grad():
            logits, predicted = _decode(learner, objects, points, boxes, None)
        best = 1 + predicted[:, MaskDecoder.MULTI].argmax(1)
        answer = logits[torch.arange(len(best), device=device), best]
        feedback = answer.unsqueeze(1) if form.feedback else None
        places, labels = corrective_clicks(answer > 0, objects.truth, generator)
        places = (places + corners) * (labels >= 0)[:, None]
        points = torch.cat([points[0], places[:, None]], 1), torch.cat([points[1], labels[:, None]], 1)
    logits, predicted = _decode(learner, objects, points, boxes, feedback)
    ambiguous = form.rounds == 0 and not form.boxed
    result = prompt_loss(logits, predicted, objects.truth, best=0.9 if ambiguous else 0.5)
    name = "click" if ambiguous else "clicks"
    learner.note(**{name: result.chosen.mean(), f"{name}_best": result.iou.amax(1).mean()})
    return result
