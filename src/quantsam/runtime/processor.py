"""What the processor's integer kernels compute: its instruction sets, and whether they add products in 32 bits.

The names of the instruction sets come from the operating system and are only told. Whether sums saturate is measured: a
probe with the largest codes runs in the engine itself, so that an unknown or future processor, an emulator or a limit set
by an environment variable cannot mislead.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import re
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np

from quantsam.runtime.sessions import SessionOptions, open_session

PROBE = "probe.onnx"
PROBE_SHAPE = (1, 32, 4, 4)

_NAMES = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "avx512vnni": "avx512_vnni",
    "amx_int8": "amx_int8",
    "asimd": "asimd",
    "advsimd": "asimd",
    "asimddp": "dotprod",
    "feat_dotprod": "dotprod",
    "i8mm": "i8mm",
    "feat_i8mm": "i8mm",
}
"""Operating systems' names of what integer kernels use, with the ones that are told."""

_WINDOWS_FEATURES = {"avx2": 40, "avx512": 41, "dotprod": 43}  # PF_..._INSTRUCTIONS_AVAILABLE; it knows no VNNI
_APPLE_KEYS = (
    "machdep.cpu.leaf7_features",
    "hw.optional.AdvSIMD",
    "hw.optional.arm.FEAT_DotProd",
    "hw.optional.arm.FEAT_I8MM",
)


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Return what the operating system tells of the processor: `avx2`, `avx512`, `avx512_vnni`, `dotprod`, ...

    Empty where it does not tell.
    """
    readers = {"Linux": _linux, "Darwin": _macos, "Windows": _windows}
    return readers.get(platform.system(), tuple)()


@functools.cache
def adds_in_32_bits(engine: str) -> bool:
    """Whether an engine's integer kernels add products in 32 bits on this processor.

    Without VNNI (or AMX), x86 kernels add pairs of them in 16 bits, which saturate.

    Args:
        engine: `onnxruntime` or `openvino`; TensorRT's kernels always do.

    Raises:
        EngineError: The engine is not installed.
    """
    if engine == "tensorrt":
        return True
    graph = resources.files(__package__).joinpath(PROBE).read_bytes()
    session = open_session(engine, graph, SessionOptions(threads=1, shapes={"in": PROBE_SHAPE}))
    found = session.run({"in": np.ones(PROBE_SHAPE, np.float32)})["out"]
    # 32 products of the largest codes; saturating pairs come to half of their sum
    return bool((found > 0.75 * PROBE_SHAPE[1]).all())


def processor_text(engine: str | None = None) -> str:
    """Say in a few words what this processor has.

    Args:
        engine: Say also how this engine's kernels add.
    """
    sets = " ".join(instruction_sets()) or f"unknown instruction sets ({platform.machine() or 'unknown machine'})"
    if engine is None:
        return sets
    how = "products added in 32 bits" if adds_in_32_bits(engine) else "pairs of products saturate at 16 bits"
    return f"{sets}; {engine}: {how}"


def inexact_message(what: str) -> str:
    """Say that a plan for VNNI does not suit this processor, and the way out.

    Args:
        what: The plan or bundle.
    """
    return (
        f"{what} is exact on processors with VNNI alone, got {processor_text('openvino')}: "
        "calibrate or export it with --processors any, or run it on onnxruntime"
    )


def _linux() -> tuple[str, ...]:
    try:
        described = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return ()
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", described, re.MULTILINE)
    return _told(line[1].split() if line else ())


def _macos() -> tuple[str, ...]:
    """Keys that a Mac lacks make `sysctl` complain and print the others."""
    try:
        answer = subprocess.run(["sysctl", *_APPLE_KEYS], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    found: list[str] = []
    for key, _, value in (line.partition(": ") for line in answer.stdout.splitlines()):
        found += [key.rpartition(".")[2]] if value.strip() == "1" else value.split()
    return _told(found)


def _windows() -> tuple[str, ...]:
    try:
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent  # type: ignore[attr-defined]
    except AttributeError:
        return ()
    return tuple(name for name, number in _WINDOWS_FEATURES.items() if present(number))


def _told(flags: object) -> tuple[str, ...]:
    assert isinstance(flags, (list, tuple))
    names = [_NAMES[flag.lower()] for flag in flags if flag.lower() in _NAMES]
    return tuple(dict.fromkeys(names))
