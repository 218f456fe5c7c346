"""Train the nano variant: `python recipes/nano/train.py [--coco COCO_FOLDER] [--photographs FOLDER]`.

The decoder alone learns to fill boxes; then the whole model learns objects, at a constant learning rate for as long
as there is time. `--decay-from STEP --decay-steps N` ends the run: the rate falls to zero over N steps. A running
average of the weights is what is scored and exported; it is usable at any time.

Resumable: run the same command again and it goes on from its last checkpoint, to the same result.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from losses import DenseHeads
from network import VARIANT, build
from optimizers import make_optimizer
from photographs import Pool
from samples import Batch, StepDataset
from steps import Learner, step_loss
from torch import Tensor, nn
from torch.utils.data import DataLoader
from warmup import fill_boxes

from quantsam.errors import InputError, QuantsamError, WeightsError
from quantsam.memory import keep_freed_memory
from quantsam.models.variants import Variant
from quantsam.models.weights import read_checkpoint

RAMP = 200  # steps in which the learning rate rises, at the start of each of the two parts
SIDES = {160: 0.6, 224: 0.2, 320: 0.2}  # how often steps have windows of this side
LINES = 50  # steps between two lines of the log
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, help="a COCO folder with train2017/ to mix in")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs by source to mix in")
    parser.add_argument("--scenes", type=float, default=0.2, help="share of generated scenes; 1 without photographs")
    parser.add_argument("--pasting", type=float, default=0.3, help="share of windows with objects of other photographs")
    parser.add_argument(
        "--start", type=Path, help="weights to begin with; there are no steps of the decoder alone then"
    )
    parser.add_argument("--warmup", type=int, default=6000, help="steps of the decoder alone")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of all, unless a decay ends the run before")
    parser.add_argument("--decay-from", type=int, help="step at which the learning rate begins to fall")
    parser.add_argument("--decay-steps", type=int, default=6000, help="steps in which it falls to zero")
    parser.add_argument("--prompts", type=int, nargs=2, default=(2, 2), help="objects a window, by box and by clicks")
    parser.add_argument("--batch", type=_positive, default=1, help="how many times 8, 5 or 3 windows a step has")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--workers", type=_positive, default=1, help="processes that make windows")
    parser.add_argument("--minutes", type=float, help="stop after so long, to be resumed")
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--save-minutes", type=float, default=4.0, help="between two checkpoints")
    parser.add_argument("--keep-minutes", type=float, default=60.0, help="between two checkpoints that are kept")
    args = parser.parse_args(argv)
    args.warmup = 0 if args.start else args.warmup
    return args


def last_step(args: argparse.Namespace) -> int:
    """Return how many steps the run has."""
    if args.decay_from is None:
        return int(args.steps)
    return int(args.decay_from + args.decay_steps)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Return the rate of a step: a ramp, the constant rate, and a fall to zero once a decay was asked for."""
    since = step if step < args.warmup else step - args.warmup
    rate = args.learning_rate * min(1.0, (since + 1) / RAMP)
    if args.decay_from is not None and step >= args.decay_from:
        rate *= 1 - (step - args.decay_from) / args.decay_steps
    return float(rate)


