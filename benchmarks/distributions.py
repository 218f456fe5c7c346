"""What measuring distributions costs: time beside the encoder's, memory, and the size of a record.

python benchmarks/distributions.py [--model l0] [--images 4]
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from common import interleaved_ms, save

import quantsam as qs
from quantsam.diagnostics.observed import observe_distributions
from quantsam.plans.calibration import observe


def main() -> None:
    """Measure one model with random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l0")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    qs.keep_freed_memory()
    torch.manual_seed(0)
    model = qs.create_model(args.model)
    size = model.variant.input_size
    images = [torch.randn(1, 3, size, size) for _ in range(args.images)]
    plan = qs.calibrate(model, qs.make_plan(model, "int8"), images[:1])
    with torch.inference_mode():
        tasks = {
            "encoder_ms": lambda: model.image_encoder(images[0]),
            "calibrating_ms": lambda: observe(model, plan, images[:1]),
            "measuring_ms": lambda: observe_distributions(model, plan, images[:1]),
        }
        times = interleaved_ms(tasks, args.rounds)
    states = [observe_distributions(model, plan, images[:count]).state_bytes() / 2**20 for count in (1, args.images)]
    started = time.perf_counter()
    sites = observe_distributions(model, plan, images[:1]).summaries()
    record_mb = len(json.dumps([site.to_json_dict() for site in sites])) / 1e6
    print(f"{args.model}: {times}, state {states} MiB, {len(sites)} sites, record {record_mb:.1f} MB")
    print(f"one image and its summary: {time.perf_counter() - started:.1f} s")
    save(
        f"distributions_{args.model}",
        {
            "model": args.model,
            "sites": len(sites),
            "channels": sum(len(site.channel_lows) for site in sites),
            "threads": torch.get_num_threads(),
            "rounds": args.rounds,
            "times": times,
            "images": args.images,
            "state_one_image_mib": states[0],
            "state_mib": states[1],
            "record_mb": record_mb,
        },
    )


if __name__ == "__main__":
    main()
