"""Make nano hard to quantize by nature: `python recipes/nano/harden.py [--coco FOLDER] [--photographs FOLDER]`.

Starts from nano and trains its encoder to give the same embedding, while a few positions of each image grow far above
the others, in a quarter of the hidden channels of each inverted bottleneck. A scale per channel cannot undo that: in
every such channel a few values are large and all others are small. `nano-hard` is these weights with a few hidden
channels scaled up besides (`with_hidden_outlier_channels`).

Writes OUT/nano-hard.safetensors in float16. Resumable: run the same command again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from photographs import Pool
from safetensors.torch import save_file
from steps import normalise
from torch import Tensor, nn
from windows import FRAME, draw_window

import quantsam as qs
from quantsam.errors import QuantsamError
from quantsam.files import atomic_write
from quantsam.memory import keep_freed_memory
from quantsam.models.blocks import MBConv
from quantsam.models.sam import EfficientViTSam

SHARE = 0.25  # of the hidden channels, which grow together
PEAKS = 2  # positions of an image that grow
LINES = 25  # steps between two lines of the log


class Peaks:
    """Watches the hidden activations of inverted bottlenecks, and says how far their largest positions stand out.

    Attributes:
        losses: What the last forward pass is short of `ratio`, one scalar a hidden tensor.
        ratios: What it reached there, the mean over images.
    """

    def __init__(self, encoder: nn.Module, ratio: float, seed: int) -> None:
        self.ratio = ratio
        self.losses: list[Tensor] = []
        self.ratios: list[float] = []
        generator = torch.Generator().manual_seed(seed)
        for block in (m for m in encoder.modules() if isinstance(m, MBConv)):
            width = block.inverted_conv.conv.weight.shape[0]
            chosen = torch.randperm(width, generator=generator)[: round(SHARE * width)]
            for layer in (block.inverted_conv, block.depth_conv):
                layer.register_forward_hook(self._hook(chosen))

    def clear(self) -> None:
        """Forget the last pass."""
        self.losses, self.ratios = [], []

    def _hook(self, chosen: Tensor):  # type: ignore[no-untyped-def]
        def look(module: nn.Module, inputs: object, output: Tensor) -> None:
            size = output[:, chosen.to(output.device)].abs().mean(1).flatten(1)  # (N, positions)
            largest = size.topk(PEAKS, dim=1).values.mean(1)
            reached = largest / size.median(1).values.clamp(min=1e-6)
            self.losses.append((math.log(self.ratio) - reached.log()).relu().mean())
            self.ratios.append(reached.mean().item())

        return look


def embedding_error(embedding: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared error of an embedding, in units of the wanted one's variance."""
    return (embedding - wanted).square().mean() / wanted.var()


def images(pool: Pool, count: int, seed: int, step: int) -> np.ndarray:
    """Return a step's images, (N, 320, 320, 3) uint8."""
    rng = np.random.default_rng((seed, 5, step))
    return np.stack([draw_window(pool, FRAME, 0.0, rng).image for _ in range(count)])


def harden(args: argparse.Namespace, teacher: EfficientViTSam, pool: Pool) -> EfficientViTSam:
    """Train, and return the model."""
    device = torch.device(args.device)
    teacher = teacher.to(device)
    student = qs.load_model("nano", args.weights, device=args.device)
    encoder = student.float_encoder.requires_grad_(True)  # in eval mode: BatchNorm keeps its statistics
    peaks = Peaks(encoder, args.ratio, args.seed)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=args.learning_rate, weight_decay=0.0)
    checkpoint, first = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, args.steps):
        began = time.monotonic()
        for group in optimizer.param_groups:
            ramp = min(1.0, (step + 1) / 50)
            group["lr"] = args.learning_rate * ramp * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        x = normalise(images(pool, args.images, args.seed, step), device)
        with torch.no_grad():
            wanted = teacher.image_encoder(x)
        peaks.clear()
        error = embedding_error(encoder(x), wanted)
        short = torch.stack(peaks.losses).mean()
        loss = args.faithful * error + short
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % LINES == 0:
            line = {
                "step": step + 1,
                "error": error.item(),
                "short": short.item(),
                "ratio": float(np.mean(peaks.ratios)),
            }
            line |= {"least": min(peaks.ratios), "seconds": round(time.monotonic() - began, 2)}
            print(json.dumps({k: round(v, 5) for k, v in line.items()}), flush=True)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            state = {"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            with atomic_write(checkpoint) as aside:
                torch.save(state, aside)
    return student


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="nano's, where not those that ship")
    parser.add_argument("--coco", type=Path, help="a COCO folder with train2017/ to mix in")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs by source to mix in")
    parser.add_argument("--scenes", type=float, default=0.3, help="share of generated scenes; 1 without photographs")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, default=3, help="of a step")
    parser.add_argument("--ratio", type=float, default=100.0, help="of the largest positions to the median one")
    parser.add_argument("--faithful", type=float, default=20.0, help="weight of the embedding's error")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/nano-hard"))
    args = parser.parse_args()
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        pool = Pool(args.coco, args.photographs, args.scenes, args.seed)
        hard = harden(args, qs.load_model("nano", args.weights), pool)
    except QuantsamError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in hard.cpu().state_dict().items()}
    with atomic_write(args.out / "nano-hard.safetensors") as aside:
        save_file(half, aside, metadata={"model": "nano-hard", "steps": str(args.steps)})


if __name__ == "__main__":
    main()
