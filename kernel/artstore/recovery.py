"""Recovery: at start, and for crashed processes while others serve, every unfinished change ends whole or gone.

It is idempotent and may be killed at any step itself. Its cost depends on what was in progress, not on the number of
files.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from pydantic import BaseModel

from artstore import checkpoint, reservation
from artstore.attr import Attr, decode, with_changed_bytes
from artstore.errors import ConfigError, Damaged, NotFound, PreconditionFailed, StorageFull, Unavailable
from artstore.ids import FileId, Key, now
from artstore.index import BATCH, Index, list_entries, read_attr
from artstore.observers import Observers
from artstore.parts import Parts
from artstore.spi import AbandonedLog, Transaction

log = logging.getLogger("artstore.recovery")

ORPHAN_AGE = 3600.0
"""Seconds after which data without a sidecar, or a sidecar without data, can belong to no upload in progress."""


class Report(BaseModel):
    """What recovery did: numbers of files, and of index entries."""

    finished: int = 0
    undone: int = 0
    deleted: int = 0
    quarantined: int = 0
    entries_written: int = 0
    entries_removed: int = 0
    rebuilt: bool = False

    def __str__(self) -> str:
        done = [f"{count} {name.replace('_', ' ')}" for name, count in self if count and count is not True]
        return ", ".join((["index rebuilt"] if self.rebuilt else []) + done) or "nothing to do"


def recover(parts: Parts, index: Index, observers: Observers, *, joining: bool = False) -> Report:
    """Do at start what has to be done before the element serves. Raises `ConfigError`, `Unavailable`.

    On return every unfinished change in the store is finished or undone, except those for which a full disk has no
    room. Index entries that the cache did not accept are in the backlog. The background thread goes on with both, and
    until then files are looked for in the store. `joining`: other processes serve already, by the same clock, so a
    clock that is wrong is only logged.
    """
    run = Recovery(parts, index, observers, sole_writer=parts.backend.is_sole_writer)
    with parts.cluster_lock("recovery"):
        try:
            checkpoint.check_clock(checkpoint.read(parts))
        except ConfigError as e:
            if not joining:
                raise
            log.warning("%s", e)
        try:
            run.recover_uploads()
            for key in parts.backend.list_tombstones():
                parts.backend.delete_data(key)
        except StorageFull as e:
            log.warning("what dead processes left is recovered once there is room: %s", e.detail)
        try:
            run.reindex()
        except (Unavailable, StorageFull) as e:
            index.backlog.require_reindex()
            run.enqueue_recovered()
            log.warning("the index is incomplete, files are found without it: %s", e.detail)
    if run.report != Report():
        log.info("recovery: %s", run.report)
    return run.report


def recover_dead(parts: Parts, index: Index, observers: Observers) -> Report:
    """Recover, while this process serves, what dead processes left, and rebuild a cache that was replaced.

    Raises `StorageFull`, `Unavailable`; what is left is found again next time.
    """
    run = Recovery(parts, index, observers, sole_writer=lambda: False)
    with parts.cluster_lock("recovery"):
        try:
            run.recover_uploads()
            if index.backlog.needs_reindex or not checkpoint.recognises(parts):
                run.reindex()
                log.warning("the index is complete again: %s", run.report)
            else:
                run.recover_changes()
                # Only now: the flag of a process that died during a rebuild stays until another has finished it.
                index.backlog.clear_dead()
        except (Unavailable, StorageFull):
            run.enqueue_recovered()
            raise
    return run.report


class Recovery:
    """One run. Its caller excludes every other run, on this node and on others."""

    def __init__(
        self, parts: Parts, index: Index, observers: Observers, *, sole_writer: Callable[[], bool]
    ) -> None:
        self._parts = parts
        self._index = index
        self._observers = observers
        self._sole_writer = sole_writer
        """Whether no other process or thread changes files meanwhile."""
        self._recovered: list[Key] = []
        """Keys of recovered uploads: their index entries are compared again."""
        self._redelivered: set[tuple[FileId, Key]] = set()
        """Changes in the logs of dead processes that were delivered to the observers again."""
        self.report = Report()

    def recover_uploads(self) -> None:
        """Finish or undo the staged uploads of dead processes. Raises `StorageFull`, `Unavailable`."""
        for recovered in self._parts.backend.recover():
            self._recovered.append(recovered.key)
            match recovered.outcome:
                case "finished":
                    self.report.finished += 1
                case "undone":
                    self.report.undone += 1
                case "quarantined":
                    self.report.quarantined += 1

    def recover_changes(self) -> None:
        """Resolve the open changes of dead processes, and repair their index entries. Raises `Unavailable`."""
        self._refresh_entries(self._recovered)
        if self._recover_logs(since="") or self._recovered:
            self._finish_deletions()
            log.warning("recovered what a dead process left: %s", self.report)

    def enqueue_recovered(self) -> None:
        """Put the index entries of recovered uploads, which the cache did not accept, into the backlog."""
        for key in self._recovered:
            attr = read_attr(self._parts.backend, key)
            if attr is not None:
                self._index.backlog.enqueue(attr.file_id, key, None)

    def reindex(self) -> None:
        """Compare the index with the store from the checkpoint on, or rebuild it when the cache is not recognised."""
        parts, backlog = self._parts, self._index.backlog
        sole_writer = self._sole_writer()
        known, generation = checkpoint.read(parts), parts.cache.generation()
        with ExitStack() as stack:
            if known is None or generation is None or generation not in known.generations:
                backlog.require_reindex()  # other live processes use this cache as well
                # Other nodes too: else an upload that is sent again there would find no file, and make a second one.
                stack.enter_context(backlog.repairing())
                self.report.rebuilt = known is not None or any(True for _ in parts.backend.list_directories())
                known, generation = None, f"being rebuilt {secrets.token_hex(8)}"
                parts.cache.clear()
                parts.cache.set_generation(generation)
            since = "" if known is None else known.directory
            started = now()
            self._refresh_entries(self._recovered)
            self._recover_logs(since)
            self._finish_deletions()
            for directory in parts.backend.list_directories(since):
                self._reconcile_directory(directory, sole_writer=sole_writer)
            checkpoint.advance(parts, known, generation, started)
            backlog.finish_reindex()
            backlog.clear_dead()

    # --- directories --------------------------------------------------------------------------------------

    def _reconcile_directory(self, directory: str, *, sole_writer: bool) -> None:
        """Make the entries of one directory equal to its sidecars, and move broken pairs to quarantine.

        A pair is broken for good when no other process writes, or when it is older than an hour, and no upload of it
        is in progress. Foreign names are left alone.
        """
        backend, naming = self._parts.backend, self._parts.naming
        entries = self._parts.cache.ids_in(directory)
        missing: list[Attr] = []
        orphans: set[Key] = set()
        for entry in list_entries(self._parts, directory):
            filename = entry.key.rpartition("/")[2]
            if entry.data and entry.sidecar:
                if filename not in entries:
                    attr = read_attr(backend, entry.key)
                    if attr is not None:
                        missing.append(attr)
                entries.pop(filename, None)
            elif naming.parse(filename) is not None and (sole_writer or self._is_old(entry.key)):
                orphans.add(entry.key)
            if len(missing) == BATCH:
                self._index_files(missing, sole_writer=sole_writer)
                missing.clear()
        self._index_files(missing, sole_writer=sole_writer)
        if orphans:
            self._quarantine_orphans(directory, orphans)
        for filename, file_id in entries.items():
            # The sidecar is read again under the lock of the file: a chosen id may have come back in another directory.
            self._index.repair_entry(file_id, Key(f"{directory}/{filename}"))
            self.report.entries_removed += 1

    def _is_old(self, key: Key) -> bool:
        try:
            return self._parts.backend.age(key) > ORPHAN_AGE
        except NotFound:  # a live process has finished or removed it since it was listed
            return False

    def _index_files(self, attrs: list[Attr], *, sole_writer: bool) -> None:
        if not attrs:
            return
        self._index.put_entries(attrs, sole_writer=sole_writer)
        self.report.entries_written += len(attrs)
        if not self.report.rebuilt:
            for attr in attrs:  # a power loss took the entry, and perhaps the event with it
                if (attr.file_id, attr.key) not in self._redelivered:
                    self._redeliver_current(attr.file_id, attr.key)

    def _quarantine_orphans(self, directory: str, orphans: set[Key]) -> None:
        """Quarantine data without a sidecar and sidecars without data, if they are that still.

        What an orphan lacks may wait in staging for room on the disk, and a live process may be about to publish or
        delete the file.
        """
        backend = self._parts.backend
        orphans -= {*backend.in_progress(), *backend.list_tombstones()}
        for entry in list(backend.list(directory)):
            if entry.key in orphans and not (entry.data and entry.sidecar):
                log.error("%s has no %s: moved to quarantine", entry.key, "sidecar" if entry.data else "data")
                backend.quarantine(entry.key)
                self.report.quarantined += 1

    def _refresh_entries(self, keys: Iterable[Key]) -> None:
        """Repair the entries of all files that lie, or lay, under `keys`."""
        entries: dict[str, FileId] = {}
        last = ""
        for key in sorted(keys):
            directory, _, filename = key.rpartition("/")
            if directory != last:
                entries, last = self._parts.cache.ids_in(directory), directory
            attr = read_attr(self._parts.backend, key)
            file_id = entries.get(filename) if attr is None else attr.file_id
            if file_id is not None:
                self._index.repair_entry(file_id, key)

    def _finish_deletions(self) -> None:
        """Finish the deletion of each file that has a tombstone.

        If the sidecar is in its place as well, the file was uploaded again or its deletion never happened: its data
        stays.
        """
        backend = self._parts.backend
        tombstones = list(backend.list_tombstones())
        self._refresh_entries(tombstones)
        for key in tombstones:
            backend.delete_data(key)
        if tombstones:
            self._parts.cache.flush()
            for key in tombstones:
                backend.purge(key)
            self.report.deleted += len(tombstones)

    # --- logs ---------------------------------------------------------------------------------------------

    def _recover_logs(self, since: str) -> bool:
        """Recover what dead processes left in the log; return whether there was anything."""
        found = False
        for abandoned in self._parts.log.abandoned():
            found = True
            self._recover_log(abandoned, since)
        return found

    def _recover_log(self, abandoned: AbandonedLog, since: str) -> None:
        undelivered = [
            t for t in abandoned.uncheckpointed if t.status != "rolled_back" and t.operation != "mode"
        ]
        # To a store that other nodes share, a request of a dead process may still be on its way as well.
        writer_may_return = not abandoned.certainly_dead or self._parts.backend.capabilities.shared
        try:
            for t in abandoned.uncheckpointed:
                # The entries of uploads since the checkpoint are compared with their directories anyway.
                if t.operation != "upload" or (t.key or "") < since:
                    self._repair_entry(t)
            for t in abandoned.pending:
                applied = self._resolve_intent(t, writer_may_return=writer_may_return)
                if not applied:
                    abandoned.end(t, "rolled_back", "the process died")
                    continue
                if t.operation != "mode":
                    undelivered.append(t)
                abandoned.end(t, "committed")
            self._parts.cache.flush()
            if self._redeliver(undelivered):
                abandoned.close()
        finally:
            abandoned.release()

    def _resolve_intent(self, t: Transaction, *, writer_may_return: bool) -> bool:
        """Resolve an open transaction: return whether it was applied.

        If it was not, it cannot be applied later. `writer_may_return`: its writer may only be paused, or a request of
        the writer may still be on its way.
        """
        parts = self._parts
        if t.operation == "mode":
            return parts.element.resolve_transition(t.key, dead=not writer_may_return)
        if t.operation == "upload" and t.key:
            reservation.resolve_upload(parts, t.key, writer_may_return=writer_may_return)
        applied = (
            t.operation == "upload"
            or not t.key
            or self._was_applied(t.key, t.revision, writer_may_return=writer_may_return)
        )
        exists = self._repair_entry(t)
        if exists and t.operation == "update" and t.key:
            parts.backend.resolve(t.key)  # its writer may have died before the new sidecar was durable
        return applied and exists == (t.operation != "delete")

    def _was_applied(self, key: Key, revision: int, *, writer_may_return: bool) -> bool:
        """Return whether the sidecar reached `revision` (0: was deleted).

        If not and `writer_may_return`, rewrite it with different bytes, so that a compare-and-swap by the old writer
        fails.
        """
        backend = self._parts.backend
        while True:
            try:
                sidecar = backend.read_sidecar(key)
                attr = decode(sidecar, key)
                if revision and attr.revision >= revision:
                    return True
                if writer_may_return:
                    changed = with_changed_bytes(sidecar, backend.capabilities.sidecar_limit)
                    backend.replace_sidecar(key, changed, if_match=sidecar)
            except PreconditionFailed:
                continue
            except NotFound:
                return True
            except Damaged:
                pass  # the old writer compares with the sidecar before it was damaged, and fails as well
            return False

    def _repair_entry(self, t: Transaction) -> bool:
        return t.key is not None and t.file_id is not None and self._index.repair_entry(t.file_id, t.key)

    def _redeliver(self, transactions: Iterable[Transaction]) -> bool:
        """Deliver the changes of a dead process to the observers again. False when that has to wait: the log stays."""
        if not self._observers.is_delivered():
            return False
        # What is left of several changes of a file is its present state, so that is delivered once.
        changed = {
            (t.file_id, t.key): None for t in transactions if t.file_id is not None and t.key is not None
        }
        for file_id, key in changed:
            self._redeliver_current(file_id, key)
            self._redelivered.add((file_id, key))
        return self._observers.is_delivered()

    def _redeliver_current(self, file_id: FileId, key: Key) -> None:
        self._observers.redeliver_current(self._parts.backend, self._parts.locks, file_id, key)
