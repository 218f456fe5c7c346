"""Run every graph of a folder in its engine; started under an emulator of another processor, without PyTorch.

NAME.onnx is given what NAME.npz holds, as NAME.json says (`engine`, `wide_sums`): `images`, one at a time, as `input`;
or, without one, all arrays by their names. Its outputs go to NAME.out.npz.
"""

import json
import sys
from pathlib import Path

import numpy as np

from quantsam.runtime.engines import open_session
from quantsam.runtime.processor import adds_in_32_bits
from quantsam.runtime.sessions import SessionOptions


def main(folder):
    for described in sorted(folder.glob("*.json")):
        told = json.loads(described.read_text())
        session = open_session(
            told["engine"],
            described.with_suffix(".onnx").read_bytes(),
            SessionOptions(1, wide_sums=told.get("wide_sums", False), shapes=told.get("shapes")),
        )
        with np.load(described.with_suffix(".npz")) as inputs:
            if "input" in told:
                outputs = [session.run({told["input"]: image[None]}) for image in inputs["images"]]
            else:
                outputs = [session.run(dict(inputs))]
        found = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
        np.savez(described.with_suffix(".out.npz"), **found)
    for engine in sys.argv[2:]:
        sys.stdout.write(f"{engine} {adds_in_32_bits(engine)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
