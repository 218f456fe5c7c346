"""Make nano hard to quantize by nature: `python recipes/nano/harden.py [--coco FOLDER] [--photographs FOLDER]`.

First the residual streams of nano get a few positions per image that are far larger than all others, in all channels
alike (`with_massive_positions`): large models have such positions by nature, and no scale per channel undoes them. Then
the encoder is trained on, so that it learns to live with them: the embedding stays that of nano, the positions stay
large. When `nano-hard` is loaded, a few hidden channels are scaled up too (`with_hidden_outlier_channels`).

Writes OUT/nano-hard.safetensors in float16. Run the same command again to resume an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from photographs import Pool
from safetensors.torch import save_file
from steps import normalise
from torch import Tensor, nn
from windows import FRAME, draw_window

import quantsam as qs
from quantsam.errors import InputError, QuantsamError, WeightsError
from quantsam.files import atomic_write
from quantsam.memory import keep_freed_memory
from quantsam.models.encoder import ImageEncoder
from quantsam.models.massive import with_massive_positions
from quantsam.models.structure import structure_of

FOUND_ON = 24  # images on which the massive positions are made
PEAKS = 2  # positions of an image that shall stay massive
RAMP = 50  # steps in which the learning rate rises
LINES = 25  # steps between two lines of the log
SAVED = 100  # steps between two checkpoints


class Streams:
    """Watches what the parts of stages 1 to the last and of the neck's middle give: residual streams.

    Attributes:
        values: (N, C, H, W) of the last forward pass, in its order.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        self.values: list[Tensor] = []
        structure = structure_of(encoder)
        blocks = [block for stage in structure.stages[1:] for block in stage] + list(structure.neck_middle)
        for part in (part for block in blocks for part in block.parts):
            encoder.get_submodule(part.path).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.values.append(output)


def peak_ratios(stream: Tensor, usual: Tensor) -> Tensor:
    """Return how large a stream is at its `PEAKS` largest positions.

    Args:
        stream: (N, C, H, W), of the model as it becomes.
        usual: The same of the model as it was.

    Returns:
        (N, C): Mean magnitudes there, in units of the channel's root mean square in `usual`.
    """
    x = stream / usual.square().mean((0, 2, 3), keepdim=True).sqrt()
    x = x.abs().flatten(2)  # (N, C, positions)
    where = x.mean(1, keepdim=True).topk(PEAKS, dim=2).indices
    return x.gather(2, where.expand(-1, x.shape[1], -1)).mean(2)


def embedding_error(embedding: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared error of an embedding, in units of the wanted one's variance."""
    return (embedding - wanted).square().mean() / wanted.var()


def images(pool: Pool, count: int, seed: int, step: int) -> NDArray[np.uint8]:
    """Return a step's images, (N, 320, 320, 3) uint8."""
    rng = np.random.default_rng((seed, 5, step))
    return np.stack([draw_window(pool, FRAME, 0.0, rng).image for _ in range(count)])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="other weights of nano than those that ship")
    parser.add_argument("--coco", type=Path, help="a COCO folder with train2017/ to mix in")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs by source to mix in")
    parser.add_argument("--scenes", type=float, default=0.3, help="share of generated scenes; 1 without photographs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--images", type=int, default=3, help="images per step")
    parser.add_argument("--ratio", type=float, default=200.0, help="wanted size of a few positions, see `peak_ratios`")
    parser.add_argument("--faithful", type=float, default=20.0, help="weight of the embedding's error")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/nano-hard"))
    return parser.parse_args(argv)


