"""Train the nano variant: `python recipes/nano/train.py [--photographs COCO_FOLDER]`.

The decoder alone learns to fill boxes, the whole model learns objects at half the resolution, then at the full
one, and once more from a lower learning rate: cheap steps first.

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
from samples import SIZE, Prompts, StepDataset, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from quantsam.models.encoder import UpSample
from quantsam.models.mask_decoder import Attention, MaskDecoder
from quantsam.models.sam import EfficientViTSam
from quantsam.models.transforms import PIXEL_MEAN, PIXEL_STD
from quantsam.models.variants import VARIANTS

ALL_MASKS = range(MaskDecoder.NUM_MASKS)
Batch = list[tuple[UInt8, Prompts]]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warmup", type=int, default=2500, help="steps of the decoder alone, about 60 ms each")
    parser.add_argument("--coarse", type=int, default=6000, help="steps of the whole model at half the resolution")
    parser.add_argument("--fine", type=int, default=3600, help="steps at the full resolution")
    parser.add_argument("--polish", type=int, default=1600, help="more steps, with a second cosine from a quarter")
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


def normalise(images: list[UInt8], side: int) -> Tensor:
    """Return (N, 3, side, side) float32, normalized as the predictor does; `side` divides the images'."""
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    x = F.avg_pool2d(x, x.shape[-1] // side)
    x = (x - PIXEL_MEAN.reshape(1, 3, 1, 1)) / PIXEL_STD.reshape(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def losses(logits: Tensor, predicted_iou: Tensor, target: Tensor, multi: bool) -> tuple[Tensor, Tensor]:
    """Focal + dice on the best of three masks (and on the single mask), and squared error of the IoU.

    A tenth of the weight goes to all three masks, so that none of them dies.

    Args:
        logits: (B, 4, H, W).
        predicted_iou: (B, 4).
        target: (B, H, W) bool.
        multi: The three ambiguous masks are trained too; else the single mask alone.

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

    - Position embedding: half of the frequencies along x, half along y, 0.25 to 6 periods a picture. With 32
      of them instead of SAM's 128, random directions tell a box's inside from its outside slowly.
    - Attention: queries and keys start with the same orthogonal projection, so that what is alike, and
      what is near, attends to each other from the first step (after Trockman and Kolter, 2023).
    """
    matrix = model.prompt_encoder.pe_layer.get_buffer("positional_encoding_gaussian_matrix")
    frequencies = torch.logspace(np.log10(0.25), np.log10(6.0), matrix.shape[1] // 2)
    matrix.zero_()
    matrix[0, 0::2] = frequencies
    matrix[1, 1::2] = frequencies
    with torch.no_grad():
        for module in model.mask_decoder.modules():
            if isinstance(module, Attention):
                torch.nn.init.orthogonal_(module.q_proj.weight, generator=generator)
                module.k_proj.weight.copy_(module.q_proj.weight)
                module.q_proj.bias.zero_()
                module.k_proj.bias.zero_()


def set_resolution(model: EfficientViTSam, side: int) -> None:
    """Make the model work on images of `side` px and embeddings of `side / 4`; prompts stay in the full frame."""
    model.prompt_encoder.embed_size = side // 4
    for module in model.modules():
        if isinstance(module, UpSample):
            module.size = side // 4


def warm_up(model: EfficientViTSam, steps: int, generator: torch.Generator) -> None:
    """Teach the prompt encoder and the decoder to fill boxes, on noise for an embedding of 16 x 16.

    From scratch, the whole model begins with a long stretch of empty masks.
    """
    set_resolution(model, 64)
    parts = [*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()]
    optimizer = torch.optim.AdamW(parts, lr=2e-3, weight_decay=0.02)
    centre = 4 * torch.arange(64) + 2
    iou = 0.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule(step, steps, 2e-3)
        middle = 256 * torch.rand(32, 2, generator=generator)
        half = 6 * torch.exp(torch.rand(32, 2, generator=generator) * np.log(150 / 12))
        boxes = torch.cat([middle - half, middle + half], dim=1).clamp(0, 256)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).amin(1) > 6]
        column = (centre > boxes[:, 0:1]) & (centre < boxes[:, 2:3])
        row = (centre > boxes[:, 1:2]) & (centre < boxes[:, 3:4])
        target = row[:, :, None] & column[:, None, :]
        embedding = torch.randn(1, model.variant.embed_dim, 16, 16, generator=generator)
        sparse, dense = model.prompt_encoder(None, boxes, None)
        logits, predicted = model.mask_decoder(
            embedding, model.prompt_encoder.dense_position(), sparse, dense, ALL_MASKS
        )
        loss, best = losses(logits, predicted, target, multi=True)
        # for a start, inside and outside weigh the same: else small boxes end as empty masks
        outside = F.softplus(logits).mul(~target[:, None]).sum((2, 3)) / (~target).sum((1, 2))[:, None].clamp(min=1)
        inside = F.softplus(-logits).mul(target[:, None]).sum((2, 3)) / target.sum((1, 2))[:, None].clamp(min=1)
        loss = loss + max(0.0, 1 - step / 200) * (outside + inside).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimizer.step()
        iou = 0.98 * iou + 0.02 * best.item()
        if (step + 1) % 250 == 0:
            print({"warm_up": step + 1, "box_iou": round(iou, 4)}, flush=True)


class DenseHead(nn.Module):
    """Reads foreground and object borders off the embedding; used in training only, then thrown away.

    A prompt teaches the encoder one object; this teaches it all of an image's pixels at once.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(embed_dim, 3 * 16, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, dim, S, S) to logits (N, 3, 4 S, 4 S): foreground, border to the right, border below."""
        return F.pixel_shuffle(self.read(embedding), 4)


def dense_loss(head: DenseHead, embedding: Tensor, batch: Batch) -> Tensor:
    """Return the binary cross-entropy of the head's maps over the images whose objects are all known."""
    known = [i for i, (_, prompts) in enumerate(batch) if prompts.instances is not None]
    if not known:
        return embedding.new_zeros(())
    logits = head(embedding[known])
    maps = torch.from_numpy(np.stack([p.instances for _, p in batch if p.instances is not None]))
    stride = maps.shape[-1] // logits.shape[-1]
    maps = maps[:, ::stride, ::stride]
    right = F.pad(maps[:, :, 1:] != maps[:, :, :-1], (0, 1))
    below = F.pad(maps[:, 1:] != maps[:, :-1], (0, 0, 0, 1))
    truth = torch.stack([maps > 0, right, below], dim=1).float()
    weight = truth.new_tensor([2.0, 8.0, 8.0]).reshape(1, 3, 1, 1)  # borders are few
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)


