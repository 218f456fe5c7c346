"""Runners do the work of a sweep: threads of this process, or the actors of a Ray cluster."""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from quantsam.quant.kernels import threads_may_meet
from quantsam.sweeps.worker import Shelf, Worker


@dataclass(frozen=True, slots=True, eq=False)
class WorkItem:
    """A call of a worker's method.

    Attributes:
        method: Name of the method.
        arguments: Arguments of the call.
        tag: A value for the caller, to recognise the result.
    """

    method: str
    arguments: tuple[Any, ...]
    tag: Any = None


class Runner(Protocol):
    """Workers that do tasks.

    Attributes:
        workers: Number of workers.
        is_local: Whether the workers share this process, and so may write the store.
    """

    workers: int
    is_local: bool

    def submit(self, task: WorkItem) -> None:
        """Hand a task in."""
        ...

    def next(self) -> tuple[WorkItem, Any]:
        """Wait for any task that was handed in, and return it with its result or its exception."""
        ...

    def close(self) -> None:
        """Stop, and give up unfinished tasks."""
        ...


class LocalRunner:
    """Threads of this process, one worker each; they share models and data."""

    is_local = True

    def __init__(
        self, shelf: Shelf | None = None, *, workers: int | None = None, threads: int = 1, device: str = "cpu"
    ) -> None:
        """Start workers.

        Args:
            shelf: Models and data that are already loaded.
            workers: Number of workers; None for as many as fill the processor, or one on another device.
            threads: Threads per worker.
            device: Device on which the workers compute.
        """
        fill = max((os.cpu_count() or 1) // threads, 1) if device == "cpu" else 1
        self.workers = (workers or fill) if threads_may_meet() else 1
        self._stop = threading.Event()
        self._own = threading.local()
        self._shelf = shelf or Shelf()
        self._threads = threads
        self._pool = ThreadPoolExecutor(self.workers, "quantsam-sweep")
        self._running: dict[Future[Any], WorkItem] = {}

    def submit(self, task: WorkItem) -> None:
        """Hand a task in."""
        self._running[self._pool.submit(self._do, task)] = task

    def next(self) -> tuple[WorkItem, Any]:
        """Wait for any task that was handed in, and return it with its result or its exception."""
        done = next(iter(wait(self._running, return_when=FIRST_COMPLETED).done))
        task = self._running.pop(done)
        return task, done.exception() or done.result()

    def close(self) -> None:
        """Stop; unfinished tasks are given up after their current image."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _do(self, task: WorkItem) -> Any:
        worker = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = Worker(self._shelf, threads=self._threads, stopped=self._stop.is_set)
        return getattr(worker, task.method)(*task.arguments)
