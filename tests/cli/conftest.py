"""Fixtures for the command line."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantsam.cli.main import main

# A shell ignores Ctrl-C for what it runs in the background, and children inherit that.
_HEEDS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND = [sys.executable, "-c", _HEEDS_CTRL_C + "from quantsam.cli.main import run; run()"]


@contextmanager
def one_thread():
    """Waiting for a second thread costs twenty times the work on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        assert self.code == 0, self.err
        return json.loads(self.out)

    def complains(self, code, *words):
        """Check for exactly one line on standard error with these words, nothing on standard output."""
        assert self.code == code, (self.code, self.err)
        assert self.out == ""
        assert self.err.startswith("quantsam: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        assert [word for word in words if word not in self.err] == [], self.err


@pytest.fixture
def run(capsys):
    """Run `quantsam ...` in this process."""

    def call(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def start():
    """Start `quantsam ...` as a process of its own."""

    started = []

    def call(*arguments, **environment):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()  # of no effect on one that ended
        process.communicate()


@pytest.fixture
def tiny_nano(tiny, monkeypatch):
    """Commands take `tiny` for nano: where it is no matter what is found, and how well."""

    def load(name, *given, **options):
        assert name == "nano"
        return tiny

    for place in ("quantsam.runs.run.load_model", "quantsam.models.zoo.load_model"):
        monkeypatch.setattr(place, load)


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    """Two toy scenes as a COCO folder; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    assert main(["data", "scenes", str(folder), "--count", "2", "--size", "64"]) == 0
    return folder


@pytest.fixture(scope="session")
def plan(tmp_path_factory):
    """An int8 plan for nano; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("plans") / "int8"
    with one_thread():
        assert main(["calibrate", "--scheme", "int8", "--calibration", "scenes:1:1", "--out", str(folder)]) == 0
    return folder


def left_in(folder):
    """Return all that is below a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def left():
    """Give `left_in`."""
    return left_in


@pytest.fixture
def own_coco(coco, tmp_path):
    """A copy of the toy COCO folder that may be changed."""
    return Path(shutil.copytree(coco, tmp_path / "toy"))


def annotation_file(folder):
    """The annotations of a toy COCO folder."""
    return folder / "annotations" / "instances_val2017.json"


def edit(folder, change):
    """Change the annotations of a toy COCO folder, and return them."""
    path = annotation_file(folder)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return document
