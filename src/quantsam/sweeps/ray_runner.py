"""Workers on a Ray cluster: one actor each, which loads its model once."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from quantsam.data.open import DATA_VARIABLE
from quantsam.errors import EngineError, InputError
from quantsam.sweeps.runners import WorkItem
from quantsam.sweeps.worker import Worker

_ANSWER_S = 10.0
_JOIN_S = 60.0
_GIVE_UP_S = 300.0
_TRIES = 2  # further tries after the first
_JOINS = 5  # for each worker, actors in a row that may fail at their first answer


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    task: WorkItem
    lost: int = 0  # actors that died during the task


class RayRunner:
    """Actors of a Ray cluster.

    An actor whose process or node dies is replaced as soon as there is room, and another actor repeats its tasks. A
    task that loses three actors has failed. Only the driver gets the results and writes the store, so nothing is lost
    or stored twice.
    """

    is_local = False

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        """Join a cluster and start actors.

        Args:
            address: Address of the cluster, `10.0.0.1:6379` or `auto`; None starts a cluster on this machine.
            workers: Number of actors; None for as many as the cluster has room for.
            threads: Threads per actor; as many processors are reserved for it.
            device: Device on which actors compute; with `cuda`, each actor has its own GPU.

        Raises:
            EngineError: Ray is not installed, or no cluster answers.
            InputError: The cluster has no room for a worker.
        """
        if find_spec("ray") is None:
            raise EngineError("runner ray needs the package ray, which is not installed: pip install 'quantsam[ray]'")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a coming change
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
        self._options: dict[str, Any] = {
            "num_cpus": threads,
            "num_gpus": 1 if device.startswith("cuda") else 0,
            "scheduling_strategy": "SPREAD",
        }
        self._threads = threads
        self._failed_joins = 0  # consecutive failures
        self._actors: list[Any] = []
        self._joining: dict[Any, Any] = {}  # by the reference of its first answer
        self._queue: deque[_Call] = deque()
        self._running: dict[Any, tuple[_Call, Any]] = {}
        self.workers = workers or self._room()
        for _ in range(self.workers):
            self._start_actor()
        if self.workers:
            ray.wait(list(self._joining), num_returns=self.workers, timeout=_JOIN_S)
            self._take_in()
        if not self._actors:
            ray.shutdown()
            raise InputError(
                f"the Ray cluster at {address or 'this machine'} must have room for a worker of {threads} processors"
                f"{' and a GPU' if self._options['num_gpus'] else ''}, got none: add a node, or lower threads"
            )

    def submit(self, task: WorkItem) -> None:
        """Submit a task."""
        self._queue.append(_Call(task))
        self._hand_out()

    def next(self) -> tuple[WorkItem, Any]:
        """Wait for any submitted task, and return it with its result or its exception."""
        idle_since = time.monotonic()
        while True:
            self._hand_out()
            waited_for = [*self._running, *self._joining]
            ready, _ = self._ray.wait(waited_for, num_returns=1, timeout=_JOIN_S) if waited_for else ([], None)
            if ready and ready[0] in self._joining:
                self._take_in()
            elif ready:
                call, actor = self._running.pop(ready[0])
                try:
                    return call.task, self._ray.get(ready[0])
                except self._ray.exceptions.RayTaskError as error:
                    return call.task, error.cause or error
                except self._ray.exceptions.RayError as error:
                    self._lost(actor)
                    if call.lost >= _TRIES:
                        return call.task, error
                    self._queue.appendleft(_Call(call.task, call.lost + 1))
            if self._running or self._actors:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _GIVE_UP_S:
                raise EngineError("the Ray cluster lost all workers and has no room for new ones: run the sweep again")

    def _room(self) -> int:
        """Return the number of workers that the nodes have room for."""
        kind, share = ("GPU", 1) if self._options["num_gpus"] else ("CPU", self._threads)
        return sum(int(node["Resources"].get(kind, 0)) // share for node in self._ray.nodes() if node["Alive"])

    def _start_actor(self) -> None:
        actor = self._ray.remote(Worker).options(**self._options).remote(threads=self._threads)
        self._joining[actor.ping.remote()] = actor

    def _take_in(self) -> None:
        """Put actors that have answered to work. Where there is no room yet, Ray lets actors wait."""
        ready, _ = self._ray.wait(list(self._joining), num_returns=len(self._joining), timeout=0)
        for reference in ready:
            actor = self._joining.pop(reference)
            try:
                self._ray.get(reference)
                self._actors.append(actor)
                self._failed_joins = 0
            except self._ray.exceptions.RayError:
                self._failed_joins += 1
                if self._failed_joins < _JOINS * self.workers:  # a node without quantsam fails every time, immediately
                    self._start_actor()

    def _lost(self, actor: Any) -> None:
        """Replace an actor whose process or node died."""
        if actor in self._actors:
            self._actors.remove(actor)
            self._start_actor()

    def _hand_out(self) -> None:
        """Give tasks to the least busy actors, at most two tasks to each."""
        while self._queue and self._actors:
            busy = Counter(id(actor) for _, actor in self._running.values())
            actor = min(self._actors, key=lambda one: busy[id(one)])
            if busy[id(actor)] >= 2:
                return
            call = self._queue.popleft()
            self._running[getattr(actor, call.task.method).remote(*call.task.arguments)] = (call, actor)

    def close(self) -> None:
        """Leave the cluster; its actors stop."""
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Try one connection, because Ray itself would wait for minutes."""
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
