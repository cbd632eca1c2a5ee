"""The log of intents in segment files, each written by one process.

    <home>/state/wal/<milliseconds>-<pid>-<number>-<random>.jsonl      open: its process owns it (`OwnedFile`)
    <home>/state/wal/<...>.settled.jsonl                               closed: recovery need not read it

A record is one line of JSON. `{"tx", "at", "status": "pending", "op", "file_id", "key", "by", ...}` opens an intent,
`{"tx", "at", "status": "committed" | "rolled_back" | "failed", "error"}` ends it, and `{"at", "flushed": N}` says that
what ended before byte N is durable in the cache too. Files of other names are foreign: they are neither read nor
removed. For an upload the log is not synced, because its staged files are
its durable trace; for an update it is (`Intent.sync`). A line that a crash tore is skipped. The log does not depend on
the cache, and it may be deleted while the element is stopped.
"""

from __future__ import annotations

import heapq
import itertools
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ByteSize, Field

from artstore.attr import timestamp
from artstore.ids import FileId, Key, now, uuid7
from artstore.posix import OwnedFile, translate_errors, translate_startup_errors
from artstore.spi import API, AbandonedLog, Context, Intent, Log, Size, Status, Transaction
from artstore_wal.segment import CLOSED, OPEN, LoggedTransaction, Segment, read_segment

_NAME = re.compile(r"\d{13}-\d+-\d{6,}-[0-9a-f]{8}(\.settled)?\.jsonl", re.ASCII)
ERROR_LIMIT = 500
"""Characters of the error of an intent that are kept."""


class FileIntent(Intent):
    """An open intent in a segment."""

    def __init__(self, segment: Segment, tx: str) -> None:
        self._segment = segment
        self._tx = tx

    def commit(self) -> None:
        self.end("committed", None)

    def roll_back(self, error: str) -> None:
        self.end("rolled_back", error)

    def end_in_doubt(self, error: str) -> None:
        self.end("failed", error)

    def sync(self) -> None:
        self._segment.sync()

    def end(self, status: Status, error: str | None) -> None:
        """End it with any status. Never raises."""
        record = {"tx": self._tx, "at": timestamp(now()), "status": status}
        if error:
            record["error"] = error[:ERROR_LIMIT]
        self._segment.end(self._tx, record)


@dataclass
class AbandonedSegment:
    """The segment of a dead process, an `AbandonedLog`."""

    certainly_dead: ClassVar[bool] = True
    segment: Segment
    pending: list[LoggedTransaction] = field(default_factory=list)
    uncheckpointed: list[LoggedTransaction] = field(default_factory=list)

    def end(self, transaction: Transaction, status: Status, error: str | None = None) -> None:
        FileIntent(self.segment, transaction.id).end(status, error)

    def close(self) -> None:
        if (
            not self.segment.open
        ):  # an end could not be written on a full disk: recovery reads the segment again
            self.segment.close()
        self.release()

    def release(self) -> None:
        self.segment.release()


