"""One thread that computes, and its queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from quantsam.progress import Progress

Event = dict[str, Any]
T = TypeVar("T")


class BusyError(Exception):
    """A queue is full."""


class AbandonedError(Exception):
    """Nobody waits for the job any more."""


class Places:
    """A limited number of places. Each is taken for a while."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    def take(self) -> None:
        """Take a place.

        Raises:
            BusyError: No place is free.
        """
        if not self._free.acquire(blocking=False):
            raise BusyError

    def leave(self) -> None:
        """Give a place back."""
        self._free.release()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place while a block runs.

        Raises:
            BusyError: No place is free.
        """
        self.take()
        try:
            yield
        finally:
            self.leave()


class Job:
    """Work for one request, seen from inside the work.

    Attributes:
        tell: Called with each event: a status, a result, an error.
        abandoned: Set when the requester has gone.
        stopping: Set when the server stops.
    """

    def __init__(self, tell: Callable[[Event], None], stopping: threading.Event) -> None:
        self.tell, self.stopping, self.abandoned = tell, stopping, threading.Event()

    def check(self) -> None:
        """Raise `AbandonedError` if nobody waits for the job any more."""
        if self.abandoned.is_set() or self.stopping.is_set():
            raise AbandonedError

    def status(self, text: str) -> None:
        """Report what is being done."""
        self.tell({"event": "status", "text": text})

    def steps(self, text: str, *, shared: bool = False) -> Progress:
        """Return a wrapper that reports what is being done and its progress.

        Args:
            text: What is being done.
            shared: Others will need the result too, so the work continues after the requester has gone.
        """

        def wrap(items: Iterable[Any], total: int | None) -> Iterator[Any]:
            for number, item in enumerate(items, start=1):
                if not shared or self.stopping.is_set():
                    self.check()
                self.status(f"{text}: {number} of {total}" if total else f"{text}: {number}")
                yield item

        return wrap


class Worker:
    """Does jobs one after another, in the order of submission."""

    def __init__(self, waiting: int) -> None:
        self._places = Places(waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quantsam-app")
        self.stopping = threading.Event()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue work. Cancelling the returned future frees its place at once.

        Raises:
            BusyError: The queue is full.
        """
        self._places.take()
        held = [work]  # the executor keeps cancelled work until its turn; this frees its images
        future = self._thread.submit(lambda: held.pop()())

        def leave(_: Future[T]) -> None:
            held.clear()
            self._places.leave()

        future.add_done_callback(leave)
        return future

    def stop(self) -> None:
        """Stop: waiting jobs are dropped, and a running job ends at its next step."""
        self.stopping.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
