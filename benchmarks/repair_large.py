"""How long repairs of a full-size model take, and the most memory that they need.

    python benchmarks/repair_large.py [--model l0] [--images 16]

The weights are random, so nothing is said of accuracy: time and memory do not depend on them. Each repair is made
alone, calibration included; the last row is all of them together. One process a model, whose peak is the last row's.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import torch
from common import save
from engines import random_model

import quantsam as qs
from quantsam.repair.repair import repair_plan

ALONE = ("", "reflect", "streams", "shift", "migrate", "ranges", "bias")
TOGETHER = "reflect,streams,shift,migrate,ranges"


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l0")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--only-together", action="store_true")
    args = parser.parse_args()
    qs.keep_freed_memory()
    os.environ["QUANTSAM_CACHE"] = "off"
    model = random_model(args.model)
    images = qs.open_images(f"scenes:{args.images}:1")
    bare = qs.make_plan(model, "int8", args.engine)
    rows = []
    for names in (TOGETHER,) if args.only_together else (*ALONE, TOGETHER):
        started = time.perf_counter()
        plan = repair_plan(model, bare, images, names) if names else qs.calibrate(model, bare, images)
        seconds = time.perf_counter() - started
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append({"repairs": names or "none", "seconds": seconds, "peak_mib": peak_mib, "made": list(plan.repairs)})
        print(rows[-1], flush=True)
    threads = torch.get_num_threads()
    save(
        f"repair_{args.model}",
        {"model": args.model, "engine": args.engine, "images": args.images, "threads": threads, "rows": rows},
    )


if __name__ == "__main__":
    main()
