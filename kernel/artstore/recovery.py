"""What is done at start, and for dead neighbours while running: every unfinished change ends whole or gone.

Idempotent, safe when killed itself; the cost depends on what was in flight, not on the number of files.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel

from artstore import checkpoint, reservation
from artstore.attr import Attr, decode, with_changed_bytes
from artstore.errors import Damaged, NotFound, PreconditionFailed, StorageFull, Unavailable
from artstore.ids import Key, now
from artstore.observers import retell, tell_again
from artstore.rows import BATCH, believe, put_rows, repair_row
from artstore.spi import AbandonedLog, Transaction

if TYPE_CHECKING:
    from artstore.kernel import Kernel

log = logging.getLogger("artstore.recovery")

ORPHAN_AGE = 3600.0
"""Seconds after which data without a sidecar (or the reverse) is nobody's upload under way."""


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
    """Everything that has to be true before the element serves. Raises `ConfigError`, `Unavailable`.

    The tree is settled on return, but for what a full disk has no room for. What a cache that does not answer could
    not be told is owed. The keeper goes on with both, and until then files are looked for in the tree.
    """
    report = Report()
    keys: list[str] = []
    with kernel.alone("recovery"):
        checkpoint.check_clock(checkpoint.read(kernel))
        try:
            _reap(kernel, report, keys)
            for key in kernel.backend.list_tombstones():
                kernel.backend.delete_data(key)
        except StorageFull as e:
            log.warning("what dead processes left is settled once there is room: %s", e.detail)
        try:
            _fill(kernel, keys, report, lonely=kernel.backend.is_sole_writer())
        except (Unavailable, StorageFull) as e:
            kernel.keeper.distrust()
            _owe(kernel, keys)
            log.warning("the cache is not whole yet, files are found without it: %s", e.detail)
    if report != Report():
        log.info("recovery: %s", report)
    return report


def settle(kernel: Kernel) -> Report:
    """Settle what dead neighbours left, and fill a cache that was begun anew, while this process serves."""
    report = Report()
    keys: list[str] = []
    with kernel.alone("recovery"):
        try:
            _reap(kernel, report, keys)
            if kernel.keeper.distrusted or not checkpoint.knows(kernel):
                _fill(kernel, keys, report, lonely=False)
                log.warning("the cache is whole again: %s", report)
                return report
            _touch(kernel, keys)
            if _settle_logs(kernel, since="") or keys:
                _finish_deletions(kernel, report)
                log.warning("settled what a dead neighbour left: %s", report)
            # One that died while it filled the cache is not forgiven before another has done it.
            kernel.keeper.forgive()
        except (Unavailable, StorageFull):
            _owe(kernel, keys)
            raise
    return report


def flush(kernel: Kernel, begun: datetime, *, move: bool) -> None:
    """Make the cache durable, with a new mark; the next recovery begins at `begun` when it may `move` there."""
    with kernel.alone("recovery"):
        known, stamp = checkpoint.read(kernel), kernel.cache.generation()
        if known is None or stamp is None or stamp not in known.stamps:
            raise Unavailable("The cache was begun anew; it is to be filled first.")
        checkpoint.renew(kernel, known, stamp, begun, move=move)


def _fill(kernel: Kernel, keys: list[str], report: Report, *, lonely: bool) -> None:
    """Make the cache say what the tree says: all of it, or where it is known what happened since the checkpoint."""
    known, stamp = checkpoint.read(kernel), kernel.cache.generation()
    with ExitStack() as stack:
        if known is None or stamp is None or stamp not in known.stamps:
            kernel.keeper.distrust()  # live neighbours ask this cache as well
            # And other nodes, where an upload that is tried again would else wait for this.
            stack.enter_context(kernel.keeper.doubting())
            report.rebuilt = known is not None or any(True for _ in kernel.backend.list_directories())
            known, stamp = None, f"being filled {secrets.token_hex(8)}"
            kernel.cache.clear()
            kernel.cache.set_generation(stamp)
        since = "" if known is None else known.directory
        begun = now()
        _touch(kernel, keys)
        _settle_logs(kernel, since)
        _finish_deletions(kernel, report)
        for directory in kernel.backend.list_directories(since):
            compare(kernel, directory, report, lonely=lonely)
        checkpoint.renew(kernel, known, stamp, begun)
        kernel.keeper.trust()
        kernel.keeper.forgive()


def compare(kernel: Kernel, directory: str, report: Report, *, lonely: bool) -> None:
    """Make the rows of one directory say what its sidecars say; move broken pairs out of the way.

    A pair is broken for good when nobody else is writing (`lonely`) or when it is older than an hour, and nobody has it
    under way. Names that are not ours are left alone.
    """
    rows = kernel.cache.ids_in(directory)
    missing: list[Attr] = []
    halves: set[str] = set()
    for entry in kernel.backend.list(directory):
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
            halves.add(entry.key)
        if len(missing) == BATCH:
            _put(kernel, missing, report, lonely=lonely)
    _put(kernel, missing, report, lonely=lonely)
    if halves:
        _set_aside(kernel, directory, halves, report)
    for filename, file_id in rows.items():
        # Looked at once more under its lock: an id that its caller chose may have come back elsewhere.
        repair_row(kernel, f"{directory}/{filename}", file_id)
        report.rows_removed += 1


