"""What `keep_freed_memory` brings: the FP32 encoder with and without it, processes in turn.

python benchmarks/freed_memory.py [--model l0] [--processes 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

import torch
from common import save

import quantsam as qs
from quantsam.memory import keep_freed_memory


def run(name: str, keep: bool) -> None:
    """Print the median milliseconds of an image and the peak resident memory of this process in MiB."""
    assert not keep or keep_freed_memory()
    model = qs.create_model(name)
    image = torch.randn(1, 3, model.variant.input_size, model.variant.input_size)
    samples = []
    with torch.inference_mode():
        model.image_encoder(image)
        for _ in range(9):
            started = time.perf_counter()
            model.image_encoder(image)
            samples.append(1000 * (time.perf_counter() - started))
    print(json.dumps([median(samples), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="l0")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--one", choices=("given back", "kept"), help="run one in this process")
    args = parser.parse_args()
    if args.one:
        run(args.model, args.one == "kept")
        return
    found: dict[str, list[list[float]]] = {"given back": [], "kept": []}
    for _ in range(args.processes):
        for one, results in found.items():
            command = [sys.executable, __file__, "--model", args.model, "--one", one]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    ways = {
        one: {"ms": median(r[0] for r in results), "peak_mib": max(r[1] for r in results)}
        for one, results in found.items()
    }
    for one, way in ways.items():
        print(f"{one:12} {way['ms']:7.0f} ms {way['peak_mib']:7.0f} MiB")
    save("freed_memory", {"model": args.model, "processes": args.processes, "ways": ways})


if __name__ == "__main__":
    main()
