"""Whether something other than artstore changed the database file since its processes released it.

SQLite has no checksums, and believes any WAL that lies beside a database. But in WAL mode only checkpoints write to
the database file, and those are ours: its length and time of change stand in `<path>.lock` from one to the next.
A copy put in its place, a byte changed in it, its end cut off: each is seen before an answer comes out of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("artstore.sql")

_UNKNOWN = b"?"


class Integrity:
    """What this process last saw of the file, and what all processes recorded of it."""

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._suspect_file = f"{path}.doubt"
        self._record = f"{path}.lock"
        self._seen: tuple[int, int, int] | None = None
        self._suspect = False
        self._changing = False
        self._syncs = True

    def unchanged_here(self) -> bool:
        """Return whether the file is the one that this process opened, changed only by itself. Costs two stats."""
        if self._suspect or self._seen is None or os.path.exists(self._suspect_file):
            return False
        return self._changing or self._stat() == self._seen

    def unchanged_since_release(self, *, starting: bool) -> bool:
        """Return whether the file is as its processes released it. Call it under `exclusive`.

        At start it may have moved to another disk, as long as its time moved along.
        """
        with open(self._record, "rb") as record:
            left = record.read().strip()
        if not left or left == _UNKNOWN:
            return True
        return left.split()[starting:] == self._written().split()[starting:]

    def checkpointed_elsewhere(self) -> bool:
        """Return whether another process's checkpoint is the only change of the file. Call it under `exclusive`."""
        same = self._seen is not None and (self._stat() or (0,))[0] == self._seen[0]
        if not same or self.is_suspect() or not self.unchanged_since_release(starting=False):
            return False
        self._seen = self._stat()
        return True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Allow this process to change the file within the block. Call it under `exclusive`."""
        self._changing = True
        self._write(_UNKNOWN)  # a process that dies within the block leaves a file that is accepted
        try:
            yield
            self._seen = self._stat()
            self._write(self._written())
        finally:
            self._changing = False

    def release(self) -> None:
        """Accept any state of the file from here on."""
        self._write(_UNKNOWN)

    def mark_suspect(self, why: str) -> None:
        """Have the file put aside when a process opens it next."""
        self._suspect = True
        log.warning("the cache %s will be replaced by an empty one: %s", self._path, why)
        try:
            os.close(os.open(self._suspect_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as e:
            log.warning("other processes cannot be informed of it: %s", os.strerror(e.errno or 0))

    def is_suspect(self) -> bool:
        return self._suspect or os.path.exists(self._suspect_file)

    def clear_suspect(self) -> None:
        """Forget the suspicion: a new file replaces the old one."""
        Path(self._suspect_file).unlink(missing_ok=True)
        self._suspect = False

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _written(self) -> bytes:
        return b" ".join(b"%d" % number for number in self._stat() or ()) or _UNKNOWN

    def _write(self, text: bytes) -> None:
        # In place and padded: it works on a full disk as well.
        fd = os.open(self._record, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, text.ljust(80) + b"\n", 0)
            if self._syncs:
                os.fdatasync(fd)
        except OSError:
            self._syncs = False  # no further sync of this file: a stale record costs a rebuild at worst
            raise
        finally:
            os.close(fd)


def inode(path: Path) -> int:
    """Return the inode of the file with this name; 0 when there is none."""
    try:
        return os.stat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return 0
