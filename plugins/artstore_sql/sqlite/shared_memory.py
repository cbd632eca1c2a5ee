"""Reserves space on the disk for what SQLite maps into memory: the index of the WAL (`-shm`).

A page of a mapped file that finds no block when it is written is no error but SIGBUS, which ends the process. So
SQLite writes a byte of each page before it maps it. Where blocks are smaller than pages, as on an ext4 below 512 MiB,
the rest of the page is a hole even so.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

PREALLOCATED = 128 << 10
"""Bytes of the index that are taken ahead: enough for a WAL of 64 MiB."""


class SharedMemory:
    """The index of one database, as far as it has to have its blocks before it is used."""

    def __init__(self, shm: Path) -> None:
        self._shm = shm

    def require_space(self) -> None:
        """Before a connection is made, which writes to the index at once. Raises `OSError`."""
        if self._lacks_blocks():
            volume = os.statvfs(self._shm.parent)
            if volume.f_bavail * volume.f_frsize < 2 * PREALLOCATED:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def preallocate(self) -> None:
        """With a connection in hand: from here on the index finds room on a full disk, too. Raises `OSError`."""
        if not self._lacks_blocks():
            return
        index = os.stat(self._shm)
        # By SQLite's own descriptor, which our connection keeps open: closing another would drop its locks.
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(f"/proc/self/fd/{fd}"), index):
                    os.posix_fallocate(int(fd), 0, PREALLOCATED)
                    return

    def _lacks_blocks(self) -> bool:
        if os.statvfs(self._shm.parent).f_frsize >= mmap.PAGESIZE:
            return False
        try:
            return os.stat(self._shm).st_blocks * 512 < PREALLOCATED
        except FileNotFoundError:
            return True