def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the running average of weights and statistics towards the model's, faster at the start."""
    decay = min(0.9995, (1 + step) / (10 + step))
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    means, values = zip(*((mean, value) for mean, value in pairs if mean.is_floating_point()), strict=True)
    torch._foreach_lerp_(means, values, 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


class Run:
    """A training run: what is trained, its optimizer, its running average and its folder."""

    def __init__(self, args: argparse.Namespace, variant: Variant, pool: Pool) -> None:
        self.args, self.variant, self.pool = args, variant, pool
        device = torch.device(args.device)
        model = build(variant, args.seed)
        if args.start:
            model.load_state_dict(read_checkpoint(args.start, variant))
        model.to(device)
        self.learner = Learner(model, DenseHeads(variant.embed_dim).to(device), device, PRECISIONS[args.precision])
        self.average = copy.deepcopy(model).eval()
        self.trained = [*model.parameters(), *self.learner.heads.parameters()]
        self.optimizer = make_optimizer((model, self.learner.heads), args.learning_rate)
        self.step = 0
        self.checkpoint = args.out / "checkpoint.pt"

    @property
    def choices(self) -> dict[str, Any]:
        """All that decides the result but the end of the run."""
        names = ("scenes", "pasting", "warmup", "batch", "learning_rate", "seed")
        chosen = {name: getattr(self.args, name) for name in names}
        start = hashlib.sha256(self.args.start.read_bytes()).hexdigest() if self.args.start else None
        return {"start": start} | chosen | {"prompts": list(self.args.prompts), "pictures": self.pool.counts}

    def load(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            WeightsError: It is damaged, or of a model of another size.
            InputError: It was made with other arguments.
        """
        if not self.checkpoint.exists():
            return
        state = read_run(self.checkpoint)
        if state["variant"] != dataclasses.asdict(self.variant):
            differing = [k for k, v in dataclasses.asdict(self.variant).items() if state["variant"].get(k) != v]
            raise WeightsError(
                f"checkpoint {self.checkpoint} must be of this recipe's size, got another {', '.join(differing)}: "
                "give another --out"
            )
        for name, value in self.choices.items():
            if state["choices"].get(name) != value:
                raise InputError(
                    f"a resumed run must keep its arguments, got {name} {value} where {self.checkpoint} has "
                    f"{state['choices'].get(name)}: give the same ones, or another --out"
                )
        if not isinstance(state["optimizer"], list):
            raise WeightsError(f"checkpoint {self.checkpoint} is of a recipe without Muon: give another --out")
        self.learner.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.learner.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self, path: Path) -> None:
        """Write a checkpoint aside, then rename it."""
        state = {
            "model": self.learner.model.state_dict(),
            "average": self.average.state_dict(),
            "heads": self.learner.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "variant": dataclasses.asdict(self.variant),
            "choices": self.choices,
        }
        aside = path.with_suffix(".tmp")
        torch.save(state, aside)
        aside.replace(path)

    def advance(self, batch: Batch | None) -> None:
        """Do one step; without a batch it is one of the decoder alone."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.args)
        if batch is None:
            generator = torch.Generator().manual_seed(self.args.seed * 1_000_000 + self.step)
            even = max(0.0, 1 - self.step / 200)
            filled = fill_boxes(self.learner.model, even, generator)
            self.learner.note(filled=filled.boxes.chosen.mean(), guessed=filled.clicks.iou.amax(1).mean())
            loss: Tensor = filled.loss
        else:
            generator = torch.Generator(self.learner.device).manual_seed(self.args.seed * 1_000_000_000 + self.step)
            loss = step_loss(self.learner, batch, generator)
        self.learner.note(loss=loss)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.learner.note(gradient=nn.utils.clip_grad_norm_(self.trained, 1.0))
        self.optimizer.step()
        update_average(self.average, self.learner.model, self.step)
        self.step += 1

    def batches(self, end: int) -> Iterator[Batch | None]:
        """Yield what the steps from this one to `end` need, made ahead in worker processes."""
        for _ in range(self.step, min(end, self.args.warmup)):
            yield None
        steps = range(max(self.step, self.args.warmup), end)
        if not steps:
            return
        data = StepDataset(
            self.args.seed,
            self.pool,
            sides=SIDES,
            prompts=tuple(self.args.prompts),
            pasting=self.args.pasting,
            batch=self.args.batch,
        )
        yield from DataLoader(
            data,
            None,
            sampler=steps,
            num_workers=self.args.workers,
            prefetch_factor=6,
            collate_fn=_same,
            worker_init_fn=_end_with_parent,
        )


def _same(batch: Any) -> Any:
    return batch


def _end_with_parent(worker: int) -> None:
    """End the worker process soon after a killed run: its own check waits for ever once its queue is full."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def read_run(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this recipe.

    Raises:
        WeightsError: It is damaged, or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the reader raise nearly anything
        raise WeightsError(f"checkpoint {path} is damaged: remove it, or rename a kept one to its name") from error
    if not isinstance(state, dict) or not {"variant", "choices", "average", "step"} <= state.keys():
        raise WeightsError(f"checkpoint {path} must be one that train.py wrote, got another file: give another --out")
    return state


def train(run: Run) -> None:
    """Do all steps that are left, and keep a log."""
    end, args = last_step(run.args), run.args
    began, first = time.perf_counter(), run.step
    started = saved = kept = began
    for batch in run.batches(end):
        run.advance(batch)
        now = time.perf_counter()
        if run.step % LINES == 0 or run.step == end:
            found = sorted(run.learner.seen.items())
            seen = {name: round(torch.stack(values).mean().item(), 4) for name, values in found}
            now = time.perf_counter()
            run.learner.seen.clear()
            line = {"step": run.step, **seen, "seconds_per_step": round((now - started) / (run.step - first), 3)}
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
            started, first = now, run.step
        if now - saved > 60 * args.save_minutes or run.step == end:
            run.save(run.checkpoint)
            saved = now
        if now - kept > 60 * args.keep_minutes:
            run.save(args.out / f"checkpoint-{run.step:07d}.pt")
            kept = now
        if args.minutes is not None and now - began > 60 * args.minutes:
            run.save(run.checkpoint)
            return


def main() -> None:
    """Train, or go on training."""
    args = arguments()
    keep_freed_memory()
    if torch.device(args.device).type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 in the products that stay float32
    try:
        pool = Pool(args.coco, args.photographs, args.scenes, args.seed)
        run = Run(args, VARIANT, pool)
        args.out.mkdir(parents=True, exist_ok=True)
        run.load()
        print({"pictures": pool.counts, "from_step": run.step, "process": os.getpid()}, flush=True)
        train(run)
    except QuantsamError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
