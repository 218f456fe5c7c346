"""A sweep killed at random instants, again and again, ends with what an undisturbed one gives."""

import random
import signal
import subprocess
import sys
import time

import pytest

from quantsam.results.store import ResultStore

from .conftest import content

COMMAND = [sys.executable, "-c", "from quantsam.cli.main import run; run()"]
KILLS = 20


@pytest.mark.slow
def test_killed_twenty_times(sweep_file, undisturbed, tmp_path):
    store = tmp_path / "r.sqlite"
    rng = random.Random(5)
    kills = 0
    for _ in range(200):
        if kills == KILLS and store.exists():
            break
        with subprocess.Popen(
            [*COMMAND, "sweep", str(sweep_file), "--store", str(store), "--workers", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                process.wait(rng.uniform(3.0, 7.0))  # the first seconds are imports
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                time.sleep(0.1)
                continue
            assert process.returncode == 0, process.stderr.read()
            if kills < KILLS:  # done too early: begin anew, the kills count on
                assert content(ResultStore(store)) == undisturbed
                store.unlink()
    assert kills == KILLS
    done = subprocess.run(
        [*COMMAND, "sweep", str(sweep_file), "--store", str(store)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert content(ResultStore(store)) == undisturbed