def _set_aside(kernel: Kernel, directory: str, halves: set[str], report: Report) -> None:
    """Move halves of files to quarantine, if they are still that: the other half of one may wait for room in the
    staging area, and a living process may be about to delete or to publish another."""
    halves -= {*kernel.backend.in_progress(), *kernel.backend.list_tombstones()}
    for entry in list(kernel.backend.list(directory)):
        if entry.key in halves and not (entry.data and entry.sidecar):
            log.error("%s has no %s: moved to quarantine", entry.key, "sidecar" if entry.data else "data")
            kernel.backend.quarantine(entry.key)
            report.quarantined += 1


def _reap(kernel: Kernel, report: Report, keys: list[str]) -> None:
    """Staged uploads end whole or gone; `keys` gets those whose rows are to be looked at."""
    for settled in kernel.backend.recover():
        keys.append(settled.key)
        if settled.outcome == "finished":
            report.finished += 1
        else:
            report.undone += 1


def _owe(kernel: Kernel, keys: Iterable[str]) -> None:
    """The rows of what was reaped, which the cache would not take."""
    for key in keys:
        attr = believe(kernel, key)
        if attr is not None:
            kernel.keeper.owe(attr.file_id, key, None)


def _settle_logs(kernel: Kernel, since: str) -> bool:
    """The logs that speak of what was staged. True when a dead process had left any."""
    found = False
    for abandoned in kernel.wal.abandoned():
        found = True
        _settle_log(kernel, abandoned, since)
    return found


def _finish_deletions(kernel: Kernel, report: Report) -> None:
    """What has a tombstone ends gone, unless its sidecar is in place (again, or still: then it was never gone)."""
    buried = list(kernel.backend.list_tombstones())
    _touch(kernel, buried)
    for key in buried:
        kernel.backend.delete_data(key)
    if buried:
        kernel.cache.flush()
        for key in buried:
            kernel.backend.purge(key)
        report.deleted += len(buried)


def _settle_log(kernel: Kernel, abandoned: AbandonedLog, since: str) -> None:
    doubtful = [t for t in abandoned.uncheckpointed if t.status != "rolled_back" and t.operation != "mode"]
    # To a store that others share, too, a request of the dead may still be on its way.
    late = not abandoned.certainly_dead or kernel.backend.capabilities.shared
    try:
        for t in abandoned.uncheckpointed:
            # Rows of uploads in the directories that are compared anyway need no second look.
            if t.operation != "upload" or (t.key or "") < since:
                _repair(kernel, t)
        for t in abandoned.pending:
            done = _settle(kernel, t, late=late)
            if done and t.operation != "mode":
                doubtful.append(t)
            abandoned.end(t, "committed" if done else "rolled_back", None if done else "the process died")
        kernel.cache.flush()
        if retell(kernel, doubtful):
            abandoned.close()
    finally:
        abandoned.release()


def _settle(kernel: Kernel, t: Transaction, *, late: bool) -> bool:
    """Whether the change was carried out; if not, it cannot be after this. `late`: whoever began it may not be dead."""
    if t.operation == "mode":
        return kernel.element.settle(t.key, dead=not late)
    if t.operation == "upload" and t.key:
        reservation.settle(kernel, t.key, late=late)
    done = t.operation == "upload" or not t.key or _changed(kernel, t.key, t.revision, late=late)
    there = _repair(kernel, t)
    if there and t.operation == "update" and t.key:
        kernel.backend.resolve(t.key)  # its writer may have died before the swap was durable
    return done and there == (t.operation != "delete")


def _changed(kernel: Kernel, key: Key, revision: int, *, late: bool) -> bool:
    """Whether the sidecar of `key` has come to `revision` (0: was taken away). If not, then with `late` nobody who saw
    it before this can change it after: it has other bytes."""
    while True:
        try:
            sidecar = kernel.backend.read_sidecar(key)
            attr = decode(sidecar, key)
            if revision and attr.revision >= revision:
                return True
            if late:
                limit = kernel.backend.capabilities.sidecar_limit
                kernel.backend.replace_sidecar(key, with_changed_bytes(sidecar, limit), if_match=sidecar)
        except PreconditionFailed:
            continue
        except NotFound:
            return True
        except Damaged:
            pass  # nor can anybody who saw it whole
        return False


def _repair(kernel: Kernel, t: Transaction) -> bool:
    return bool(t.key and t.file_id) and repair_row(kernel, str(t.key), str(t.file_id))


def _touch(kernel: Kernel, keys: Iterable[str]) -> None:
    """Make the rows of whatever lies, or lay, under `keys` true."""
    rows: dict[str, str] = {}
    last = ""
    for key in sorted(keys):
        directory, _, filename = key.rpartition("/")
        if directory != last:
            rows, last = kernel.cache.ids_in(directory), directory
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
