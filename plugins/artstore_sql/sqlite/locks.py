"""Locks between processes that write to one database file; the system releases those of a dead process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artstore.errors import Unavailable

_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.002


@contextmanager
def exclusive(path: Path, deadline: float) -> Iterator[None]:
    """Hold the right to write to the database `path`, for one thread of one process at a time.

    A process that wants the right locks the queue file first. Without the queue a process that writes without pause
    would lock again before another process, which polls, notices that the lock was free.
    """
    queue = _open(path, ".queue")
    try:
        _wait(queue, deadline, path)
        lock = _open(path, ".lock")
        try:
            _wait(lock, deadline, path)
            os.close(queue)
            queue = -1
            yield
        finally:
            os.close(lock)
    finally:
        if queue >= 0:
            os.close(queue)


class Alive:
    """A shared lock on `<path>.alive`: it shows other processes that this process uses the database, until `close`."""

    def __init__(self, path: Path) -> None:
        self._fd = _open(path, ".alive")
        try:
            self.is_alone()
        except OSError:  # or the next try would wait for this one's lock
            self.close()
            raise

    def is_alone(self) -> bool:
        """Return whether no other process uses the database. Call it only under `exclusive`."""
        alone = False
        with suppress(BlockingIOError):
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        fcntl.flock(self._fd, fcntl.LOCK_SH)
        return alone

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: Path, suffix: str) -> int:
    return os.open(f"{path}{suffix}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _wait(fd: int, deadline: float, path: Path) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Unavailable(f"Another process holds {path.name} for too long.") from None
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        else:
            return
