"""How a sweep scales over workers: threads of one process, and Ray's actors.

python benchmarks/sweep.py [--images 150]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import save

from quantsam.memory import keep_freed_memory
from quantsam.results.store import ResultStore
from quantsam.sweeps.driver import run_sweep
from quantsam.sweeps.point import make_point
from quantsam.sweeps.ray_runner import RayRunner
from quantsam.sweeps.runners import LocalRunner, Runner
from quantsam.sweeps.sweep import Sweep, make_sweep


def seconds(sweep: Sweep, make: Callable[[], Runner]) -> float:
    """Do a sweep into a fresh store; the start of the workers does not count."""
    runner = make()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        progress = run_sweep(sweep, ResultStore(Path(folder) / "r.sqlite"), lambda shelf: runner)
        spent = time.perf_counter() - started
    assert not progress.failed
    return spent


def main() -> None:
    """Time 1 and 2 workers of both runners, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=150)
    args = parser.parse_args()
    keep_freed_memory()
    base = {"data": f"scenes:{args.images}:5", "calibration": "scenes:32:1"}
    grid = itertools.product(("fp32", "int8", "mix-dwsc"), ("box", "click"))
    points = [make_point({**base, "scheme": scheme, "prompts": prompts}, "benchmark") for scheme, prompts in grid]
    sweep = make_sweep("scaling", points)
    found: dict[str, dict[str, float]] = {"local": {}, "ray": {}}
    for workers in (1, 2):
        found["local"][str(workers)] = seconds(sweep, lambda n=workers: LocalRunner(workers=n))  # type: ignore[misc]
    for workers in (1, 2):
        found["ray"][str(workers)] = seconds(sweep, lambda n=workers: RayRunner(workers=n))  # type: ignore[misc]
    for runner, times in found.items():
        print(
            f"{runner}: 1 worker {times['1']:.1f} s, 2 workers {times['2']:.1f} s, {times['1'] / times['2']:.2f} times"
        )
    save("sweep", {"points": len(points), "pictures": args.images, "seconds": found})


if __name__ == "__main__":
    main()
