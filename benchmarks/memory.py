"""Peak memory of loading, calibrating and simulating a model, each in a process of its own.

python benchmarks/memory.py [--model xl1]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from common import save

import quantsam as qs

STEPS = ("model", "fp32", "calibrate", "simulate")


def run(name: str, step: str) -> None:
    """Do everything up to a step and print the peak resident memory of this process in MiB."""
    torch.manual_seed(0)
    model = qs.create_model(name)
    size = model.variant.input_size
    image = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        if step == "fp32":
            model.image_encoder(image)
        elif step in ("calibrate", "simulate"):
            plan = qs.calibrate(model, qs.make_plan(model, "int8"), [image])
            if step == "simulate":
                qs.simulate(model, plan)(image)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure every step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="xl1")
    parser.add_argument("--step", choices=STEPS, help="run one step in this process")
    args = parser.parse_args()
    if args.step:
        run(args.model, args.step)
        return
    peaks = {}
    for step in STEPS:
        command = [sys.executable, __file__, "--model", args.model, "--step", step]
        peaks[f"{step}_peak_mib"] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{step:10} {peaks[f'{step}_peak_mib']:8.0f} MiB")
    save(f"memory_{args.model}", {"model": args.model, **peaks})


if __name__ == "__main__":
    main()
