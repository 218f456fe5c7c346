"""Score a checkpoint: `python recipes/nano/score.py RUN_OR_FILE [--coco FOLDER] [--photographs FOLDER]`.

Boxes, one click and five clicks on COCO val2017 and on scenes, each size of objects beside the filled box; boxes and
one click on the photographs that are held out, a source a line. A part of the pictures unless `--all` is given.
`--out benchmarks/results/nano_scores.json` is what the documentation's table is made from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from network import VARIANT
from photographs import HELD_OUT_FILE, file_names, open_photographs, source_of
from train import read_run

from quantsam.data.coco import CocoDataset
from quantsam.data.dataset import Dataset
from quantsam.data.scenes import SceneDataset
from quantsam.errors import QuantsamError, WeightsError
from quantsam.evaluation.evaluator import evaluate
from quantsam.files import atomic_write
from quantsam.memory import keep_freed_memory
from quantsam.metrics.summary import AREA_RANGES
from quantsam.models.sam import EfficientViTSam
from quantsam.models.variants import Variant
from quantsam.models.weights import read_checkpoint
from quantsam.results.machine import environment
from quantsam.results.record import utc_now

PART = {"coco": 50, "scenes": 40, "source": 8}  # pictures of each, unless all are scored


class Chosen:
    """Some pictures of a dataset, as a dataset."""

    def __init__(self, data: Dataset, ids: Sequence[int], name: str) -> None:
        self._data, self.image_ids, self.name = data, ids, name
        self.image, self.annotations, self.mask = data.image, data.annotations, data.mask

    @property
    def digest(self) -> str:
        """A name for the pictures."""
        return f"{self._data.digest}-{self.name}"


def load(path: Path) -> tuple[EfficientViTSam, int | None]:
    """Return the model with a run's running average, or with an exported file's weights; and the run's step.

    Raises:
        WeightsError: It is neither.
    """
    file = path / "checkpoint.pt" if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"what is scored must be a run's folder or a file of weights, got {path}: check the path")
    if file.suffix == ".safetensors":
        model, step = EfficientViTSam(VARIANT), None
        model.load_state_dict(read_checkpoint(file, VARIANT))
    else:
        state = read_run(file)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in state["variant"].items()}
        model, step = EfficientViTSam(Variant(**values)), int(state["step"])
        model.load_state_dict(state["average"])
    return model.eval().requires_grad_(False), step


def held_out_photographs(folder: Path, per_source: int | None) -> list[Chosen]:
    """Return the held-out pictures of each source, as many as asked for."""
    data, out = open_photographs(folder), set(json.loads(HELD_OUT_FILE.read_text()))
    names = file_names(data)
    chosen: dict[str, list[int]] = {}
    for image_id in data.image_ids:
        if names[image_id] in out:
            chosen.setdefault(source_of(names[image_id]), []).append(image_id)
    return [Chosen(data, ids[:per_source], f"held out: {source}") for source, ids in sorted(chosen.items())]


def score(model: EfficientViTSam, data: Dataset, prompts: str) -> dict[str, Any]:
    """Return the mean IoU by size beside the filled box's, in percent, and how many objects there are."""
    figures = evaluate(model, data, prompts=prompts).figures
    row: dict[str, Any] = {"dataset": data.name, "prompts": prompts}
    for name in AREA_RANGES:
        suffix = "" if name == "all" else f"_{name}"
        if figures[f"count{suffix}"]:
            parts = (figures[f"miou{suffix}"], figures[f"box_fill_miou{suffix}"], figures[f"count{suffix}"])
            row[name] = [round(float(part or 0), 1) for part in parts[:2]] + [parts[2]]
    return row


def main() -> None:
    """Score, and print a line for each dataset and kind of prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a folder that train.py wrote, a checkpoint, or exported weights")
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs by source")
    parser.add_argument("--prompts", nargs="+", default=["box", "click", "clicks:5"])
    parser.add_argument("--all", action="store_true", help="all pictures, and 1,000 scenes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    try:
        model, step = load(args.path)
        part: dict[str, int | None] = dict.fromkeys(PART) if args.all else dict(PART)
        sets: list[Dataset] = [SceneDataset(part["scenes"] or 1000, seed=3)]
        if args.coco:
            sets.insert(0, CocoDataset(args.coco, limit=part["coco"]))
        rows = [(data, prompts) for data in sets for prompts in args.prompts]
        if args.photographs:
            sources = held_out_photographs(args.photographs, part["source"])
            rows += [(data, prompts) for data in sources for prompts in args.prompts if prompts != "clicks:5"]
        lines = []
        for data, prompts in rows:
            lines.append(score(model, data, prompts) | ({} if step is None else {"step": step}))
            print(json.dumps(lines[-1]), flush=True)
        if args.out:
            digest = hashlib.sha256(args.path.read_bytes()).hexdigest() if args.path.is_file() else None
            found = {"weights_sha256": digest, "scores": lines}
            with atomic_write(args.out) as aside:
                aside.write_text(
                    json.dumps({"created_utc": utc_now(), "environment": environment()} | found, indent=1) + "\n"
                )
    except QuantsamError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
