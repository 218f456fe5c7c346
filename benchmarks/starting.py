"""Processor time of commands that run no network, beside that of `import torch`.

    python benchmarks/starting.py [--rounds 5]

Processes in turn, A B C A B C ..., median; user and system time of the process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from common import save

import quantsam as qs

QUANTSAM = [sys.executable, "-c", "from quantsam.cli.main import run; run()"]
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "quantsam --help": [*QUANTSAM, "--help"],
    "quantsam results": [*QUANTSAM, "results"],
    "quantsam schemes": [*QUANTSAM, "schemes"],
    "quantsam schemes int8": [*QUANTSAM, "schemes", "int8"],
    "quantsam layers nano": [*QUANTSAM, "layers", "nano"],
    "quantsam layers l0": [*QUANTSAM, "layers", "l0"],
}


def processor_s(command: list[str], folder: Path) -> float:
    """Run a command and return the processor seconds that it took."""
    environment = {**os.environ, "PYTHONPATH": str(Path(qs.__file__).parents[1]), "QUANTSAM_STORE": str(folder / "s")}
    before = os.times()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, cwd=folder)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Measure all in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds + 1):
            for name, command in COMMANDS.items():
                samples[name].append(processor_s(command, Path(folder)))
    seconds = {name: median(taken[1:]) for name, taken in samples.items()}  # the first compiles Python's files
    rows = {name: {"seconds": s, "times_import_torch": s / seconds["import torch"]} for name, s in seconds.items()}
    for name, row in rows.items():
        print(f"{name}: {row['seconds']:.2f} s, {row['times_import_torch']:.2f} times import torch")
    save("starting", {"rounds": args.rounds, "commands": rows})


if __name__ == "__main__":
    main()
