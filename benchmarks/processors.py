"""Agreement on a processor without VNNI: engines as on Intel's Haswell (AVX2), simulated and deployed.

    apt-get install qemu-user
    python benchmarks/processors.py [--scenes 60] [--models nano nano-outlier] [--schemes int8 mix-mbc-neck]

Where this processor has VNNI, ONNX Runtime runs in QEMU's user emulation (`qemu-x86_64 -cpu Haswell-v1`), a second or
two an image, and OpenVINO runs with its kernels limited to AVX2 (ONEDNN_MAX_CPU_ISA); it gives the same bits in the
emulator. Where it has none, both run as they are. Each scheme is deployed as it is by default, and made for VNNI alone.
"""

from __future__ import annotations

import os

os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"  # before OpenVINO is loaded

import argparse
import dataclasses
import io
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import save

import quantsam as qs
from quantsam.diagnostics.agreement import measure_agreement
from quantsam.engines import encoder
from quantsam.notices import InexactWarning
from quantsam.repair.calibrated import calibrated_plans
from quantsam.runtime.engines import ENGINES
from quantsam.runtime.onnxruntime import OnnxRuntimeSession
from quantsam.runtime.processor import adds_in_32_bits
from quantsam.runtime.sessions import Array, Session, SessionOptions

CALIBRATION = "scenes:32:1"
HELD_OUT_SEED = 3
PLACEMENTS = ("onnxruntime", "openvino", "onnxruntime+vnni", "openvino+vnni")
QEMU = ("qemu-x86_64", "-cpu", "Haswell-v1")
CHILD = """
import io, sys
import numpy as np
from quantsam.runtime.processor import adds_in_32_bits
from quantsam.runtime.engines import open_session
from quantsam.runtime.sessions import SessionOptions

def read():
    size = int(sys.stdin.buffer.readline())
    return sys.stdin.buffer.read(size)

session = open_session(sys.argv[1], read(), SessionOptions(1, wide_sums=sys.argv[2] == "True"))
assert not adds_in_32_bits(sys.argv[1])
while True:
    with np.load(io.BytesIO(read())) as inputs:
        found = session.run(dict(inputs))
    out = io.BytesIO()
    np.savez(out, **found)
    content = out.getvalue()
    sys.stdout.buffer.write(b"%d\\n" % len(content) + content)
    sys.stdout.buffer.flush()
"""


class EmulatedSession:
    """A graph in an engine on an emulated processor; `handle` is the engine's own object on this one."""

    def __init__(self, native: Session, graph: bytes, options: SessionOptions) -> None:
        self.engine, self.handle = native.engine, native.handle
        self._child = subprocess.Popen(
            [*QEMU, sys.executable, "-c", CHILD, native.engine, str(options.wide_sums)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path(qs.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        )
        self._send(graph)

    def _send(self, content: bytes) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(b"%d\n" % len(content) + content)
        self._child.stdin.flush()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        given = io.BytesIO()
        np.savez(given, **inputs)  # type: ignore[arg-type]
        self._send(given.getvalue())
        assert self._child.stdout is not None
        content = self._child.stdout.read(int(self._child.stdout.readline()))
        with np.load(io.BytesIO(content)) as found:
            return dict(found)


def open_emulated(model: bytes | Path, options: SessionOptions) -> Session:
    """Open a graph in ONNX Runtime as on a processor without VNNI."""
    assert isinstance(model, bytes)
    return EmulatedSession(OnnxRuntimeSession(model, options), model, options)


def main() -> None:
    """Compare everything that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--models", nargs="+", default=["nano", "nano-outlier"])
    parser.add_argument("--schemes", nargs="+", default=["int8", "mix-mbc-neck"])
    args = parser.parse_args()
    is_emulated = adds_in_32_bits("onnxruntime")
    if is_emulated:
        if shutil.which(QEMU[0]) is None:
            parser.error(f"{QEMU[0]} is needed, it is not installed: apt-get install qemu-user")
        ENGINES["onnxruntime"] = dataclasses.replace(ENGINES["onnxruntime"], opener=f"{__name__}:open_emulated")
    qs.keep_freed_memory()
    setattr(encoder, "adds_in_32_bits", lambda engine: False)  # noqa: B010
    warnings.simplefilter("ignore", InexactWarning)
    dataset = qs.SceneDataset(args.scenes, seed=HELD_OUT_SEED)
    started = time.perf_counter()
    records: list[dict[str, Any]] = []
    for name in args.models:
        model = qs.load_model(name)
        for scheme in args.schemes:
            images = qs.open_images(CALIBRATION)
            plans = [calibrated_plans(model, [qs.load_scheme(scheme)], images, p)[0] for p in PLACEMENTS]
            for record in measure_agreement(model, plans, dataset, exact=True):
                records.append(record.to_json_dict())
                said, f = record.verdict, record.figures
                print(
                    f"{name} {record.label} {record.engine}: {f['gap']:+.3f}, {f['mask_iou']:.2f}: {said}", flush=True
                )
    seconds = time.perf_counter() - started
    save("processors", {"seconds": seconds, "scenes": args.scenes, "emulated": is_emulated, "records": records})


if __name__ == "__main__":
    main()
