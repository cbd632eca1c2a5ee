"""The bytes that uploads in progress have reserved, over all processes of a node.

<home>/state/space/<pid>-<random>      the bytes that one process has reserved; owned by it while it lives
<home>/state/space/used                the bytes of all files when they were last counted, and those stored since
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import struct
import threading
from pathlib import Path

from artstore.posix import OwnedFile, translate_errors

log = logging.getLogger("artstore.space")

_NUMBER = struct.Struct("<q")


class Ledger:
    """The numbers of one node. It has no files until something is reserved. Used by many threads.

    `reserved`, `used` and a `reserve` that adds are called while holding the lock `space` of the node.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._used = directory / "used"
        self._lock = threading.Lock()
        self._file: OwnedFile | None = None
        self._own = 0

    def reserve(self, size: int) -> None:
        """Add `size` bytes, which may be negative, to those that this process has reserved.

        Raises `StorageFull`, `Unavailable`; then nothing is added, but what is taken off counts as taken off here.
        """
        with self._lock:
            if size < 0:
                self._own += size
                if self._file is not None:
                    self._write(self._own)
            else:
                self._write(self._own + size)
                self._own += size

    def _write(self, number: int) -> None:
        with translate_errors("The space of this upload cannot be reserved"):
            if self._file is None:
                self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
                file = OwnedFile.create(self._directory / f"{os.getpid()}-{secrets.token_hex(4)}")
                # An owned file appends; this one is written in place, where a full disk has room.
                fcntl.fcntl(file.fd, fcntl.F_SETFL, 0)
                self._file = file
            os.pwrite(self._file.fd, _NUMBER.pack(number), 0)

    def reserved(self) -> int:
        """Return the bytes that all live processes have reserved. The files of dead ones are removed. Raises
        `StorageFull`, `Unavailable`."""
        with translate_errors("The space that uploads have reserved cannot be read"):
            total, own = self._own, self._file.path if self._file else None
            for path in self._directory.iterdir() if self._directory.is_dir() else ():
                if path in (own, self._used) or path.is_symlink() or not path.is_file():
                    continue
                if (dead := OwnedFile.seize(path)) is None:
                    total += _read(path)
                    continue
                try:
                    dead.remove()
                finally:
                    dead.close()
            return total

    def used(self, counted: int | None = None, *, stored: int = 0) -> int:
        """Return the bytes of all files: as they were `counted` now, or last time, with those `stored` since.

        What is returned is remembered. Raises `StorageFull`, `Unavailable`.
        """
        with translate_errors("The used space cannot be recorded"):
            before = _read(self._used)
            used = (before if counted is None else counted) + stored
            if used != before:
                self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
                fd = os.open(self._used, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
                try:
                    os.pwrite(fd, _NUMBER.pack(used), 0)
                finally:
                    os.close(fd)
            return used

    def close(self) -> None:
        """Give up what this process has reserved. Never raises."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.remove()
            except OSError as e:  # once it is closed, another process removes it
                log.warning("reserved space is given up late: %s", os.strerror(e.errno or 0))
                file.close()


def _read(path: Path) -> int:
    """Return the number in a file: 0 when it is gone, or was never written whole."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return 0
    return max(0, _NUMBER.unpack(raw)[0]) if len(raw) == _NUMBER.size else 0
