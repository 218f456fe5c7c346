"""The machine that a result was computed on: processor, instruction sets, versions. It imports none of the packages."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

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

_WINDOWS_FEATURES = {"avx2": 40, "avx512": 41, "dotprod": 43}  # PF_..._INSTRUCTIONS_AVAILABLE; without VNNI
_APPLE_KEYS = (
    "machdep.cpu.leaf7_features",
    "hw.optional.AdvSIMD",
    "hw.optional.arm.FEAT_DotProd",
    "hw.optional.arm.FEAT_I8MM",
)


def environment(*packages: str) -> dict[str, str]:
    """Describe the machine and the versions that a result depends on, without importing the packages.

    Args:
        packages: Further distributions to include, such as the engine's `onnxruntime`.

    Returns:
        `python`, `platform`, `machine`, `cpu`, `cpu_count`, `instruction_sets`, and each package's version or
        `not installed`; always `quantsam`, `torch` and `numpy`.
    """
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_count": str(os.cpu_count() or "unknown"),
        "instruction_sets": " ".join(instruction_sets()) or "unknown",
    }
    for package in ("quantsam", "torch", "numpy", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Return what the operating system reports about the processor: `avx2`, `avx512`, `avx512_vnni`, `dotprod`, ...

    Empty if it reports nothing.
    """
    readers = {"Linux": _linux, "Darwin": _macos, "Windows": _windows}
    return readers.get(platform.system(), tuple)()


def _cpu_name() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:  # not Linux
        described = ""
    match = re.search(r"^model name\s*:\s*(.+)$", described, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _linux() -> tuple[str, ...]:
    try:
        described = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return ()
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", described, re.MULTILINE)
    return _told(line[1].split() if line else ())


def _macos() -> tuple[str, ...]:
    """Return the flags that `sysctl` reports; it complains about keys that a Mac lacks, and prints the others."""
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
