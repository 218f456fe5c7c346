"""Search formats for all layers, and confirm the front beside the hand-made schemes.

    python benchmarks/search.py [--searched scenes:300] [--scenes 200] [--coco COCO_FOLDER] [--only PART]

nano and nano-outlier as they are, nano-hard also repaired. Searched on scenes of seed 0; confirmed on scenes of another
seed and on photographs, which the search never saw.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import save
from search_tables import dominating

import quantsam as qs
from quantsam.data.dataset import Dataset
from quantsam.evaluation.journal import Outcomes
from quantsam.evaluation.prompts import parse_prompt
from quantsam.search.confirm import HAND_MADE, known_choices
from quantsam.search.costs import encoder_ms, latency_table
from quantsam.search.palette import Palette, make_palette
from quantsam.search.schemes import search_schemes
from quantsam.search.settings import SearchSettings
from quantsam.search.verify import Verifier
from quantsam.sensitivity.table import pictures_with_objects

FORMATS = ("float", "w8a16", "int8", "w4a8")
CALIBRATION = "scenes:32:1"
HELD_OUT_SEED = 3
REPAIRS = ("reflect", "streams", "migrate", "ranges")
SEARCHES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "nano": ("nano", "thesis", ()),
    "nano-outlier": ("nano-outlier", "thesis", ()),
    "nano-hard": ("nano-hard", "openvino", ()),
    "nano-hard-repaired": ("nano-hard", "openvino", REPAIRS),  # `reflect` needs BatchNorm folded
}
"""Model, placement and repairs of each search."""


def find(
    name: str, placement: str, repairs: Sequence[str], searched: str, held_out: dict[str, Dataset]
) -> dict[str, Any]:
    """Search one model, repaired or not, and return the schemes with what they lose on all data."""
    model = qs.load_model(name)
    started = time.perf_counter()
    palette = make_palette(model, FORMATS, qs.open_images(CALIBRATION), placement=placement, repairs=repairs)
    record = search_schemes(model, palette, qs.open_dataset(searched), SearchSettings())
    searching_s = time.perf_counter() - started
    entries = record.entries
    choices = {e.name: tuple(palette.formats.index(fmt) for fmt in e.formats) for e in entries}
    shown = [e.to_json_dict() for e in entries]
    for kind, dataset in held_out.items():
        ids = pictures_with_objects(dataset)
        verifier = Verifier(model, palette, dataset, ids, parse_prompt("box"), Outcomes())
        scores = verifier.score(list(choices.values()))
        for entry, choice in zip(shown, choices.values(), strict=True):
            score = scores[choice]
            entry[kind] = {"drop": score.drop, "drop_se": score.drop_se, "mask_loss": score.mask_loss}
    for hand in HAND_MADE:
        print(f"{name}: {hand} is dominated by {dominating(shown, hand, list(held_out))}", flush=True)
    return {
        "placement": placement,
        "repairs": list(repairs),
        "searched": searched,
        "entries": shown,
        "schemes_measured": record.figures["schemes"],
        "fp32_bytes": record.figures["float_cost"],
        "searching_s": searching_s,
    }


def latencies(engine: str, rounds: int) -> dict[str, Any]:
    """Return what an engine's cost table says of known schemes, and what a stopwatch says."""
    model = qs.load_model("nano")
    palette: Palette = make_palette(model, ("float", "int8"), qs.open_images(CALIBRATION), placement=engine)
    threads = torch.get_num_threads()
    table = latency_table(model, palette, engine, threads=threads, rounds=rounds)
    named = known_choices(model, palette)
    measured = encoder_ms(model, palette, engine, named, threads=threads, rounds=rounds)
    found = {n: {"predicted_ms": table.cost(c), "measured_ms": measured[n]} for n, c in named.items()}
    for name, times in found.items():
        print(f"{engine} {name}: table {times['predicted_ms']:.2f} ms, measured {times['measured_ms']:.2f} ms")
    return found


def main() -> None:
    """Do all searches, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--searched", default="scenes:300", help="the images that are searched on")
    parser.add_argument("--coco", type=Path, help="a COCO folder with val2017/ and annotations/")
    parser.add_argument("--only", choices=[*SEARCHES, "latency"], help="one part alone")
    parser.add_argument("--rounds", type=int, default=30, help="inferences a figure of latency")
    args = parser.parse_args()
    qs.keep_freed_memory()
    held_out: dict[str, Dataset] = {"scenes": qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)}
    if args.coco:
        held_out["photographs"] = qs.open_dataset(args.coco, crowds=False)
    parts = [args.only] if args.only else [*SEARCHES, "latency"]
    for part in parts:
        if part != "latency":
            save(f"search_{part}", find(*SEARCHES[part], args.searched, held_out))
    if "latency" in parts:
        save("search_latency", {engine: latencies(engine, args.rounds) for engine in ("onnxruntime", "openvino")})


if __name__ == "__main__":
    main()
