"""The lowest package versions that quantsam works with, and the messages about older ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata

from quantsam.errors import QuantsamError

LOWEST = {
    "torch": "2.13",
    "numpy": "1.26",
    "pillow": "10.1",
    "click": "8.2",
    "rich": "13",
    "safetensors": "0.4",
    "huggingface_hub": "0.24",
    "pyarrow": "15",
    "faster-coco-eval": "1.6.5",
    "platformdirs": "4",
    "scipy": "1.11.1",
    "numba": "0.59",
    "onnx": "1.17",
    "onnxruntime": "1.22",
    "openvino": "2025.3",
    "tensorrt": "10.8",
    "optuna": "4",
    "ray": "2.40",
    "altair": "5.5",
    "vl-convert-python": "1.8",
    "jinja2": "3.1",
    "starlette": "0.47",
    "uvicorn": "0.30",
    "playwright": "1.48",
}
"""As pyproject.toml has them; `make test-floors` runs the tests with just these, but for tensorrt."""

QUANTIZE = ("torch", "numba", "onnx", "safetensors", "huggingface_hub", "pyarrow")
"""Packages of the extra `quantize`, as they are imported: without them bundles run, and results are read."""


class VersionError(QuantsamError):
    """An installed package is older than what quantsam needs."""


def check_version(distribution: str) -> None:
    """Check that an installed package is new enough. A package that is not installed passes.

    Raises:
        VersionError: The package is too old.
    """
    for problem in outdated([distribution]):
        raise VersionError(problem)


def outdated(distributions: Iterable[str] = tuple(LOWEST)) -> list[str]:
    """Return a line for each installed package that is too old for quantsam."""
    found = []
    for distribution in distributions:
        try:
            installed = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        lowest = LOWEST[distribution]
        if _numbers(installed) < _numbers(lowest):
            found.append(
                f"package {distribution} must be {lowest} or newer for quantsam, got {installed}: "
                f"pip install -U '{distribution}>={lowest}'"
            )
    return found


def missing(error: ModuleNotFoundError) -> str | None:
    """Return how to install a missing package of the extra `quantize`; None for any other package."""
    package = (error.name or "").partition(".")[0]
    if package not in QUANTIZE:
        return None
    way = "pip install pyarrow" if package == "pyarrow" else "pip install 'quantsam[quantize]'"  # results need no more
    return f"this needs the package {package}, which is not installed: {way}"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release numbers of a version, without what follows, such as `rc1` or `+cpu`.

    >>> _numbers("2.13.0+cpu"), _numbers("1.22rc1")
    ((2, 13), (1, 22))
    """
    release = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:  # 4 and 4.0.0 are the same
        numbers.pop()
    return tuple(numbers)
