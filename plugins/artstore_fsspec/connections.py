"""Connections to one file system: one for all threads where it is thread-safe, else one for each open file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from artstore.errors import Unavailable

CONNECTING_LIMIT = 4
"""Connections that are opened at the same time. sshd refuses some when more than ten have not logged in yet."""
CONNECT_WAIT = 10.0
"""Seconds that a thread waits until it may open a connection."""


class Connections:
    """A pool: `first`, and more that `connect` opens. `threads`: one connection serves many threads at once."""

    def __init__(self, first: Any, connect: Callable[[], Any], *, threads: bool) -> None:
        self._connect = connect
        self._threads = threads
        self._idle = [first]
        self._lock = threading.Lock()
        self._connecting = threading.BoundedSemaphore(CONNECTING_LIMIT)

    def check_out(self) -> Any:
        """Return a file system that only the caller uses, until `give_back` or `discard`; or the shared one.

        Raises `Unavailable`, and whatever `connect` raises.
        """
        with self._lock:
            if self._idle:
                return self._idle[-1] if self._threads else self._idle.pop()
        if not self._connecting.acquire(timeout=CONNECT_WAIT):
            raise Unavailable("The file system does not answer.")
        try:
            return self._connect()
        finally:
            self._connecting.release()

    def give_back(self, fs: Any) -> None:
        """Return a connection that works to the pool."""
        if not self._threads:
            with self._lock:
                self._idle.append(fs)

    def discard(self) -> None:
        """Give up a connection that failed, and the idle ones too: most likely they broke with it."""
        if not self._threads:
            with self._lock:
                self._idle.clear()

    @contextmanager
    def lend(self) -> Iterator[Any]:
        """Check out a connection for one call. After an exception it is discarded, unless the file was not found."""
        fs = self.check_out()
        try:
            yield fs
        except FileNotFoundError:
            self.give_back(fs)
            raise
        except BaseException:
            self.discard()
            raise
        self.give_back(fs)

    def close(self) -> None:
        """Release the idle connections. Each of the others is released by the thread that uses it."""
        with self._lock:
            self._idle.clear()
