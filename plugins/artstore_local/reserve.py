"""Room kept for deletions: on a full disk the tombstone's name may need a block that its directory does not have."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from artstore.errors import DISK_FULL_ERRNOS

log = logging.getLogger("artstore.local")

SIZE = 64 << 10


class Reserve:
    """A file of `SIZE` bytes that is given up when a deletion finds no room, and taken again afterwards.

    `internal`: the descriptor of its directory; -1 for a process that only looks.
    """

    def __init__(self, internal: int) -> None:
        self._fd = -1
        self._kept = False
        self._lock = threading.Lock()
        if internal >= 0:
            self._fd = os.open("reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640, dir_fd=internal)
            self.keep()

    def keep(self) -> None:
        """Take the room again, as soon as there is any. Never raises."""
        if not self._kept:
            try:
                with self._alone():
                    os.posix_fallocate(self._fd, 0, SIZE)
                    self._kept = True
            except OSError as e:
                log.debug("no room is kept for deletions: %s", os.strerror(e.errno or 0))

    def rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        """Rename, at the cost of the reserve if need be. Raises `OSError`."""
        try:
            os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        except OSError as e:
            if e.errno not in DISK_FULL_ERRNOS:
                raise
            with self._alone():  # nobody takes it back before the name has it
                self._kept = False
                os.ftruncate(self._fd, 0)
                os.fsync(self._fd)  # ext4 gives blocks away only once their release was committed
                os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave it to the next process."""
        if self._fd >= 0:
            os.close(self._fd)
