"""Time calibration and simulation against the float encoder, side by side in one run.

    python benchmarks/speed.py [--model l0] [--rounds 9]

Weights are random: they change no time. Targets: calibrating at most 1.4 times, simulating at most
1.2 times the float encoder's own time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from common import interleaved_ms, save

import quantsam as qs
from quantsam.data.scenes import make_scene
from quantsam.memory import keep_freed_memory
from quantsam.plans.observation import observe_activations
from quantsam.prediction.transforms import preprocess


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l0")
    parser.add_argument("--scheme", default="int8")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()  # as the command line does
    torch.manual_seed(0)
    model = qs.create_model(args.model)
    encoder, size = model.float_encoder, model.variant.input_size
    images = [preprocess(make_scene(seed, size=512).image, size) for seed in range(3)]
    plan = qs.calibrate(model, qs.make_plan(model, args.scheme), images)
    simulated, unfused = qs.simulate(model, plan), qs.simulate(model, plan, fused=False)
    sites = {site.key: (site.path, site.spec) for site in plan.sites if site.role == "activation"}
    embedding = encoder(images[0]).detach()
    box = torch.tensor([[100.0, 150.0, 600.0, 700.0]])
    with torch.inference_mode():
        times = interleaved_ms(
            {
                "fp32_encoder_ms": lambda: encoder(images[0]),
                "calibrating_ms": lambda: observe_activations(encoder, sites, images[:1]),
                "simulating_ms": lambda: simulated(images[0]),
                "simulating_unfused_ms": lambda: unfused(images[0]),
                "one_box_ms": lambda: model.decode(embedding, boxes=box),
            },
            args.rounds,
        )
    ratios = {
        name.removesuffix("_ms"): times[name] / times["fp32_encoder_ms"] for name in times if name != "one_box_ms"
    }
    started = time.perf_counter()
    for seed in range(300):
        make_scene(seed)
    scenes = 300 / (time.perf_counter() - started)
    for name, value in times.items():
        print(f"{name:24} {value:9.1f}   {ratios.get(name.removesuffix('_ms'), np.nan):5.2f} x fp32")
    print(f"scenes a second          {scenes:9.1f}")
    save(
        f"speed_{args.model}",
        {
            "model": args.model,
            "scheme": args.scheme,
            "threads": torch.get_num_threads(),
            "rounds": args.rounds,
            "times": times,
            "ratios_to_fp32": ratios,
            "scenes_per_s": scenes,
        },
    )


if __name__ == "__main__":
    main()
