"""Sweeps on a real Ray cluster of two nodes, each with processes of its own on this machine."""

import os
import signal
import subprocess
import sys
import time

import pytest

from quantsam.errors import EngineError
from quantsam.results.store import ResultStore
from quantsam.sweeps.driver import run_sweep
from quantsam.sweeps.sweep import read_sweep

from .conftest import content

pytest.importorskip("ray")
COMMAND = [sys.executable, "-c", "from quantsam.cli.main import run; run()"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


def test_the_same_records_as_the_local_runner(cluster, sweep_file, undisturbed, tmp_path):
    from quantsam.sweeps.ray_runner import RayRunner

    store = ResultStore(tmp_path / "r.sqlite")
    runners = []

    def start(shelf):
        import ray

        runners.append(RayRunner(cluster))
        assert len({node["NodeID"] for node in ray.nodes()}) == 2
        return runners[0]

    progress = run_sweep(read_sweep(sweep_file), store, start)
    assert not progress.failed
    assert runners[0].workers == 2
    assert content(store) == undisturbed


def test_a_killed_worker_is_replaced(cluster, sweep_file, undisturbed, tmp_path):
    from quantsam.sweeps.ray_runner import RayRunner

    class Watched(RayRunner):
        def __init__(self):
            super().__init__(cluster)
            self.killed = []
            self.count = 0

        def next(self):
            self.count += 1
            if self.count in (3, 8):
                processes = [int(p) for p in _pids("ray::Worker")]
                os.kill(processes[0], signal.SIGKILL)
                self.killed.append(processes[0])
            return super().next()

    runners = []
    store = ResultStore(tmp_path / "r.sqlite")
    progress = run_sweep(read_sweep(sweep_file), store, lambda shelf: runners.append(Watched()) or runners[0])
    assert len(runners[0].killed) == 2
    assert not progress.failed
    assert content(store) == undisturbed


def test_a_killed_driver_goes_on(cluster, sweep_file, undisturbed, tmp_path):
    store = tmp_path / "r.sqlite"
    command = [*COMMAND, "sweep", str(sweep_file), "--store", str(store), "--runner", "ray", "--address", cluster]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (store.exists() and ResultStore(store).records()) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.kill()
    assert 0 < len(ResultStore(store).records()) < 7
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert content(ResultStore(store)) == undisturbed


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:99999"])
def test_a_cluster_that_does_not_answer(address):
    from quantsam.sweeps.ray_runner import RayRunner

    with pytest.raises(EngineError, match="no Ray cluster answers at"):
        RayRunner(address)


def _pids(name):
    return subprocess.run(["pgrep", "-f", name], capture_output=True, text=True, check=False).stdout.split()