def step_loss(model: EfficientViTSam, head: DenseHead, batch: Batch, side: int, boxes: int) -> tuple[Tensor, Tensor]:
    """Return the loss of one step on images of `side` px, and the mean IoU of its box prompts' best masks.

    Of each image the first `boxes` objects are prompted by box, the others by clicks. At less than the full
    resolution more than two clicks train the single mask alone, which is enough to place objects.
    """
    set_resolution(model, side)
    embedding = model.image_encoder(normalise([image for image, _ in batch], side))
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
            multi = points.shape[1] <= 2 or side == SIZE
        logits, iou = model.mask_decoder(embedding[index], dense_pe, sparse, dense, ALL_MASKS)
        masks = gather("masks", part)
        if side < SIZE:  # a pixel belongs to the object where most of it does
            masks = F.avg_pool2d(masks.float().unsqueeze(1), SIZE // side).squeeze(1) >= 0.5
        loss, best_iou = losses(logits, iou, masks, multi)
        total = total + (part.stop - part.start) / objects * loss
        if by_box:
            box_iou = best_iou
    return total, box_iou


def schedule(step: int, steps: int, peak: float, polish: int = 0) -> float:
    """Return the learning rate: 100 steps of warm-up, then a cosine to a hundredth of the peak; then once more."""
    if step >= steps:
        return schedule(step - steps + 100, polish + 100, peak / 4)
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
    head = DenseHead(model.variant.embed_dim)
    trained = [*model.parameters(), *head.parameters()]
    decayed = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
    )
    average = copy.deepcopy(model)
    first, steps, checkpoint = 0, args.coarse + args.fine, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"going on from step {first}")
    else:
        warm_up(model, args.warmup, torch.Generator().manual_seed(args.seed))
        average.load_state_dict(model.state_dict())
    data = StepDataset(args.seed, args.batch, args.objects, args.photographs, args.share)
    started, running = time.perf_counter(), None
    for step, batch in enumerate(batches(data, first, steps + args.polish), start=first):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, steps, args.learning_rate, args.polish)
        side = SIZE // 2 if step < args.coarse else SIZE
        loss, box_iou = step_loss(model, head, batch, side, args.objects - (1 if step < steps // 2 else 2))
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
        if done % args.save_every == 0 or done == steps + args.polish:
            save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "head": head.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "arguments": vars(args) | {"photographs": args.photographs is not None, "out": None},
                },
            )


if __name__ == "__main__":
    main()
