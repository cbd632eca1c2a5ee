"""Whether this disk can be trusted with another write."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque

from artstore.errors import DISK_FULL_ERRNOS, Unavailable

log = logging.getLogger("artstore.local")

WINDOW = 600.0
"""Seconds in which a second failed fsync makes the store read-only."""


class Health:
    """Counts failed fsyncs. The second within ten minutes, or EROFS, closes the store for writing until a
    restart: pages of a failed fsync are dropped, so the disk is lying to us."""

    def __init__(self) -> None:
        self._failures: deque[float] = deque(maxlen=2)
        self._lock = threading.Lock()
        self._closed = ""

    def fsync(self, fd: int) -> None:
        """Make a file or a directory durable. One that failed is never tried again."""
        try:
            os.fsync(fd)
        except OSError as e:
            self._failed(e)
            raise

    def _failed(self, error: OSError) -> None:
        log.error("fsync failed: %s", os.strerror(error.errno or 0))
        if error.errno in DISK_FULL_ERRNOS:
            return
        with self._lock:
            now = time.monotonic()
            self._failures.append(now)
            recent = [t for t in self._failures if now - t < WINDOW]
            if error.errno == errno.EROFS or len(recent) == 2:
                self._closed = f"the disk failed to make data durable ({os.strerror(error.errno or 0)})"
                log.critical("the store is read-only until a restart: %s", self._closed)

    def require(self) -> None:
        """Raise `Unavailable` when the store was closed for writing."""
        if self._closed:
            raise Unavailable(f"This store takes no writes until a restart: {self._closed}.")

    def note_litter(self, name: str) -> None:
        """An unfinished file that could not be removed: the next start removes it."""
        log.warning("could not remove the staged file %s; it goes at the next start", name)
