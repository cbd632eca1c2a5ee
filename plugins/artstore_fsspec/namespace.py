"""Names below the root of an fsspec file system: where they lie, the locks on them, and moves to them.

Threads and processes of one home lock a name while they check it and put a file there. Other machines do not see
these locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

from artstore.errors import DISK_FULL_ERRNOS, ArtstoreError, StorageFull, TooLarge, Unavailable
from artstore.spi import INTERNAL
from artstore_fsspec.connections import Connections
from artstore_objects.store import ObjectInfo

STAGING = f"{INTERNAL}/staging/"
CALL_TIMEOUT = 30.0
"""Seconds after which a call to an object store is cancelled. Some libraries retry for minutes otherwise."""
_LOCKS = 16
"""Locks for all names; a name uses the one that its checksum selects."""
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""The fields in which different file systems report when a file was written."""


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Raise any exception of a file system as an error of `artstore.errors` that names `what`."""
    try:
        yield
    except ArtstoreError:
        raise
    except OSError as e:
        if e.errno in DISK_FULL_ERRNOS:
            raise StorageFull(f"There is no space left for {what}.") from e
        if e.errno == errno.EFBIG:
            raise TooLarge(f"The file system takes no file that is as large as {what}.") from e
        raise Unavailable(f"The file system failed at {what}: {e.strerror or type(e).__name__}.") from e
    except Exception as e:  # each library behind fsspec has its own exceptions
        raise Unavailable(f"The file system failed at {what}: {type(e).__name__}.") from e


class Namespace:
    """The files below `root`. `staged`: a file is written to the staging area, and moved to its name when complete."""

    def __init__(self, connections: Connections, root: str, locks: Path, *, staged: bool) -> None:
        self.connections = connections
        self.staged = staged
        self.options: dict[str, Any] = {} if staged else {"timeout": CALL_TIMEOUT}
        """Options of every call."""
        self._root = root.rstrip("/")
        self._locks = locks
        self._mutexes = [threading.Lock() for _ in range(_LOCKS + 1)]

    def path(self, name: str) -> str:
        """Return the path of `name` in the file system."""
        return f"{self._root}/{name}"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of `name`. Other names may share it, so a thread holds one such lock at a time."""
        with self._hold(crc32(name.encode()) % _LOCKS):
            yield

    @contextmanager
    def _hold(self, number: int) -> Iterator[None]:
        with self._mutexes[number]:
            fd = os.open(self._locks / f"store-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    def head(self, name: str) -> ObjectInfo | None:
        """Return what is known about the file `name`, or None. Raises `Unavailable`."""
        with translate_errors(name):
            try:
                with self.connections.lend() as fs:
                    found = fs.info(self.path(name), **self.options)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return describe(name, found) if found["type"] == "file" else None

    def new_staged(self) -> str:
        """Return a new name in the staging area."""
        name = f"{STAGING}{secrets.token_hex(12)}"
        self._make_directory(name)
        return name

    def _make_directory(self, name: str) -> None:
        """Make the directory of `name`, under a lock: when two make the same one, some file systems fail the second."""
        directory = self.path(name).rpartition("/")[0]
        with self.connections.lend() as fs:
            if not fs.isdir(directory):
                with self._hold(_LOCKS):
                    fs.makedirs(directory, exist_ok=True)

    def move(self, source: str, target: str) -> None:
        """Move a file from the staging area to its name, and replace what is there."""
        self._make_directory(target)
        with self.connections.lend() as fs:
            fs.mv(self.path(source), self.path(target))

    def remove(self, name: str) -> None:
        """Remove a file without the lock of its name. No such file is no error."""
        with self.connections.lend() as fs:
            try:
                fs.rm_file(self.path(name), **self.options)
            except (FileNotFoundError, KeyError):
                pass


def describe(name: str, found: dict[str, Any]) -> ObjectInfo:
    """Return what the entry `found`, of `info` or `ls`, says about the file `name`."""
    written = next((found[field] for field in _TIMES if found.get(field)), None)
    age = 0.0
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    if isinstance(written, datetime):
        written = (written if written.tzinfo else written.replace(tzinfo=UTC)).timestamp()
    if isinstance(written, int | float):
        age = max(0.0, datetime.now(UTC).timestamp() - written)
    return ObjectInfo(name=name, size=int(found["size"] or 0), etag="", age=age)
