"""A graph in ONNX Runtime Web, in headless Chromium."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantsam.errors import EngineError
from quantsam.runtime.onnxruntime import convolutions_of, node_times, zeros
from quantsam.runtime.sessions import Array, Executed, Session, SessionOptions, reason_of
from quantsam.runtime.web import ENGINE
from quantsam.runtime.web.browser import Browser, shared_browser
from quantsam.runtime.web.package import VERSION

_ALIGNMENT = 8


def check_web() -> None:
    """Make sure that Python can drive a browser here.

    Raises:
        EngineError: Playwright, a browser or onnxruntime-web is missing.
    """
    shared_browser()


def web_version() -> str:
    """Return the versions that compute, such as `onnxruntime-web 1.27.0 in Chromium 140.0.7339.16`.

    Raises:
        EngineError: See `check_web`.
    """
    return f"onnxruntime-web {VERSION} in {shared_browser().version}"


class WebSession:
    """A graph in its own page, where a worker opens and runs it.

    Attributes:
        threads: Number of threads.
        shapes: Shapes of the inputs; variable sides have a name.
        own_ms: Time of the last inference in the page, without the transfer.
    """

    engine = "web"

    def __init__(self, model: bytes | Path, options: SessionOptions) -> None:
        ENGINE.check_precision(options.precision)
        self._browser = shared_browser()
        self.handle = _Page(self._browser)
        weakref.finalize(self, self._browser.send, self.handle.close)
        self.threads = self.handle.ask({"action": "prepare", "threads": options.threads or 1 << 10})
        graph = model if isinstance(model, bytes) else model.read_bytes()
        address = self._browser.exchange.give(graph)
        opening = {"action": "open", "url": address, "optimize": options.optimize, "profile": options.profile}
        try:
            inputs = self.handle.ask(opening)
        except EngineError as error:
            raise EngineError(f"web cannot run the graph ({reason_of(error)}): export it for web") from error
        self.shapes = {told["name"]: told["shape"] for told in inputs}
        self.own_ms = 0.0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name."""
        arrays, content = _packed(inputs)
        exchange = self._browser.exchange
        message = {"action": "run", "arrays": arrays, "url": exchange.give(content)}
        answer = exchange.reserve()
        try:
            found = self.handle.ask({**message, "answer": answer})
        except Exception as error:  # a kernel fails only now, or the browser is gone
            raise EngineError(f"web cannot run the graph ({reason_of(error)}): export it for web") from error
        self.own_ms = float(found["ms"])
        return _unpacked(found["arrays"], exchange.take(answer))

    def profile(self, inputs: Mapping[str, Array], warm_up: int, rounds: int) -> list[list[tuple[str, float]]]:
        """Return each inference's node names and milliseconds, in running order; callable once."""
        for _ in range(warm_up + rounds):
            self.run(inputs)
        return node_times(self.events())[warm_up : warm_up + rounds]

    def events(self) -> list[Any]:
        """Return the events recorded since a session with `profile` was made; ends the recording."""
        found: list[Any] = json.loads(self.handle.ask({"action": "events"}))
        return found


def executed_convolutions(graph: bytes, session: Session) -> list[Executed]:
    """Run a graph once and return what ONNX Runtime records about its convolutions."""
    assert isinstance(session, WebSession)
    profiled = WebSession(graph, SessionOptions(session.threads, profile=True))
    profiled.run(zeros(profiled.shapes))
    return convolutions_of(profiled.events())


class _Page:
    """A page of the browser and its worker."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._page = browser.call(self._opened)

    def ask(self, message: dict[str, Any]) -> Any:
        """Return the worker's answer.

        Raises:
            EngineError: The worker reports an error.
        """
        answer = self._browser.call(lambda _: self._page.evaluate("message => self.ask(message)", message))
        if "error" in answer:
            raise EngineError(answer["error"].rpartition("ERROR_MESSAGE: ")[2])
        return answer.get("found")

    def close(self, _: object = None) -> None:
        """Close the page, in the browser's thread."""
        self._page.close()

    def _opened(self, running: Any) -> Any:
        context = running.contexts[0] if running.contexts else running.new_context()
        page = context.new_page()
        page.goto(f"{self._browser.exchange.address}engine.html")
        return page


def _packed(inputs: Mapping[str, Array]) -> tuple[list[dict[str, Any]], bytes]:
    """Return descriptions of arrays, and their bytes concatenated, each aligned for every type."""
    told, parts, start = [], [], 0
    for name, array in inputs.items():
        content = np.ascontiguousarray(array).tobytes()
        told.append(
            {"name": name, "type": array.dtype.name, "dims": list(array.shape), "start": start, "count": array.size}
        )
        parts.append(content + bytes(-len(content) % _ALIGNMENT))
        start += len(parts[-1])
    return told, b"".join(parts)


def _unpacked(told: list[dict[str, Any]], content: bytes) -> dict[str, Array]:
    """Return arrays from concatenated bytes."""
    found, start = {}, 0
    for each in told:
        part = content[start : start + each["bytes"]]
        found[each["name"]] = np.frombuffer(part, each["type"]).reshape(each["dims"]).copy()
        start += each["bytes"]
    return found
