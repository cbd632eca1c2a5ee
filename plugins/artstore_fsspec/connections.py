"""Connections to one file system: one for all threads where it bears that, else each lent to one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from artstore.errors import Unavailable

AT_ONCE = 4
"""Connections begun at a time: sshd turns some away when more than ten have not logged in yet."""
WAIT = 10.0
"""Seconds to wait for one's turn to connect."""


class Connections:
    """`first`, and more of its kind made by `connect`. `threads`: one serves many threads."""

    def __init__(self, first: Any, connect: Callable[[], Any], *, threads: bool) -> None:
        self._connect = connect
        self._threads = threads
        self._idle = [first]
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def take(self) -> Any:
        """A file system for the caller alone, until `give` or `drop`. Raises `Unavailable`, and what it raises."""
        with self._lock:
            if self._idle:
                return self._idle[-1] if self._threads else self._idle.pop()
        if not self._turns.acquire(timeout=WAIT):
            raise Unavailable("The file system does not answer.")
        try:
            return self._connect()
        finally:
            self._turns.release()

    def give(self, fs: Any) -> None:
        """Back, and in order."""
        if not self._threads:
            with self._lock:
                self._idle.append(fs)

    def drop(self) -> None:
        """The caller's broke: so did, as likely as not, those that lie idle."""
        if not self._threads:
            with self._lock:
                self._idle.clear()

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """One for the time of a call."""
        fs = self.take()
        try:
            yield fs
        except FileNotFoundError:
            self.give(fs)
            raise
        except BaseException:
            self.drop()
            raise
        self.give(fs)

    def close(self) -> None:
        """Those in use are given up by who uses them."""
        with self._lock:
            self._idle.clear()
