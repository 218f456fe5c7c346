"""Declared floors: one place in the code, one in pyproject.toml, one for the job that tests them; all say the same."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from quantsam import versions
from quantsam.errors import EngineError
from quantsam.runtime.sessions import require
from quantsam.versions import LOWEST, VersionError, check_version, outdated

REPOSITORY = Path(__file__).resolve().parents[2]


def declared():
    """Every range of pyproject.toml by distribution."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {
        name: lines for name, lines in project["optional-dependencies"].items() if name not in ("dev", "docs", "bench")
    }
    lines = [*project["dependencies"], *(line for several in extras.values() for line in several)]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines)


def test_the_code_knows_every_declared_floor():
    assert declared() == LOWEST


def test_the_job_tests_every_declared_floor():
    lines = (REPOSITORY / "constraints-floors.txt").read_text("utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name, lowest in LOWEST.items():
        if name != "tensorrt":  # needs a GPU
            assert versions._numbers(tested[name]) == versions._numbers(lowest), name


def installed(monkeypatch, **found):
    def version(name):
        if name in found:
            return found[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions.metadata, "version", version)


@pytest.mark.parametrize(("version", "fits"), [("1.20.1", False), ("1.22", True), ("1.22.0rc1", True), ("2.0", True)])
def test_an_old_package_is_named_with_what_is_needed(monkeypatch, version, fits):
    installed(monkeypatch, onnxruntime=version)
    assert bool(outdated()) is not fits
    if not fits:
        with pytest.raises(
            VersionError,
            match=r"^package onnxruntime must be 1\.22 or newer for quantsam, got 1\.20\.1: "
            r"pip install -U 'onnxruntime>=1\.22'$",
        ):
            require("onnxruntime")


def test_what_is_not_installed_is_not_old(monkeypatch):
    installed(monkeypatch)
    check_version("faster-coco-eval")
    monkeypatch.setattr("quantsam.runtime.sessions.find_spec", lambda _: None)
    with pytest.raises(EngineError, match="pip install 'quantsam"):
        require("openvino")


def test_the_extra_quantize_is_known_to_who_misses_it():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    packages = [line.partition(">")[0] for line in project["optional-dependencies"]["quantize"]]
    assert sorted(versions.QUANTIZE) == sorted(packages)
    line = versions.missing(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"))
    assert line == "this needs the package torch, which is not installed: pip install 'quantsam[quantize]'"
    line = versions.missing(ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow"))
    assert line == "this needs the package pyarrow, which is not installed: pip install pyarrow"
    assert versions.missing(ModuleNotFoundError("No module named 'mine'", name="mine")) is None


def test_four_is_four_point_zero():
    assert versions._numbers("4") == versions._numbers("4.0.0")
    assert versions._numbers("10.1") < versions._numbers("10.10")
