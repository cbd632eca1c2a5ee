"""A segment: one file of the log, its lines, and what becomes of it."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artstore.attr import timestamp
from artstore.errors import DISK_FULL_ERRNOS, StorageFull, Unavailable
from artstore.ids import now
from artstore.posix import OwnedFile, fsync_directory, translate_errors
from artstore.spi import STATUSES, Transaction

log = logging.getLogger("artstore.wal")

OPEN = ".jsonl"
CLOSED = ".settled.jsonl"


@dataclass(slots=True, kw_only=True)
class LoggedTransaction(Transaction):
    """A transaction in a segment. `offset`: where its last record begins."""

    offset: int


class Segment:
    """A segment that this process owns: its own, or one that a dead process left. Any thread may call it."""

    def __init__(self, file: OwnedFile) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._synced = 0
        self._size = os.fstat(file.fd).st_size
        self._checkpointed = self._size
        self._name_is_durable = False
        # The last line of a dead process may be torn: what is appended begins on a line of its own.
        self._torn = self._size > 0 and os.pread(file.fd, 1, self._size - 1) != b"\n"
        self.fsync_failed = False
        """What was written before may be lost, whatever a later fsync reports."""
        self.open: set[str] = set()
        """The ids of the intents whose end is not written."""
        self._pending_ends: dict[str, dict[str, Any]] = {}

    @property
    def size(self) -> int:
        """The number of bytes written."""
        return self._size

    @property
    def is_checkpointed(self) -> bool:
        """Whether everything in it is durable in the cache."""
        return self._size <= self._checkpointed

    def begin(self, tx: str, record: dict[str, Any]) -> None:
        """Append the opening of an intent. Raises `StorageFull`, `Unavailable`."""
        self._append(record, opens=tx)
        self.write_pending_ends()

    def end(self, tx: str, record: dict[str, Any]) -> None:
        """Append the end of an intent. Never raises.

        A log that cannot be written (the disk is full) must not undo what is done: the intent stays open until there
        is space, and recovery resolves it if there never is.
        """
        with self._lock:
            self.open.add(tx)
            self._pending_ends[tx] = record
        self.write_pending_ends()

    def write_pending_ends(self) -> None:
        """Append the ends of intents that could not be written before. Never raises."""
        while True:
            with self._lock:
                if not self._pending_ends:
                    return
                tx, record = self._pending_ends.popitem()
            try:
                self._append(record)
            except (StorageFull, Unavailable):
                with self._lock:
                    self._pending_ends[tx] = record
                return
            with self._lock:
                self.open.discard(tx)

    def checkpoint(self, upto: int) -> None:
        """Record that everything before byte `upto` is durable in the cache. Raises `StorageFull`, `Unavailable`."""
        if upto > self._checkpointed:
            begin, end = self._append({"at": timestamp(now()), "flushed": upto})
            with self._lock:
                # What other threads wrote between `upto` and this record, or after it, is not checkpointed.
                self._checkpointed = end if begin == upto else upto

    def sync(self) -> None:
        """Make everything written before this call durable. Raises `Unavailable`: then it may never be durable."""
        upto = self._size
        # One fsync at a time: the system reports an error to only one of several calls, and success to the others.
        with self._syncing, translate_errors("The log cannot be made durable"):
            fd, size = self._file.fd, self._size
            # A second fsync would report success while the disk holds the old bytes.
            if self.fsync_failed or fd < 0:
                raise Unavailable("This part of the log cannot be made durable any more.")
            if self._synced >= upto:
                return
            try:
                os.fdatasync(fd)
                if not self._name_is_durable:
                    for directory in (self._file.path.parent, self._file.path.parent.parent):
                        fsync_directory(directory)
                    self._name_is_durable = True
            except OSError:
                self.fsync_failed = True
                raise
            # The segment was released meanwhile: perhaps another file had this number by then, and was synced.
            if self._file.fd != fd:
                raise Unavailable("This part of the log was closed.")
            self._synced = size

    def close(self) -> None:
        """Give the segment its final name, which says that recovery need not read it, and release it. Never raises.

        It keeps its name when that fails: then recovery reads it again.
        """
        path = self._file.path
        try:
            if not self._size:
                self._file.remove()
            else:
                if self.fsync_failed:
                    self._copy()
                # Otherwise a power loss could take the last lines and keep the name: intents that nothing would end.
                os.fdatasync(self._file.fd)
                path.rename(path.with_name(path.name.removesuffix(OPEN) + CLOSED))
        except OSError as e:
            log.warning(
                "%s keeps its name: recovery will read it again: %s", path.name, os.strerror(e.errno or 0)
            )
        self.release()

    def _copy(self) -> None:
        """Move the content to a new file of this name: after a failed fsync, a second one proves nothing."""
        path = self._file.path
        copy_path = path.with_suffix(".copy")
        copy_path.unlink(missing_ok=True)
        copy = OwnedFile.create(copy_path)
        try:
            content = path.read_bytes()
            if os.write(copy.fd, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            copy_path.rename(path)
        except OSError:
            copy.remove()
            raise
        copy.path = path
        with self._lock:
            failed, self._file = self._file, copy
            self.fsync_failed, self._synced = False, 0
        failed.close()

    def release(self) -> None:
        """Give the file up as it is: another process may recover it. A second call has no effect."""
        with self._lock:
            self._file.close()

    def _append(self, record: dict[str, Any], opens: str | None = None) -> tuple[int, int]:
        """Append a line and return where it begins and ends. Raises `StorageFull`, `Unavailable`."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._torn:  # the disk was full in the middle of the last line: end that line first
                line = b"\n" + line
            offset = self._size
            try:
                written = os.write(self._file.fd, line)
                self._size += written
                self._torn = written < len(line)
                if self._torn:
                    raise StorageFull("There is no space left for the log.")
            except OSError as e:
                if e.errno in DISK_FULL_ERRNOS:
                    raise StorageFull("There is no space left for the log.") from e
                raise Unavailable(f"The log cannot be written: {os.strerror(e.errno or 0)}.") from e
            if opens:
                self.open.add(opens)
            return offset, self._size


def read_segment(path: Path) -> tuple[list[LoggedTransaction], int]:
    """Return the transactions of a segment, and the byte before which it is checkpointed. Raises `OSError`.

    A line that a crash tore is skipped.
    """
    found: dict[str, LoggedTransaction] = {}
    checkpointed = offset = 0
    with path.open("rb") as lines:
        for line in lines:
            begins, offset = offset, offset + len(line)
            try:
                record = json.loads(line)
                if "flushed" in record:
                    checkpointed = int(record["flushed"])
                else:
                    _apply(record, found, begins)
            except (ValueError, KeyError, TypeError):
                continue
    return list(found.values()), checkpointed


def _apply(record: dict[str, Any], found: dict[str, LoggedTransaction], offset: int) -> None:
    """Add the transaction that `record` opens to `found`, or end the one that it ends."""
    tx, status = record["tx"], record["status"]
    if status == "pending":
        found[tx] = LoggedTransaction(
            id=tx,
            operation=record["op"],
            file_id=record.get("file_id"),
            key=record.get("key"),
            by=record["by"],
            status="pending",
            started=record["at"],
            revision=record.get("revision", 0),
            offset=offset,
        )
    elif status in STATUSES and tx in found:
        t = found[tx]
        t.status, t.finished, t.error, t.offset = status, record["at"], record.get("error"), offset
