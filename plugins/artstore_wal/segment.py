"""One file of the log: its lines, and what becomes of the file."""

from __future__ import annotations

import errno
import fcntl
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
from artstore.posix import translate_errors
from artstore.spi import STATUSES, Transaction

log = logging.getLogger("artstore.wal")

OPEN = ".jsonl"
SETTLED = ".settled.jsonl"


@dataclass(slots=True, kw_only=True)
class Written(Transaction):
    """A transaction in a segment. `offset`: where its last record begins."""

    offset: int


class Segment:
    """One file of the log, held by this process: its own, or a dead one's that it settles."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._synced = 0
        self._size = os.fstat(fd).st_size
        self._flushed = self._size
        self._named = False
        # A dead process's last line may be torn: what we add begins on a line of its own.
        self._torn = self._size > 0 and os.pread(fd, 1, self._size - 1) != b"\n"
        self.spoiled = False
        """An fsync of it failed: what was written before may be lost whatever a later one says."""
        self.open: set[str] = set()
        self._unsaid: dict[str, dict[str, Any]] = {}

    @property
    def size(self) -> int:
        return self._size

    def begin(self, tx: str, record: dict[str, Any]) -> None:
        self._append(record, opens=tx)
        self.say_unsaid()

    def end(self, tx: str, record: dict[str, Any]) -> None:
        """Ends an intent. A log that cannot be written (a full disk) must not undo what is done:
        the intent stays open until there is room, and recovery looks at it if there never is."""
        with self._lock:
            self.open.add(tx)
            self._unsaid[tx] = record
        self.say_unsaid()

    def say_unsaid(self) -> None:
        """Say what became of intents, also of those whose end found no room before. Never raises."""
        while True:
            with self._lock:
                if not self._unsaid:
                    return
                tx, record = self._unsaid.popitem()
            try:
                self._append(record)
            except (StorageFull, Unavailable):
                with self._lock:
                    self._unsaid[tx] = record
                return
            with self._lock:
                self.open.discard(tx)

    def flushed(self, upto: int) -> None:
        """Note that everything before `upto` is durable elsewhere."""
        if upto > self._flushed:
            size = self._append({"at": timestamp(now()), "flushed": upto})
            with self._lock:
                # What others wrote between the mark and this record is not flushed.
                self._flushed = self._size if size == upto else upto

    @property
    def unflushed(self) -> bool:
        return self._size > self._flushed

    def sync(self) -> None:
        upto = self._size
        # One at a time: of several at once the kernel tells only one that it failed, and the others yes.
        with self._syncing, translate_errors("The log cannot be made durable"):
            fd, size = self._fd, self._size
            # A second fsync would say yes while the disk holds the old bytes.
            if self.spoiled or fd < 0:
                raise Unavailable("This part of the log cannot be made durable any more.")
            if self._synced >= upto:
                return
            try:
                os.fdatasync(fd)
                if not self._named:
                    for directory in (self.path.parent, self.path.parent.parent):
                        _fsync_directory(directory)
                    self._named = True
            except OSError:
                self.spoiled = True
                raise
            # Let go meanwhile: perhaps another file, which had its number by then, was synced.
            if self._fd != fd:
                raise Unavailable("This part of the log was closed.")
            self._synced = size

    def settle(self) -> None:
        """Nothing in it is of concern any more: give it its final name, and let it go."""
        if self._size:
            try:
                if self.spoiled:
                    self._copy()
                # Or its last lines might be lost and its name kept: intents that nobody would ever end.
                os.fdatasync(self._fd)
            except OSError as e:
                log.warning("%s stays as it is: %s", self.path.name, os.strerror(e.errno or 0))
                self.spoiled = True
                self.release()
                return
        try:
            if self._size:
                self.path.rename(self.path.with_name(self.path.name.removesuffix(OPEN) + SETTLED))
            else:
                self.path.unlink(missing_ok=True)
        except OSError as e:  # it is looked at again
            log.warning("%s keeps its name: %s", self.path.name, os.strerror(e.errno or 0))
        self.release()

    def _copy(self) -> None:
        """Into another file of this name: of the one that failed, a second fsync would say yes and mean nothing."""
        copy = self.path.with_suffix(".copy")
        copy.unlink(missing_ok=True)
        fd = os.open(copy, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = self.path.read_bytes()
            if os.write(fd, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            copy.rename(self.path)
        except OSError:
            os.close(fd)
            copy.unlink(missing_ok=True)
            raise
        with self._lock:
            failed, self._fd, self.spoiled, self._synced = self._fd, fd, False, 0
        os.close(failed)

    def release(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _append(self, record: dict[str, Any], opens: str | None = None) -> int:
        """Where the record begins."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._torn:  # the disk filled up within the line before: end that one first
                line = b"\n" + line
            begins = self._size
            try:
                written = os.write(self._fd, line)
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
            return begins


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def hold(fd: int, path: Path) -> bool:
    """Whether this process holds the file from now on; False when another does, or it has gone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(fd).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def read(path: Path) -> tuple[list[Written], int]:
    """The transactions of a segment, and how much of it was flushed."""
    found: dict[str, Written] = {}
    flushed = offset = 0
    with path.open("rb") as lines:
        for line in lines:
            here, offset = offset, offset + len(line)
            try:
                record = json.loads(line)
                if "flushed" in record:
                    flushed = int(record["flushed"])
                elif record["status"] == "pending":
                    found[record["tx"]] = Written(
                        id=record["tx"],
                        operation=record["op"],
                        file_id=record.get("file_id"),
                        key=record.get("key"),
                        by=record["by"],
                        status="pending",
                        started=record["at"],
                        revision=record.get("revision", 0),
                        offset=here,
                    )
                elif record["status"] in STATUSES and record["tx"] in found:
                    t = found[record["tx"]]
                    t.status, t.finished, t.error = record["status"], record["at"], record.get("error")
                    t.offset = here
            except (ValueError, KeyError, TypeError):  # torn by a crash
                continue
    return list(found.values()), flushed
