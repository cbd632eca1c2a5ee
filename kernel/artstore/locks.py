"""Locks that all processes of one node share: `flock` on files below `state/locks`.

A lock dies with its holder, so nothing has to be cleaned after kill -9.
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
from artstore.ids import FileId
from artstore.posix import translate_errors, translate_startup_errors

log = logging.getLogger("artstore.locks")

_BUCKETS = 64
_PAUSE = 0.01


class Locks:
    """Named locks. Each use opens the file anew, so threads exclude each other as processes do."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = os.fspath(directory)
        with translate_startup_errors(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            # Made ahead, so that a full disk cannot keep anybody from deleting.
            for name in ("element", "mode", "names", "recovery", *(f"file-{n:02x}" for n in range(_BUCKETS))):
                os.close(self._open(name))

    @contextmanager
    def exclusive(self, name: str, *, patience: float | None = None) -> Iterator[None]:
        """Alone. Raises `Unavailable` when the lock was held for `patience` seconds: a process that is stopped may
        hold it."""
        with self._hold(name, patience):
            yield

    def joint(self, name: str) -> Joint:
        """A shared lock for all threads of this process together."""
        with translate_startup_errors(self._directory):
            return Joint(self._open(name))

    @contextmanager
    def file(self, file_id: FileId, *, patience: float | None = None) -> Iterator[Note]:
        """Alone with one file: changes of one file come one after the other. `patience` as above."""
        with self._hold(f"file-{int(file_id[-2:], 16) % _BUCKETS:02x}", patience) as fd:
            yield Note(fd)

    def _open(self, name: str) -> int:
        return os.open(f"{self._path}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    @contextmanager
    def _hold(self, name: str, patience: float | None) -> Iterator[int]:
        with translate_errors("A lock of this element cannot be taken"):
            fd = self._open(name)
        try:
            with translate_errors("A lock of this element cannot be taken"):
                if patience is None:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                else:
                    _poll(fd, time.monotonic() + patience)
            yield fd
        finally:
            os.close(fd)


def _poll(fd: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unavailable("Another process holds a lock and does not go on.") from None
            time.sleep(_PAUSE)


class Note:
    """What the holder of a lock writes into its file for whoever holds it next, should it die within."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> str | None:
        """What one left that died; None when nobody did. Raises `Unavailable`."""
        with translate_errors("A lock of this element cannot be read"):
            line, end, _ = os.pread(self._fd, 4096, 0).partition(b"\n")
        try:
            text = json.loads(line) if end else None
        except ValueError:  # torn by a power cut
            return None
        return text if isinstance(text, str) else None

    def write(self, text: str) -> None:
        """Outlives this process, not a power cut. Raises `StorageFull`, `Unavailable`."""
        with translate_errors("A lock of this element cannot be written"):
            os.pwrite(self._fd, json.dumps(text).encode() + b"\n", 0)

    def wipe(self) -> None:
        """What it says was done or undone. Never raises: to find it once more does no harm."""
        try:
            os.pwrite(self._fd, b"\n", 0)
        except OSError as e:
            log.warning("a lock cannot be written: %s", os.strerror(e.errno or 0))


class Joint:
    """A shared lock that the first thread in takes and the last one out gives back."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                with translate_errors("A lock of this element cannot be taken"):
                    fcntl.flock(self._fd, fcntl.LOCK_SH)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
                except OSError as e:  # what was done within is done; the next one out tries again
                    log.error("a lock cannot be given back: %s", os.strerror(e.errno or 0))

    def close(self) -> None:
        os.close(self._fd)
