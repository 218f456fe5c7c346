"""Turn a training run into shipped weights: `python recipes/nano/export.py runs/nano OUT`.

Takes the running average of the weights, in float16. Writes the run's summary, one line of its log for every
thousand steps, to `summary.json` beside this file; where the run began with the weights whose summary lies there, that
summary is kept in it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from photographs import HELD_OUT_FILE
from safetensors.torch import save_file
from train import read_run

from quantsam.files import atomic_write
from quantsam.results.machine import environment


def main() -> None:
    """Export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder that train.py wrote")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    state = read_run(args.run / "checkpoint.pt")
    weights = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in state["average"].items()
    }
    with atomic_write(args.out) as aside:
        save_file(weights, aside, metadata={"model": "nano", "steps": str(state["step"])})
    lines = {line["step"]: line for line in map(json.loads, (args.run / "log.jsonl").read_text().splitlines())}
    summary = {
        "variant": state["variant"],
        "choices": state["choices"],
        "steps": state["step"],
        "held_out": hashlib.sha256(HELD_OUT_FILE.read_bytes()).hexdigest(),
        "environment": environment("pillow", "scipy"),
        "sha256": hashlib.sha256(args.out.read_bytes()).hexdigest(),
        "log": [line for step, line in sorted(lines.items()) if step % 1000 == 0],
    }
    file = Path(__file__).with_name("summary.json")
    before = json.loads(file.read_text())
    if before["sha256"] == state["choices"].get("start"):
        summary["start"] = {key: value for key, value in before.items() if key != "variant"}
    with atomic_write(file) as aside:
        aside.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{args.out}: step {state['step']}, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
