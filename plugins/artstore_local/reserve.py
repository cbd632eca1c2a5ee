"""Space kept for deletions: on a full disk the name of a tombstone may need a block that its directory lacks."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from artstore.errors import DISK_FULL_ERRNOS
from artstore_local import disk

log = logging.getLogger("artstore.local")

RESERVE_BYTES = 64 << 10


class Reserve:
    """A file of `RESERVE_BYTES` that is emptied when a deletion finds no space, and filled again afterwards.

    All processes of the store share it, each for a moment, so it is locked for each use and owned by none.
    `internal` is the descriptor of its directory, or -1 for a process that only reads.
    """

    def __init__(self, internal: int) -> None:
        self._fd = -1
        self._filled = False
        self._lock = threading.Lock()
        if internal >= 0:
            self._fd = os.open("reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640, dir_fd=internal)
            self.fill()

    def fill(self) -> None:
        """Fill the reserve unless it is full already. Never raises: on a full disk it is tried again later."""
        if not self._filled:
            try:
                with self._exclusive():
                    os.posix_fallocate(self._fd, 0, RESERVE_BYTES)
                    self._filled = True
            except OSError as e:
                log.debug("no space is kept for deletions: %s", os.strerror(e.errno or 0))

    def rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        """Rename; use up the reserve when the disk is full. Raises `OSError`."""
        try:
            os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        except OSError as e:
            if e.errno not in DISK_FULL_ERRNOS:
                raise
            with self._exclusive():  # no other process fills the reserve before the new name has its block
                self._filled = False
                os.ftruncate(self._fd, 0)
                os.fsync(self._fd)  # ext4 reuses freed blocks only once their release was committed
                os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave the reserve to the next process."""
        disk.close(self._fd)