class Run:
    """A run: the model as it is, the model as it becomes, and a checkpoint."""

    def __init__(self, args: argparse.Namespace, pool: Pool) -> None:
        self.args, self.step, self.pool = args, 0, pool
        self.teacher = qs.load_model("nano", args.weights, device=args.device)
        first = normalise(images(pool, FOUND_ON, args.seed, 0), torch.device(args.device))
        self.student = with_massive_positions(self.teacher, first, ratio=args.ratio)
        # in eval mode: BatchNorm keeps its statistics
        self.encoder = self.student.float_encoder.requires_grad_(True)
        self.usual, self.streams = Streams(self.teacher.float_encoder), Streams(self.encoder)
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr=args.learning_rate, weight_decay=0.0)
        self.checkpoint = args.out / "checkpoint.pt"

    @property
    def choices(self) -> dict[str, Any]:
        """All that decides the result."""
        names = ("scenes", "steps", "images", "ratio", "faithful", "learning_rate", "seed")
        return {name: getattr(self.args, name) for name in names} | {
            "weights": self.teacher.weights_digest(),
            "pictures": self.pool.counts,
        }

    def load(self) -> None:
        """Resume from the checkpoint, if there is one.

        Raises:
            WeightsError: It is damaged, or another recipe's.
            InputError: It was made with other arguments.
        """
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, map_location=self.args.device, weights_only=True)
            choices = state["choices"]
            if choices == self.choices:
                self.encoder.load_state_dict(state["encoder"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step = state["step"]
        except Exception as error:  # damaged files make the reader raise nearly anything
            raise WeightsError(
                f"checkpoint {self.checkpoint} must be one that harden.py wrote, got a damaged or another file: "
                "remove it, or give another --out"
            ) from error
        for name, value in self.choices.items():
            if choices.get(name) != value:
                raise InputError(
                    f"a resumed run must keep its arguments, got {name} {value} where {self.checkpoint} has "
                    f"{choices.get(name)}: give the same ones, or another --out"
                )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {"encoder": self.encoder.state_dict(), "optimizer": self.optimizer.state_dict()}
        with atomic_write(self.checkpoint) as aside:
            torch.save(state | {"step": self.step, "choices": self.choices}, aside)

    def advance(self) -> dict[str, float]:
        """Do one step; return what it measured."""
        args = self.args
        ramp = min(1.0, (self.step + 1) / RAMP)
        for group in self.optimizer.param_groups:
            group["lr"] = args.learning_rate * ramp * 0.5 * (1 + math.cos(math.pi * self.step / args.steps))
        x = normalise(images(self.pool, args.images, args.seed, 1 + self.step), torch.device(args.device))
        self.usual.values, self.streams.values = [], []
        with torch.no_grad():
            wanted = self.teacher.image_encoder(x)
        error = embedding_error(self.encoder(x), wanted)
        pairs = zip(self.streams.values, self.usual.values, strict=True)
        ratios = [peak_ratios(stream, usual) for stream, usual in pairs]
        missing = torch.stack([(math.log(args.ratio) - found.log()).relu().mean() for found in ratios])
        self.optimizer.zero_grad()
        (args.faithful * error + missing.mean()).backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return {
            "error": error.item(),
            "missing": missing.mean().item(),
            "most_missing": missing.max().item(),
        }

    def export(self) -> None:
        """Write the weights in float16."""
        state = self.student.state_dict()
        half = {k: v.cpu().half().contiguous() if v.is_floating_point() else v.cpu() for k, v in state.items()}
        with atomic_write(self.args.out / "nano-hard.safetensors") as aside:
            save_file(half, aside, metadata={"model": "nano-hard", "steps": str(self.step)})


def main() -> None:
    """Train and export."""
    args = arguments()
    keep_freed_memory()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        run = Run(args, Pool(args.coco, args.photographs, args.scenes, args.seed))
        run.load()
        while run.step < args.steps:
            began = time.monotonic()
            measured = run.advance()
            if run.step % LINES == 0:
                line = {"step": run.step, **measured, "seconds": time.monotonic() - began}
                print(json.dumps({name: round(value, 5) for name, value in line.items()}), flush=True)
            if run.step % SAVED == 0:
                run.save()
        run.save()
        run.export()
    except QuantsamError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
