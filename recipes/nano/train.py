"""Train the nano variant: `python recipes/nano/train.py --steps 5000 [--photographs COCO_FOLDER]`.

Resumable: run the same command again and it goes on from its last checkpoint, to the same result.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from samples import Prompts, StepDataset, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from quantsam.models.mask_decoder import Attention, MaskDecoder
from quantsam.models.sam import EfficientViTSam
from quantsam.models.transforms import PIXEL_MEAN, PIXEL_STD
from quantsam.models.variants import VARIANTS

ALL_MASKS = range(MaskDecoder.NUM_MASKS)
Batch = list[tuple[UInt8, Prompts]]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch", type=int, default=6, help="images a step")
    parser.add_argument(
        "--objects",
        type=int,
        default=4,
        help="objects prompted an image: all but one by box, in the second half of the run all but two",
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photographs", type=Path, help="a COCO folder with train2017/ to mix in")
    parser.add_argument("--share", type=float, default=0.15, help="share of photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--save-every", type=int, default=250)
    return parser.parse_args()


def normalise(images: list[UInt8]) -> Tensor:
    """Return (N, 3, 256, 256) float32, normalized as the predictor does."""
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    x = (x - PIXEL_MEAN.reshape(1, 3, 1, 1)) / PIXEL_STD.reshape(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def losses(logits: Tensor, predicted_iou: Tensor, target: Tensor, multi: bool) -> tuple[Tensor, Tensor]:
    """Focal + dice on the best of three masks (and on the single mask), and squared error of the IoU.

    A tenth of the weight goes to all three masks, so that none of them dies.

    Args:
        logits: (B, 4, H, W).
        predicted_iou: (B, 4).
        target: (B, H, W) bool.
        multi: The three ambiguous masks are trained too; else the single mask alone (many clicks).

    Returns:
        The loss, and the mean IoU of the best mask, which is only watched.
    """
    if not multi:
        logits, predicted_iou = logits[:, :1], predicted_iou[:, :1]
    truth = target.float().unsqueeze(1)
    probability = logits.sigmoid()
    cross_entropy = F.softplus(torch.where(target.unsqueeze(1), -logits, logits))
    miss = torch.where(target.unsqueeze(1), 1 - probability, probability)
    focal = (cross_entropy * miss * miss).mean((2, 3))
    overlap = (probability * truth).sum((2, 3))
    mass = probability.sum((2, 3)) + truth.sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (mass + 1)
    mask_loss = 20 * focal + dice
    with torch.no_grad():
        on = logits > 0
        both = (on & target.unsqueeze(1)).sum((2, 3)).float()
        iou = both / (on | target.unsqueeze(1)).sum((2, 3)).clamp(min=1)
    total = mask_loss[:, 0].mean() + F.mse_loss(predicted_iou, iou)
    if multi:
        ambiguous = mask_loss[:, 1:]
        total = total + 0.9 * ambiguous.amin(1).mean() + 0.1 * ambiguous.mean()
    return total, iou.amax(1).mean()


def initialise(model: EfficientViTSam, generator: torch.Generator) -> None:
    """Start where learning is quick; all of it is a choice of initial values.

    - Position embedding: frequencies from 0.5 to 6 periods a picture instead of around 1. With 32 of them
      instead of SAM's 128, frequencies around 1 hardly tell points 12 px apart from each other.
    - Attention: queries and keys start with the same orthogonal projection, so that what is alike, and
      what is near, attends to each other from the first step (after Trockman and Kolter, 2023).
    - Hyper-networks: a larger last layer, so that the logits' gradients do not start near zero.
    """
    matrix = model.prompt_encoder.pe_layer.get_buffer("positional_encoding_gaussian_matrix")
    scale = torch.logspace(np.log10(0.5), np.log10(6.0), matrix.shape[1])
    matrix.copy_(torch.randn(matrix.shape, generator=generator) * scale)
    with torch.no_grad():
        for module in model.mask_decoder.modules():
            if isinstance(module, Attention):
                torch.nn.init.orthogonal_(module.q_proj.weight, gain=1.7, generator=generator)
                module.k_proj.weight.copy_(module.q_proj.weight)
                module.q_proj.bias.zero_()
                module.k_proj.bias.zero_()
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.get_parameter("layers.2.weight").mul_(4)


class DenseHead(nn.Module):
    """Reads foreground and object borders off the embedding; used in training only, then thrown away.

    A prompt teaches the encoder one object; this teaches it all of an image's pixels at once.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(embed_dim, 3 * 16, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim, 64, 64) to logits (N, 3, 256, 256): foreground, border to the right, border below."""
        return F.pixel_shuffle(self.read(embedding), 4)


