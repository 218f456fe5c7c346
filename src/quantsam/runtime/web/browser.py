"""One headless Chromium for this process, driven by Playwright in its own thread.

Playwright's objects belong to the thread that made them, and must not be in a thread with an event loop. So one thread
here does the work for all callers, whatever their thread.
"""

from __future__ import annotations

import atexit
import functools
import os
import queue
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from importlib import resources
from importlib.util import find_spec
from typing import Any, TypeVar

from quantsam.errors import EngineError, first_line
from quantsam.runtime.web.exchange import Exchange
from quantsam.runtime.web.package import runtime_files
from quantsam.versions import check_version

_T = TypeVar("_T")
_PAGE_FILES = ("engine.html", "engine.js", "worker.js", "graph.js")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_FLAGS = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run")
_CLOSING_S = 10.0
_LOOK_S = 1.0  # interval between checks that the thread is alive


class Browser:
    """A running browser and its file server.

    Attributes:
        exchange: The server of the browser's pages.
        version: Name and version, such as `Chromium 140.0.7339.16`.
    """

    def __init__(self) -> None:
        self.exchange = Exchange({**page_files(), **{f"ort/{name}": data for name, data in runtime_files().items()}})
        self._asked: queue.SimpleQueue[tuple[Callable[[Any], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="quantsam-browser", daemon=True)
        self._started: Future[str] = Future()
        self._thread.start()
        try:
            self.version = self._answer(self._started)
        except Exception:
            self.exchange.close()
            raise
        atexit.register(self.close)

    @property
    def is_alive(self) -> bool:
        """Whether the browser still responds."""
        return self._thread.is_alive() and self.call(lambda running: bool(running.is_connected()))

    def call(self, function: Callable[[Any], _T]) -> _T:
        """Call a function with Playwright's browser in the browser's thread, and return its result.

        Raises:
            EngineError: The browser was closed, or has died.
        """
        future: Future[_T] = Future()
        self._asked.put((function, future))
        return self._answer(future)

    def _answer(self, future: Future[_T]) -> _T:
        """Wait for an answer as long as the thread is alive."""
        while not wait([future], timeout=_LOOK_S).done:
            if not self._thread.is_alive() and not future.done():
                raise EngineError("the browser of engine web is gone: open the graph again")
        return future.result()

    def send(self, function: Callable[[Any], object]) -> None:
        """Call a function in the same way, later, and ignore its result."""
        self._asked.put((function, Future()))

    def close(self) -> None:
        """Close the browser."""
        self._asked.put(None)
        self._thread.join(_CLOSING_S)
        self.exchange.close()

    def _serve(self) -> None:
        """Start a browser and serve requests until None arrives; pass errors to the waiting caller."""
        try:
            from playwright.sync_api import sync_playwright

            with sync_playwright() as running:
                browser = _launched(running.chromium)
                self._started.set_result(f"Chromium {browser.version}")
                while (asked := self._asked.get()) is not None:
                    _answered(*asked, browser)
                browser.close()
        except BaseException as error:
            if not self._started.done():
                told = isinstance(error, EngineError)
                self._started.set_exception(error if told else EngineError(f"playwright does not start ({error!r})"))


def _answered(function: Callable[[Any], Any], future: Future[Any], browser: Any) -> None:
    try:
        future.set_result(function(browser))
    except BaseException as error:
        future.set_exception(error)


def _launched(chromium: Any) -> Any:
    """Return Playwright's own Chromium, or the machine's.

    Raises:
        EngineError: There is no Chromium.
    """
    reason = ""
    for place in (None, *filter(None, map(shutil.which, _NAMES))):
        try:
            return chromium.launch(executable_path=place, args=list(_FLAGS))
        except Exception as error:  # Chromium is not installed, or does not start
            reason = first_line(error)
    raise EngineError(
        f"engine web needs a Chromium, and none starts here ({reason}): run `playwright install chromium`, or install "
        "your system's chromium"
    )


def page_files() -> dict[str, bytes]:
    """Return the files of the page that runs graphs for Python."""
    folder = resources.files(__package__)
    return {name: folder.joinpath(name).read_bytes() for name in _PAGE_FILES}


_lock = threading.Lock()


def shared_browser() -> Browser:
    """Return this process's browser; start it on first use.

    Raises:
        EngineError: Playwright, a browser or onnxruntime-web is missing.
    """
    if find_spec("playwright") is None:
        raise EngineError(
            "engine 'web' needs the package playwright, which is not installed: pip install 'quantsam[web]'"
        )
    check_version("playwright")
    with _lock:
        browser = _browser(os.getpid())
        if not browser.is_alive:
            _browser.cache_clear()
            browser = _browser(os.getpid())
        return browser


@functools.lru_cache(maxsize=1)
def _browser(process: int) -> Browser:
    del process  # after a fork the browser's thread is missing, so start another browser
    return Browser()
