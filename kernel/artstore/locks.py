"""Locks that all processes of one node share: `flock` on files below `state/locks`.

A lock is released when its holder dies, so nothing has to be cleaned up after kill -9.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artstore.errors import Unavailable
from artstore.ids import FileId, Key
from artstore.posix import translate_errors, translate_startup_errors

log = logging.getLogger("artstore.locks")

LOCK_TIMEOUT = 5.0
"""Seconds for which recovery waits for the lock of a file: a process that is stopped must not stop the others."""
_BUCKETS = 64
"""Lock files for the locks of single files: those with equal ends of their ids share one."""
_POLL_INTERVAL = 0.01
"""Seconds between two attempts to get a lock, where the time to wait is limited."""


class Locks:
    """Named locks. Each use opens the file again, so threads exclude each other as processes do."""

    def __init__(self, directory: Path) -> None:
        """Create the files. Raises `ConfigError`, `StorageFull`, `Unavailable`."""
        self._directory = directory
        self._path = os.fspath(directory)
        with translate_startup_errors(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            # Created now, so that files can be deleted when the disk is full.
            for name in ("element", "mode", "names", "recovery", *(f"file-{n:02x}" for n in range(_BUCKETS))):
                os.close(self._open(name))

    @contextmanager
    def exclusive(self, name: str, *, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock `name`. Raises `Unavailable`, also when it is not free within `timeout` seconds: a process that
        is stopped may hold it."""
        with self._hold(name, timeout):
            yield

    def shared(self, name: str) -> SharedLock:
        """Return a shared lock for all threads of this process together."""
        with translate_startup_errors(self._directory):
            return SharedLock(self._open(name))

    @contextmanager
    def file(self, file_id: FileId, *, timeout: float | None = None) -> Iterator[Breadcrumb]:
        """Hold the lock of one file: its changes run one after the other. `timeout` as in `exclusive`."""
        with self._hold(f"file-{int(file_id[-2:], 16) % _BUCKETS:02x}", timeout) as fd:
            yield Breadcrumb(fd)

    def _open(self, name: str) -> int:
        return os.open(f"{self._path}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    @contextmanager
    def _hold(self, name: str, timeout: float | None) -> Iterator[int]:
        with translate_errors("A lock of this element cannot be acquired"):
            fd = self._open(name)
        try:
            with translate_errors("A lock of this element cannot be acquired"):
                if timeout is None:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                else:
                    _lock_with_timeout(fd, timeout)
            yield fd
        finally:
            os.close(fd)


def _lock_with_timeout(fd: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable("Another process holds a lock and makes no progress.") from None
            time.sleep(_POLL_INTERVAL)


class Breadcrumb:
    """A note in the lock file: the key that is being published. If the holder of the lock dies, the next holder reads
    it and finishes the work. Used while the lock is held."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> Key | None:
        """Return the key that a dead holder left, or None. Raises `Unavailable`."""
        with translate_errors("A lock of this element cannot be read"):
            line, end, _ = os.pread(self._fd, 4096, 0).partition(b"\n")
        try:
            key = json.loads(line) if end else None
        except ValueError:  # torn by a power loss
            return None
        return Key(key) if isinstance(key, str) else None

    def write(self, key: Key) -> None:
        """Record `key`. It survives this process, but not a power loss. Raises `StorageFull`, `Unavailable`."""
        with translate_errors("A lock of this element cannot be written"):
            os.pwrite(self._fd, json.dumps(key).encode() + b"\n", 0)

    def erase(self) -> None:
        """Record that the publication ended. Never raises: to find the key once more does no harm."""
        try:
            os.pwrite(self._fd, b"\n", 0)
        except OSError as e:
            log.warning("a lock cannot be written: %s", os.strerror(e.errno or 0))


class SharedLock:
    """A shared lock that the first thread to enter acquires, and the last one to leave releases."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        """Enter. Raises `Unavailable`."""
        with self._lock:
            if self._inside == 0:
                with translate_errors("A lock of this element cannot be acquired"):
                    fcntl.flock(self._fd, fcntl.LOCK_SH)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
                except OSError as e:  # what was done inside is done; the next thread to leave tries again
                    log.error("a lock cannot be released: %s", os.strerror(e.errno or 0))

    def close(self) -> None:
        """Release the lock for good. Called once."""
        os.close(self._fd)
