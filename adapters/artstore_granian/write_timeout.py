"""The end of connections whose client reads nothing of what it is sent."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Literal


def with_write_timeout(app: Any, interface: Literal["asgi", "wsgi"], port: int, seconds: float) -> Any:
    """Return an app that does what `app` does, on connections that the system closes once the client has accepted no
    byte for `seconds` although bytes wait for it.

    granian has no deadline for this and shows no socket. It opens its own in each worker after the app was made, so the
    sockets are found with the first request; connections that are accepted later inherit the option. The system's
    deadline also holds where granian sends a file by itself.
    """
    waiting = True

    def limit() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            limit_writes(port, seconds)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            limit()
        await app(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:
        limit()
        return app(environ, start_response)

    return asgi if interface == "asgi" else wsgi


def limit_writes(port: int, seconds: float) -> None:
    """Set the deadline on each TCP socket of this process that has `port` at this end: listeners and connections."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            # Only sockets are opened a second time: to close a file once releases the locks that SQLite has on it.
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                _limit_socket(int(name), port, seconds)


def _limit_socket(descriptor: int, port: int, seconds: float) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as found:
        if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(seconds * 1000)))
