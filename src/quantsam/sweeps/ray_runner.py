"""Workers on a Ray cluster: one actor each, which loads its model once."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from importlib.util import find_spec
from typing import Any

from quantsam.data.open import DATA_VARIABLE
from quantsam.errors import EngineError, InputError
from quantsam.sweeps.runners import Task
from quantsam.sweeps.worker import Worker

_ANSWER_S = 10.0


class RayRunner:
    """Actors of a Ray cluster.

    An actor whose process or node dies is started anew, and what it was at is done again; results come back to the
    driver alone, which writes the store, so nothing is lost or doubled.
    """

    is_local = False

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        threads: int = 1,
        device: str = "cpu",
        spread: bool = True,
    ) -> None:
        """Join a cluster and start actors.

        Args:
            address: Of the cluster, `10.0.0.1:6379` or `auto`; None starts one on this machine.
            workers: How many actors; as many as the cluster has room for if None.
            threads: Of each; so many processors are reserved for it.
            device: Where they compute; for `cuda` each has a GPU of its own.
            spread: Over all nodes, rather than one after the other.

        Raises:
            EngineError: Ray is not installed, or no cluster answers.
            InputError: The cluster has no room for a worker.
        """
        if find_spec("ray") is None:
            raise EngineError("runner ray needs the package ray, which is not installed: pip install 'quantsam[ray]'")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what is to come
        if address not in (None, "auto"):
            _check_answers(str(address))
        import ray as package

        ray: Any = package

        self._ray = ray
        passed = {name: os.environ[name] for name in (DATA_VARIABLE,) if name in os.environ}
        options: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": passed}, **options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise _no_answer(str(address), error) from error
        on_gpu = device.startswith("cuda")
        have = ray.cluster_resources()
        room = int(have.get("GPU", 0)) if on_gpu else int(have.get("CPU", 0)) // threads
        if (workers or room) < 1 or (workers or 0) > room:
            unit = "GPUs" if on_gpu else f"times {threads} processors"
            ray.shutdown()
            raise InputError(f"the Ray cluster has room for {room} workers ({unit}), got {workers or 1}")
        self.workers = workers or room
        actor = ray.remote(Worker).options(
            num_cpus=threads,
            num_gpus=1 if on_gpu else 0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD" if spread else "DEFAULT",
        )
        self._actors = [actor.remote(threads=threads) for _ in range(self.workers)]
        self._running: dict[Any, tuple[Task, int]] = {}

    def submit(self, task: Task) -> None:
        """Hand a task in, to whom has the least to do."""
        busy = Counter(number for _, number in self._running.values())
        number = min(range(self.workers), key=lambda n: busy[n])
        reference = getattr(self._actors[number], task.method).remote(*task.arguments)
        self._running[reference] = (task, number)

    def next(self) -> tuple[Task, Any]:
        """Wait for any task that was handed in, and return it with its result or its exception."""
        (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
        task, _ = self._running.pop(reference)
        try:
            return task, self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return task, error.cause or error
        except self._ray.exceptions.RayError as error:
            return task, error

    def close(self) -> None:
        """Leave the cluster; its actors stop."""
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Knock once: Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> EngineError:
    lines = str(error).strip().splitlines()
    return EngineError(
        f"no Ray cluster answers at {address!r} ({lines[0][:120] if lines else type(error).__name__}): start one with "
        "`ray start --head`, or leave --address out for one on this machine"
    )
