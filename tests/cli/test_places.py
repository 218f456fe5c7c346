"""Machines where hardly anything can be written: read-only installations, containers of users without a home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import quantsam

PACKAGE = Path(quantsam.__file__).parent
RUN = "import sys; from quantsam.cli.main import main; sys.exit(main(sys.argv[1:]))"
EVALUATE = ("evaluate", "--data", "scenes:1", "--scheme", "int8", "--calibration", "scenes:1:1", "--gallery", "0")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the package without compiled kernels, which nobody may write."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(PACKAGE, folder / "quantsam", ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)


@pytest.fixture
def machine(installed, tmp_path):
    """Runs a command where the package cannot be written and HOME cannot be made; more places may be read-only."""
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()

    def call(*arguments, read_only=(), **variables):
        places = [str(installed), *map(str, read_only)]
        line = [sys.executable, "-c", RUN, *arguments]
        if os.getuid() == 0:  # whom mode bits do not stop
            mounts = " && ".join(f"mount --bind '{p}' '{p}' && mount -o remount,ro,bind '{p}'" for p in places)
            line = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *line]
            if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
                pytest.skip("needs a mount name space of its own, or another user than root")
        else:
            for place in places:
                subprocess.run(["chmod", "-R", "a-w", place], check=True)
        environment = {"PATH": os.environ["PATH"], "HOME": "/proc/nohome", "TMPDIR": str(tmp_path / "tmp")}
        environment |= {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        found = subprocess.run(
            line, cwd=tmp_path / "work", env=environment | variables, capture_output=True, text=True, check=False
        )
        for place in read_only:
            subprocess.run(["chmod", "-R", "u+w", place], check=True)
        return found

    return call


def test_a_temporary_place_takes_what_the_home_cannot(machine, tmp_path):
    mine = tmp_path / "tmp" / f"quantsam-{os.getuid()}"
    ran = machine(*EVALUATE)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("\n") == 1
    assert f"results go to {mine}/results.sqlite, which does not outlast" in ran.stderr
    assert list((mine / "kernels").rglob("*.nbc"))
    assert "1 result" in machine("results").stdout  # found where they were put
    assert machine(*EVALUATE, "--no-store").stderr == ""  # nothing is lost


@pytest.mark.slow  # every process compiles its kernels anew
def test_where_nothing_at_all_can_be_written_the_figures_are_shown(machine, tmp_path):
    nothing = {"read_only": [tmp_path / "tmp", tmp_path / "work", "/tmp", "/var/tmp", "/dev/shm"]}
    if os.getuid():
        pytest.skip("only root can make these read-only")
    ran = machine(*EVALUATE, **nothing)
    assert ran.returncode == 0, ran.stderr
    assert "int8" in ran.stdout
    told = ran.stderr.splitlines()
    assert len(told) == 2
    assert "compiled kernels cannot be kept" in told[0]
    assert "results are not kept" in told[1]
    refused = machine("report", **nothing)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


def test_a_store_that_was_named_is_never_replaced_by_another(machine):
    for named in (("--store", "/proc/x.sqlite"), ()):
        variables = {} if named else {"QUANTSAM_STORE": "/proc/x.sqlite"}
        ran = machine(*EVALUATE, *named, **variables)
        assert ran.returncode == 1
        assert ran.stderr == "quantsam: result store /proc/x.sqlite cannot be written: /proc is not writable; " + (
            "give another path\n"
        )
