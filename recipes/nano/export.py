"""Turn a training checkpoint into shipped weights: `python recipes/nano/export.py runs/nano/checkpoint.pt OUT`.

Takes the running average of the weights, in float16: 1.3 M parameters are 2.6 MB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from quantsam.files import atomic_write


def main() -> None:
    """Export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    state = torch.load(args.checkpoint, weights_only=True)
    weights = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in state["average"].items()
    }
    with atomic_write(args.out) as aside:
        save_file(weights, aside, metadata={"model": "nano", "steps": str(state["step"])})
    print(f"{args.out}: step {state['step']}, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
