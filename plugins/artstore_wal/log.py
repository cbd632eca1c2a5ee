"""The log of intents: what was begun, and what became of it. Segment files, one writer process each.

    <home>/state/wal/<milliseconds>-<pid>-<number>-<random>.jsonl      being written, held by `flock`
    <home>/state/wal/<...>.settled.jsonl                      nothing in it is of concern to recovery

One JSON line a record: `{"tx", "at", "status": "pending", "op", "file_id", "key", "by", ...}` opens an intent,
`{"tx", "at", "status": "committed" | "rolled_back" | "failed", "error"}` ends it, and `{"at", "flushed": N}`
says that what was committed before byte N is durable in the cache too. The log is not synced for an upload,
whose staged files are its durable trace; it is for an update (`durable=True`). A line torn by a crash is
skipped. It does not depend on the cache, and it may be deleted while the element is stopped.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
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
from artstore.posix import translate_errors, translate_startup_errors
from artstore.spi import API, AbandonedLog, Context, Log, Status, Transaction
from artstore_wal.segment import OPEN, SETTLED, Segment, Written, hold, read

log = logging.getLogger("artstore.wal")


class Intent:
    """An intent in the hands of the process that opened it; ended exactly once."""

    def __init__(self, segment: Segment, tx: str) -> None:
        self._segment = segment
        self.tx = tx

    def commit(self) -> None:
        self.end("committed", None)

    def roll_back(self, error: str) -> None:
        self.end("rolled_back", error)

    def fail(self, error: str) -> None:
        self.end("failed", error)

    def sync(self) -> None:
        self._segment.sync()

    def end(self, status: Status, error: str | None) -> None:
        record = {"tx": self.tx, "at": timestamp(now()), "status": status}
        if error:
            record["error"] = error[:500]
        self._segment.end(self.tx, record)


@dataclass
class AbandonedSegment:
    """A dead process's segment, held, with what recovery has to look at."""

    certainly_dead: ClassVar[bool] = True
    segment: Segment
    pending: list[Written] = field(default_factory=list)
    uncheckpointed: list[Written] = field(default_factory=list)

    def end(self, transaction: Transaction, status: Status, error: str | None = None) -> None:
        Intent(self.segment, transaction.id).end(status, error)

    def close(self) -> None:
        if not self.segment.open:  # a full disk: then it is looked at again
            self.segment.settle()
        self.release()

    def release(self) -> None:
        self.segment.release()


class FileLog(Log):
    """The log of one node, in `<home>/state/wal`."""

    API: ClassVar[int] = API

    class Settings(BaseModel, extra="forbid"):
        """`[wal.files]`: how much is kept of finished segments."""

        keep_hours: float = Field(default=168, ge=0, description="hours")
        max_size: ByteSize = Field(default=ByteSize(64 << 20), description="bytes of finished intents")

    segment_size: int = 4 << 20
    """Bytes after which a new segment is begun."""

    def __init__(self, settings: Settings, context: Context) -> None:
        directory = context.state / "wal"
        with translate_startup_errors(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._directory = directory
        self._keep = settings.keep_hours * 3600
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
    ) -> Intent:
        at = now()
        tx = uuid7(at)
        told = {"file_id": file_id, "key": key, "by": by, "revision": revision or None}
        record: dict[str, Any] = {"tx": tx, "at": timestamp(at), "status": "pending", "op": operation}
        record |= {k: v for k, v in told.items() if v is not None}
        with self._lock:  # also while it is written: a segment without an open intent may be settled
            segment = self._writable()
            segment.begin(tx, record)
        return Intent(segment, tx)

    def _writable(self) -> Segment:
        if self._current is not None and (self._current.size > self.segment_size or self._current.spoiled):
            self._full.append(self._current)
            self._current = None
        if self._current is None:
            self._current = self._create()
        return self._current

    def _create(self) -> Segment:
        while True:
            # The number orders what one process begins within a millisecond.
            number = f"{next(self._numbers):06d}"
            name = f"{int(time.time() * 1000):013d}-{os.getpid()}-{number}-{secrets.token_hex(4)}{OPEN}"
            path = self._directory / name
            with translate_errors("The log cannot be begun"):
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            try:
                with translate_errors("The log cannot be begun"):
                    if hold(fd, path):
                        return Segment(path, fd)
            except BaseException:
                os.close(fd)
                path.unlink(missing_ok=True)
                raise
            os.close(fd)

    def position(self) -> list[tuple[Segment, int]]:
        with self._lock:
            segments = [*self._full, *([self._current] if self._current else [])]
        for segment in segments:
            segment.say_unsaid()
        return [(s, s.size) for s in segments]

    def checkpoint(self, marks: list[tuple[Segment, int]]) -> None:
        for segment, upto in marks:
            segment.flushed(upto)
        with translate_errors("Old parts of the log cannot be put away"):
            self._put_away(marks)

    def _put_away(self, marks: list[tuple[Segment, int]]) -> None:
        with self._lock:
            done = [s for s, upto in marks if s in self._full and not s.open and s.size >= upto]
            self._full = [s for s in self._full if s not in done]
        for segment in done:
            segment.settle()
        self._prune()

    def _prune(self) -> None:
        kept = 0
        for path in sorted(self._directory.glob("*" + SETTLED), reverse=True):
            try:
                stat = path.stat()
                kept += stat.st_size
                if kept > self._max_size or time.time() - stat.st_mtime > self._keep:
                    path.unlink()
            except FileNotFoundError:
                continue

    def abandoned(self) -> Iterator[AbandonedLog]:
        with translate_errors("The log of a dead process cannot be read"):
            yield from self._abandoned()

    def _abandoned(self) -> Iterator[AbandonedLog]:
        for path in sorted(self._directory.glob("*" + OPEN)):
            if path.name.endswith(SETTLED):
                continue
            try:
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                held = Segment(path, fd) if hold(fd, path) else None
            except OSError:  # or nobody could settle it as long as this process lives
                os.close(fd)
                raise
            if held is None:
                os.close(fd)
                continue
            found = AbandonedSegment(held)
            try:
                transactions, flushed = read(path)
            except OSError:
                found.release()
                raise
            for t in transactions:
                if t.status == "pending":
                    found.pending.append(t)
                elif t.offset >= flushed:
                    found.uncheckpointed.append(t)
            yield found

    def transactions(
        self, *, status: Status | None = None, limit: int = 100, before: str | None = None
    ) -> list[Transaction]:
        newest: list[Transaction] = []
        segments: list[tuple[float, Path]] = []
        for path in self._directory.glob("*" + OPEN):
            try:
                segments.append((path.stat().st_mtime, path))
            except FileNotFoundError:
                continue
        for mtime, path in sorted(segments, reverse=True):
            # What ended before the oldest one found began cannot hold a newer one.
            if (
                newest
                and len(newest) >= limit
                and int(newest[-1].id.replace("-", "")[:12], 16) > (mtime + 1) * 1000
            ):
                break
            try:
                found, _ = read(path)
            except FileNotFoundError:
                continue
            wanted = (t for t in found if (status in (None, t.status)) and (before is None or t.id < before))
            newest = heapq.nlargest(limit, [*newest, *wanted], key=lambda t: t.id)
        return newest

    def check(self) -> None:
        with self._lock:
            self._writable()

    def close(self) -> None:
        with self._lock:
            segments = [*self._full, *([self._current] if self._current else [])]
            self._full, self._current = [], None
        for segment in segments:
            segment.say_unsaid()
            if segment.open or segment.unflushed:
                segment.release()
            else:
                segment.settle()
