"""Checks before every request: the host it names and the site it comes from. Limits what the browser may do."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_logger = logging.getLogger(__name__)


class Guard:
    """Refuses requests that another site may have a browser make, and lets no exception through.

    A page on another site can make a browser send requests here in two ways. It can let another name point here; then
    `Host` has that name. Or it can send a request across sites; then `Origin` or `Sec-Fetch-Site` shows it. Programs
    other than browsers send neither of these two headers and are let in.

    Args:
        app: Application that answers.
        hosts: Names by which the server may be called.
        any_address: Whether any plain IP address is allowed too: nobody else can make one point here.
        debug: Log tracebacks of unexpected errors.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], *, any_address: bool = False, debug: bool = False) -> None:
        self._app, self._hosts, self._any_address, self._debug = app, frozenset(hosts), any_address, debug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, receive, send_guarded)
        except Exception as error:  # Starlette has answered the request and passes the error on
            found = f"{type(error).__name__} in {scope['method']} {scope['path']!r}"
            _logger.error("unexpected %s", found, exc_info=error if self._debug else None)

    def _refusal(self, method: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return JSONResponse({"error": "the server is not called by this name: use the address it printed"}, 400)
        if method in ("GET", "HEAD"):
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        elsewhere = origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
        if elsewhere or site not in ("same-origin", "none"):
            return JSONResponse({"error": "requests from other sites are refused: use the server's own page"}, 403)
        return None

    def _is_ours(self, host: str) -> bool:
        name = None
        with contextlib.suppress(ValueError):  # brackets that do not match; a port that is not a number
            parts = urlsplit(f"//{host}")
            _ = parts.port
            name = parts.hostname if parts.netloc == host and "@" not in host else None
        if name is None:
            return False
        return name in self._hosts or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
