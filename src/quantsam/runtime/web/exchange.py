"""A local server for one page: it serves files, and exchanges bytes between Python and the page."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TYPES = {"html": "text/html", "js": "text/javascript", "mjs": "text/javascript", "wasm": "application/wasm"}
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of a page that may have threads."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: a page that closes breaks its connection."""


class Exchange:
    """Serves files by name, and each piece of bytes once, below an unguessable address.

    Attributes:
        address: Base address of the files, with a trailing slash.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)
        self._held: dict[str, bytes] = {}
        self._prefix = f"/{secrets.token_urlsafe(24)}/"
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}{self._prefix}"
        threading.Thread(target=self._server.serve_forever, name="quantsam-exchange", daemon=True).start()

    def give(self, content: bytes) -> str:
        """Offer bytes to a page, once, and return their address."""
        name = self.reserve()
        self._held[name] = content
        return name

    def reserve(self) -> str:
        """Return an address where a page can put bytes."""
        return f"held/{secrets.token_hex(8)}"

    def take(self, name: str) -> bytes:
        """Return the bytes that a page has put there; works once."""
        return self._held.pop(name)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        exchange = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # one connection for many requests
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                name = self._name()
                content = exchange._held.pop(name, None) if name.startswith("held/") else exchange._files.get(name)
                self._answer(404 if content is None else 200, content or b"", name)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if self._name().startswith("held/"):
                    exchange._held[self._name()] = content
                self._answer(200, b"", "")

            def _name(self) -> str:
                found = self.path.removeprefix(exchange._prefix)
                return "" if found == self.path else found

            def _answer(self, status: int, content: bytes, name: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", TYPES.get(name.rpartition(".")[2], "application/octet-stream"))
                self.send_header("Content-Length", str(len(content)))
                for header, value in ISOLATION.items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