def dense_loss(head: DenseHead, embedding: Tensor, batch: Batch) -> Tensor:
    """Return the binary cross-entropy of the head's maps over the images whose objects are all known."""
    known = [i for i, (_, prompts) in enumerate(batch) if prompts.instances is not None]
    if not known:
        return embedding.new_zeros(())
    logits = head(embedding[known])
    maps = torch.from_numpy(np.stack([p.instances for _, p in batch if p.instances is not None]))
    right = F.pad(maps[:, :, 1:] != maps[:, :, :-1], (0, 1))
    below = F.pad(maps[:, 1:] != maps[:, :-1], (0, 0, 0, 1))
    truth = torch.stack([maps > 0, right, below], dim=1).float()
    weight = truth.new_tensor([2.0, 8.0, 8.0]).reshape(1, 3, 1, 1)  # borders are few
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)


def step_loss(model: EfficientViTSam, head: DenseHead, batch: Batch, boxes: int) -> tuple[Tensor, Tensor]:
    """Return the loss of one step, and the mean IoU of its box prompts' best masks.

    Of each image the first `boxes` objects are prompted by box, the others by clicks.
    """
    embedding = model.image_encoder(normalise([image for image, _ in batch]))
    objects = len(batch[0][1].masks)
    dense_pe = model.prompt_encoder.dense_position()

    def gather(name: str, part: slice) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(prompts, name)[part] for _, prompts in batch]))

    total, box_iou = 2 * dense_loss(head, embedding, batch), embedding.new_zeros(())
    for part, by_box in ((slice(0, boxes), True), (slice(boxes, objects), False)):
        index = torch.arange(len(batch)).repeat_interleave(part.stop - part.start)
        if by_box:
            sparse, dense = model.prompt_encoder(None, gather("boxes", part), None)
            multi = True
        else:
            points, labels = gather("points", part), gather("labels", part)
            sparse, dense = model.prompt_encoder((points, labels), None, None)
            multi = points.shape[1] <= 2
        logits, iou = model.mask_decoder(embedding[index], dense_pe, sparse, dense, ALL_MASKS)
        loss, best_iou = losses(logits, iou, gather("masks", part), multi)
        total = total + (part.stop - part.start) / objects * loss
        if by_box:
            box_iou = best_iou
    return total, box_iou


def schedule(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: 100 steps of warm-up, then a cosine to a hundredth of the peak."""
    if step < 100:
        return peak * (step + 1) / 100
    progress = (step - 100) / max(1, steps - 100)
    return peak * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress))))


def batches(data: StepDataset, first: int, steps: int) -> Iterator[Batch]:
    """Yield the batches of the steps `first` ... `steps - 1`, made ahead in one worker process."""
    items = Subset(data, range(first * data.batch, steps * data.batch))
    yield from DataLoader(items, data.batch, num_workers=1, prefetch_factor=8, collate_fn=list)


def update_average(average: EfficientViTSam, model: EfficientViTSam, step: int) -> None:
    """Move the running average of weights and statistics towards the model's, faster at the start."""
    decay = min(0.999, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint aside, then rename it."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    """Train, or go on training."""
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model = EfficientViTSam(VARIANTS["nano"]).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialise(model, torch.Generator().manual_seed(args.seed))
    average = copy.deepcopy(model)
    head = DenseHead(model.variant.embed_dim)
    trained = [*model.parameters(), *head.parameters()]
    decayed = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
    )
    first, checkpoint = 0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"going on from step {first}")
    data = StepDataset(args.seed, args.batch, args.objects, args.photographs, args.share)
    started, running = time.perf_counter(), None
    for step, batch in enumerate(batches(data, first, args.steps), start=first):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, args.steps, args.learning_rate)
        loss, box_iou = step_loss(model, head, batch, args.objects - (1 if step < args.steps // 2 else 2))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        update_average(average, model, step)
        values = np.array([loss.item(), box_iou.item()])
        running = values if running is None else 0.98 * running + 0.02 * values
        done = step + 1
        if done % 25 == 0:
            seconds = (time.perf_counter() - started) / (done - first)
            line = {
                "step": done,
                "loss": round(float(running[0]), 4),
                "box_iou": round(float(running[1]), 4),
                "seconds_per_step": round(seconds, 3),
            }
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if done % args.save_every == 0 or done == args.steps:
            save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "head": head.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                },
            )


if __name__ == "__main__":
    main()
