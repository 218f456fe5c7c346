"""Listen on an address, and serve until Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from quantsam.errors import InputError

_FAULTS_OF_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_LOCAL = ("localhost", "127.0.0.1", "::1")


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any free port.

    Raises:
        InputError: The host is not an address of this machine, or the port is taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: a part of the name is empty or too long
        reason = (isinstance(error, OSError) and error.strerror) or error
        remedy = "give another --port, 0 takes a free one"
        if isinstance(error, (socket.gaierror, UnicodeError)) or error.errno in _FAULTS_OF_HOST:
            remedy = "give another --host, 127.0.0.1 is for this machine alone"
        raise InputError(f"cannot listen on {host} port {port} ({reason}): {remedy}") from error


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url(host: str, listener: socket.socket) -> str:
    """Return the page's URL. If the socket listens on all addresses, the URL is one that works on this machine."""
    if ipaddress.ip_address(listener.getsockname()[0]).is_unspecified:
        host = "localhost"
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}/"


def allowed_hosts(host: str, listener: socket.socket) -> tuple[frozenset[str], bool]:
    """Return the names by which the page may be called, and whether any IP address is allowed too.

    A server for other machines may be called by addresses that it cannot know, for example behind a router.
    """
    names = {host.lower(), listener.getsockname()[0], *_LOCAL}
    if is_loopback(listener):
        return frozenset(names), False
    return frozenset(names | {socket.gethostname().lower()}), True


class _Server(uvicorn.Server):
    """Reports when it starts to answer and when it begins to stop, before it waits for unfinished answers."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start, self._on_stop = on_start, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
    debug: bool = False,
) -> None:
    """Serve until Ctrl-C, which is raised again as `KeyboardInterrupt`.

    Args:
        app: Application that answers; it logs its own errors.
        listener: Socket to serve on.
        on_start: Called when the server starts to answer. From then on, Ctrl-C stops it cleanly.
        on_stop: Called when the server begins to stop. Unfinished answers should then end soon.
        debug: Log the server's own warnings too.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning" if debug else "critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=64,
        timeout_graceful_shutdown=2,
    )
    _Server(config, on_start, on_stop).run(sockets=[listener])
