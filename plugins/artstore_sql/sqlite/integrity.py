"""How the database file looked when its processes left it, and so whether somebody else changed it since.

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
    """What this process has seen of the file, and what all of them wrote down."""

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._suspect_file = f"{path}.doubt"
        self._record = f"{path}.lock"
        self._seen: tuple[int, int, int] | None = None
        self._suspect = False
        self._changing = False
        self._syncs = True

    def unchanged_here(self) -> bool:
        """Whether the file is the one that this process took into use, unchanged but by itself; two stats."""
        if self._suspect or self._seen is None or os.path.exists(self._suspect_file):
            return False
        return self._changing or self._stat() == self._seen

    def unchanged_since_release(self, *, starting: bool) -> bool:
        """Whether the processes that use the file left it as it is; under the right to write.

        At start it may have moved to another disk, as long as its time moved along.
        """
        with open(self._record, "rb") as record:
            left = record.read().strip()
        if not left or left == _UNKNOWN:
            return True
        return left.split()[starting:] == self._written().split()[starting:]

    def checkpointed_elsewhere(self) -> bool:
        """Whether a neighbour's checkpoint is all that happened to the file; under the right to write."""
        same = self._seen is not None and (self._stat() or (0,))[0] == self._seen[0]
        if not same or self.is_suspect() or not self.unchanged_since_release(starting=False):
            return False
        self._seen = self._stat()
        return True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Within it this process changes the file; under the right to write."""
        self._changing = True
        self._write(_UNKNOWN)  # one that dies within leaves a file that is believed
        try:
            yield
            self._seen = self._stat()
            self._write(self._written())
        finally:
            self._changing = False

    def release(self) -> None:
        """Whatever becomes of the file from here on, nobody is to wonder at it."""
        self._write(_UNKNOWN)

    def mark_suspect(self, why: str) -> None:
        """Have the file put aside by the next who takes it into use, in whatever process."""
        self._suspect = True
        log.warning("the cache %s is to be begun anew: %s", self._path, why)
        try:
            os.close(os.open(self._suspect_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as e:
            log.warning("neighbours cannot be told so: %s", os.strerror(e.errno or 0))

    def is_suspect(self) -> bool:
        return self._suspect or os.path.exists(self._suspect_file)

    def clear_suspect(self) -> None:
        """Another file begins."""
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
            self._syncs = False  # never again on this file: a stale record costs a filling at worst
            raise
        finally:
            os.close(fd)


def inode(path: Path) -> int:
    """Which file has this name; 0 when none has."""
    try:
        return os.stat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return 0
