"""Fsync, and the end of all writing when it fails."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque

from artstore.errors import DISK_FULL_ERRNOS, Unavailable

log = logging.getLogger("artstore.local")

FAILURE_WINDOW = 600.0
"""Seconds within which a second failed fsync closes the store for writing."""


class Syncer:
    """Makes files and directories of one store durable. Used by many threads.

    Linux drops the pages of a failed fsync and reports the error once, so after a failure it is unknown what is on the
    disk. The second failure within ten minutes, or one EROFS, closes the store for writing until a restart.
    """

    def __init__(self) -> None:
        self._failures: deque[float] = deque(maxlen=2)
        self._lock = threading.Lock()
        self._closed = ""
        """Why the store is closed for writing; empty while it is open."""

    def fsync(self, fd: int) -> None:
        """Make a file or a directory durable. Raises `OSError`; then it must not be tried again."""
        try:
            os.fsync(fd)
        except OSError as e:
            self._count_failure(e)
            raise

    def _count_failure(self, error: OSError) -> None:
        log.error("fsync failed: %s", os.strerror(error.errno or 0))
        if error.errno in DISK_FULL_ERRNOS:
            return
        with self._lock:
            now = time.monotonic()
            self._failures.append(now)
            recent = [t for t in self._failures if now - t < FAILURE_WINDOW]
            if error.errno == errno.EROFS or len(recent) == 2:
                self._closed = f"the disk failed to make data durable ({os.strerror(error.errno or 0)})"
                log.critical("the store is read-only until a restart: %s", self._closed)

    def require_writable(self) -> None:
        """Raise `Unavailable` when the store is closed for writing."""
        if self._closed:
            raise Unavailable(
                f"This store accepts no writes until a restart: {self._closed}.", retry_after=None
            )
