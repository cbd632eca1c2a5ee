"""What is done at start, and for dead neighbours while running: every unfinished change ends whole or gone.

Idempotent, safe when killed itself; the cost depends on what was in flight, not on the number of files.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from artstore.attr import Attr, Timestamp, timestamp
from artstore.errors import ConfigError
from artstore.ids import now
from artstore.observers import retell, tell_again
from artstore.rows import BATCH, believe, put_rows, repair_row
from artstore.spi import Abandoned, Transaction

if TYPE_CHECKING:
    from artstore.kernel import Kernel

log = logging.getLogger("artstore.recovery")

CHECKPOINT = "checkpoint.json"
MARGIN = timedelta(hours=1)
"""How far before the checkpoint recovery looks: files of younger uploads lie within."""
ORPHAN_AGE = 3600.0
"""Seconds after which data without a sidecar (or the reverse) is nobody's upload under way."""
CLOCK_SLACK = timedelta(minutes=5)


class Checkpoint(BaseModel):
    """Up to where the cache is known to be durable. `stamps`: the marks a cache may carry to be believed."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    at: Timestamp
    directory: str
    stamps: tuple[str, ...]


class Report(BaseModel):
    """What recovery found and did; numbers of files."""

    finished: int = 0
    undone: int = 0
    deleted: int = 0
    quarantined: int = 0
    rows_written: int = 0
    rows_removed: int = 0
    rebuilt: bool = False

    def __str__(self) -> str:
        done = [f"{v} {k.replace('_', ' ')}" for k, v in self if v and v is not True]
        return ", ".join((["cache rebuilt"] if self.rebuilt else []) + done) or "nothing to do"


def recover(kernel: Kernel) -> Report:
    """Everything that has to be true before the element serves. Raises `ConfigError`, `Unavailable`."""
    report = Report()
    with kernel.alone("recovery"), ExitStack() as stack:
        checkpoint = _read_checkpoint(kernel)
        _check_clock(checkpoint)
        doubtful = checkpoint is None or kernel.cache.stamp() not in checkpoint.stamps
        if doubtful:
            stack.enter_context(kernel.keeper.doubting())  # live neighbours ask this cache as well
            kernel.cache.clear()
            report.rebuilt = checkpoint is not None or any(True for _ in kernel.backend.directories())
        since = "" if doubtful or checkpoint is None else checkpoint.directory
        begun = now()
        _settle(kernel, report, since)
        _finish_deletions(kernel, report)
        lonely = kernel.backend.lonely()
        for directory in kernel.backend.directories(since):
            compare(kernel, directory, report, lonely=lonely)
        # Until the new mark is in the cache, the old one counts as well: a crash between the two costs nothing.
        stamp = secrets.token_hex(8)
        # And until then the rows are not durable either: the old directory stays as well.
        if doubtful or checkpoint is None:
            _write_checkpoint(kernel, begun, (stamp,))
        else:
            _put_checkpoint(
                kernel, checkpoint.model_copy(update={"stamps": (*checkpoint.stamps[-1:], stamp)})
            )
        kernel.cache.set_stamp(stamp)
        _write_checkpoint(kernel, begun, (stamp,))
        kernel.keeper.forgive()
    log.info("recovery: %s", report)
    return report


def settle(kernel: Kernel) -> Report:
    """Settle what dead neighbours left, while this process serves."""
    report = Report()
    with kernel.alone("recovery"):
        if _settle(kernel, report, since=""):
            _finish_deletions(kernel, report)
            log.warning("settled what a dead neighbour left: %s", report)
        checkpoint = _read_checkpoint(kernel)
        # One that died while it rebuilt the cache is not forgiven before another has done it.
        if checkpoint is not None and kernel.cache.stamp() in checkpoint.stamps:
            kernel.keeper.forgive()
    return report


def move_checkpoint(kernel: Kernel, flushed: datetime) -> None:
    """The cache is durable up to `flushed`: the next recovery begins there."""
    with kernel.alone("recovery"):
        checkpoint = _read_checkpoint(kernel)
        if checkpoint is not None and checkpoint.directory < kernel.naming.directory_at(flushed - MARGIN):
            _write_checkpoint(kernel, flushed, checkpoint.stamps)


def compare(kernel: Kernel, directory: str, report: Report, *, lonely: bool) -> None:
    """Make the rows of one directory say what its sidecars say; move broken pairs out of the way.

    A pair is broken for good when nobody else is writing (`lonely`) or when it is older than an hour.
    Names that are not ours are left alone.
    """
    rows = kernel.cache.directory(directory)
    missing: list[Attr] = []
    for entry in kernel.backend.scan(directory):
        filename = entry.key.rpartition("/")[2]
        if entry.data and entry.sidecar:
            if filename not in rows:
                attr = believe(kernel, entry.key)
                if attr is not None:
                    missing.append(attr)
            rows.pop(filename, None)
        elif kernel.naming.parse(filename) is not None and (
            lonely or kernel.backend.age(entry.key) > ORPHAN_AGE
        ):
            log.error("%s has no %s: moved to quarantine", entry.key, "sidecar" if entry.data else "data")
            kernel.backend.quarantine(entry.key)
            report.quarantined += 1
        if len(missing) == BATCH:
            _put(kernel, missing, report, lonely=lonely)
    _put(kernel, missing, report, lonely=lonely)
    for filename, file_id in rows.items():
        # Looked at once more under its lock: an id that its caller chose may have come back elsewhere.
        repair_row(kernel, f"{directory}/{filename}", file_id)
        report.rows_removed += 1


def _settle(kernel: Kernel, report: Report, since: str) -> bool:
    """Staged uploads first, then the logs that speak of them. True when a dead process had left anything."""
    found = False
    keys: list[str] = []
    for settled in kernel.backend.reap():
        found = True
        keys.append(settled.key)
        if settled.outcome == "finished":
            report.finished += 1
        else:
            report.undone += 1
    _touch(kernel, keys)
    for abandoned in kernel.wal.abandoned():
        found = True
        _settle_log(kernel, abandoned, since)
    return found


def _finish_deletions(kernel: Kernel, report: Report) -> None:
    """What has a tombstone ends gone, unless its sidecar is in place (again, or still: then it was never gone)."""
    buried = list(kernel.backend.tombstones())
    _touch(kernel, buried)
    for key in buried:
        kernel.backend.remove_data(key)
    if buried:
        kernel.cache.flush()
        for key in buried:
            kernel.backend.forget(key)
        report.deleted += len(buried)


def _settle_log(kernel: Kernel, abandoned: Abandoned, since: str) -> None:
    doubtful = [t for t in abandoned.unflushed if t.status != "rolled_back" and t.operation != "mode"]
    try:
        for t in abandoned.unflushed:
            # Rows of uploads in the directories that are compared anyway need no second look.
            if t.operation != "upload" or (t.key or "") < since:
                _repair(kernel, t)
        for t in abandoned.pending:
            if t.operation == "mode":
                done = kernel.element.record().mode == t.key
                abandoned.end(t, "committed" if done else "rolled_back", "the process died")
                continue
            if t.operation == "upload" and t.key:
                kernel.backend.settle(t.key)
            there = _repair(kernel, t)
            if there == (t.operation != "delete"):
                abandoned.end(t, "committed")
                doubtful.append(t)
            else:
                abandoned.end(t, "rolled_back", "the process died")
        kernel.cache.flush()
        if retell(kernel, doubtful):
            abandoned.settle()
    finally:
        abandoned.release()


def _repair(kernel: Kernel, t: Transaction) -> bool:
    return bool(t.key and t.file_id) and repair_row(kernel, str(t.key), str(t.file_id))


def _touch(kernel: Kernel, keys: Iterable[str]) -> None:
    """Make the rows of whatever lies, or lay, under `keys` true."""
    rows: dict[str, str] = {}
    last = ""
    for key in sorted(keys):
        directory, _, filename = key.rpartition("/")
        if directory != last:
            rows, last = kernel.cache.directory(directory), directory
        attr = believe(kernel, key)
        file_id = rows.get(filename) if attr is None else attr.file_id
        if file_id is not None:
            repair_row(kernel, key, file_id)


def _put(kernel: Kernel, attrs: list[Attr], report: Report, *, lonely: bool) -> None:
    if attrs:
        put_rows(kernel, attrs, lonely=lonely)
        report.rows_written += len(attrs)
        for attr in () if report.rebuilt else attrs:
            tell_again(kernel, attr.key, attr.file_id)  # a power cut took its row, and perhaps the word of it
        attrs.clear()


def _read_checkpoint(kernel: Kernel) -> Checkpoint | None:
    document = kernel.backend.record(CHECKPOINT)
    if document is None:
        return None
    try:
        return Checkpoint.model_validate_json(document)
    except ValidationError:
        log.error("the checkpoint cannot be read: the cache is rebuilt")
        return None


def _write_checkpoint(kernel: Kernel, at: datetime, stamps: Iterable[str]) -> None:
    checkpoint = Checkpoint(
        at=timestamp(at), directory=kernel.naming.directory_at(at - MARGIN), stamps=tuple(stamps)
    )
    _put_checkpoint(kernel, checkpoint)


def _put_checkpoint(kernel: Kernel, checkpoint: Checkpoint) -> None:
    kernel.backend.put_record(CHECKPOINT, json.dumps(checkpoint.model_dump(mode="json"), indent=2).encode())


def _check_clock(checkpoint: Checkpoint | None) -> None:
    if checkpoint is None:
        return
    last = datetime.fromisoformat(checkpoint.at)
    if now() < last - CLOCK_SLACK:
        raise ConfigError(
            f"The clock says {timestamp(now())}, but this store was in use at {checkpoint.at}.",
            place="the system clock",
            cure="Set the clock; if it is right now and was wrong then, remove .artstore/checkpoint.json.",
        )