class FileLog(Log):
    """The log of one node, in `<home>/state/wal`."""

    API: ClassVar[int] = API

    class Settings(BaseModel, extra="forbid"):
        """`[wal.files]`: how long closed segments are kept."""

        keep_hours: float = Field(default=168, ge=0, description="hours that a closed segment is kept")
        max_size: Size = Field(
            default=ByteSize(64 << 20), description="bytes of closed segments that are kept"
        )

    segment_size: int = 4 << 20
    """Bytes after which a new segment is opened."""

    def __init__(self, settings: Settings, context: Context) -> None:
        directory = context.state / "wal"
        if not context.read_only:
            with translate_startup_errors(directory):
                directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._directory = directory
        self._keep_seconds = settings.keep_hours * 3600
        self._max_size = int(settings.max_size)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._current: Segment | None = None
        self._full: list[Segment] = []

    def begin(
        self,
        operation: str,
        *,
        by: str,
        file_id: FileId | None = None,
        key: Key | None = None,
        revision: int = 0,
    ) -> FileIntent:
        at = now()
        tx = uuid7(at)
        record: dict[str, Any] = {"tx": tx, "at": timestamp(at), "status": "pending", "op": operation}
        optional = {"file_id": file_id, "key": key, "by": by, "revision": revision or None}
        record |= {name: value for name, value in optional.items() if value is not None}
        with self._lock:  # also while it is written: a segment without an open intent may be closed
            segment = self._writable_segment()
            segment.begin(tx, record)
        return FileIntent(segment, tx)

    def _writable_segment(self) -> Segment:
        """Return the current segment, or a new one when it is full or its fsync failed. Called under the lock."""
        if self._current and (self._current.size > self.segment_size or self._current.fsync_failed):
            self._full.append(self._current)
            self._current = None
        if self._current is None:
            with translate_errors("The log cannot be opened"):
                self._current = self._create_segment()
        return self._current

    def _create_segment(self) -> Segment:
        while True:
            # The number orders the segments that one process opens within a millisecond.
            number = f"{next(self._numbers):06d}"
            name = f"{int(time.time() * 1000):013d}-{os.getpid()}-{number}-{secrets.token_hex(4)}{OPEN}"
            try:
                return _open_segment(OwnedFile.create(self._directory / name))
            except FileExistsError:  # another process took the empty file for that of a dead process
                continue

    def _segments(self) -> list[Segment]:
        """Return the segments of this process, oldest first. Called under the lock."""
        return [*self._full, *([self._current] if self._current else [])]

    def position(self) -> list[tuple[Segment, int]]:
        with self._lock:
            segments = self._segments()
        for segment in segments:
            segment.write_pending_ends()
        return [(segment, segment.size) for segment in segments]

    def checkpoint(self, position: list[tuple[Segment, int]]) -> None:
        for segment, upto in position:
            segment.checkpoint(upto)
        with self._lock:
            # In this order: once no intent is open, the size is final. What ended after `position` keeps it open.
            done = [s for s, _ in position if s in self._full and not s.open and s.is_checkpointed]
            self._full = [s for s in self._full if s not in done]
        for segment in done:
            segment.close()
        with translate_errors("Old parts of the log cannot be removed"):
            self._prune()

    def _prune(self) -> None:
        """Remove closed segments that are too old, and the oldest of those that are too large together."""
        kept = 0
        for path in sorted(self._paths(), reverse=True):
            if not path.name.endswith(CLOSED):
                continue
            try:
                stat = path.stat()
                kept += stat.st_size
                if kept > self._max_size or time.time() - stat.st_mtime > self._keep_seconds:
                    path.unlink()
            except FileNotFoundError:  # another process of this node removed it
                continue

    def abandoned(self) -> Iterator[AbandonedLog]:
        what = "The log of a dead process cannot be read"
        with translate_errors(what):
            paths = sorted(self._paths())
        for path in paths:
            if path.name.endswith(CLOSED):
                continue
            with translate_errors(what):
                file = OwnedFile.seize(path)
                left = _read_abandoned(file) if file else None
            if left:
                yield left

    def transactions(
        self, *, status: Status | None = None, limit: int = 100, before: str | None = None
    ) -> list[Transaction]:
        newest: list[Transaction] = []
        for mtime, path in self._newest_first():
            # A segment last written before the oldest transaction found was begun holds no newer one.
            if newest and len(newest) >= limit and _milliseconds(newest[-1]) > (mtime + 1) * 1000:
                break
            try:
                found, _ = read_segment(path)
            except FileNotFoundError:
                continue
            wanted = (t for t in found if status in (None, t.status) and (before is None or t.id < before))
            newest = heapq.nlargest(limit, [*newest, *wanted], key=lambda t: t.id)
        return newest

    def _newest_first(self) -> list[tuple[float, Path]]:
        """Return the segments of all processes and when each was last written."""
        found: list[tuple[float, Path]] = []
        for path in self._paths():
            try:
                found.append((path.stat().st_mtime, path))
            except FileNotFoundError:
                continue
        return sorted(found, reverse=True)

    def _paths(self) -> list[Path]:
        """Return the segments of all processes, in no order."""
        return [path for path in self._directory.glob("*" + OPEN) if _NAME.fullmatch(path.name)]

    def check(self) -> None:
        with self._lock:
            self._writable_segment()

    def close(self) -> None:
        with self._lock:
            segments = self._segments()
            self._full, self._current = [], None
        for segment in segments:
            segment.write_pending_ends()
            if not segment.open and segment.is_checkpointed:
                segment.close()
            else:
                segment.release()


def _open_segment(file: OwnedFile) -> Segment:
    try:
        return Segment(file)
    except OSError:  # no process could recover the file for as long as this one lives
        file.close()
        raise


def _read_abandoned(file: OwnedFile) -> AbandonedSegment:
    left = AbandonedSegment(_open_segment(file))
    try:
        transactions, checkpointed = read_segment(file.path)
    except OSError:
        left.release()
        raise
    for t in transactions:
        if t.status == "pending":
            left.pending.append(t)
        elif t.offset >= checkpointed:
            left.uncheckpointed.append(t)
    return left


def _milliseconds(transaction: Transaction) -> int:
    """Return when a transaction was begun: its id is a UUIDv7."""
    return int(transaction.id.replace("-", "")[:12], 16)
