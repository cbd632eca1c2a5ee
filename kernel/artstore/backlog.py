"""The backlog: index entries that are still to be written, and uploads whose outcome is not known.

While any process has a backlog, a missing index entry proves nothing, and files are looked for in the store as well.
The processes of one node show each other that they have one by a file of their own:

    <home>/state/index-pending/<pid>-<random>      owned by its process while that lives

Nodes that share a log show it to each other through `Coordination`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from artstore.errors import ArtstoreError, StorageFull, Unavailable
from artstore.ids import FileId, Key
from artstore.parts import Parts
from artstore.posix import OwnedFile, translate_errors, translate_startup_errors
from artstore.spi import Intent

log = logging.getLogger("artstore.backlog")


_FLAG_NAME = re.compile(r"\d+-[0-9a-f]{8}", re.ASCII)


class _Pending(NamedTuple):
    key: Key
    intents: tuple[Intent, ...]
    """They stay open until the entry is written: until then the log is the trace of the change."""


@dataclass(slots=True)
class Flush:
    """What one flush makes durable. Items that the caller did not remove from it are carried to the next flush."""

    changed: bool
    """Whether the cache was changed since the last flush."""
    to_purge: list[Key]
    """Tombstones that may go once the cache is durable."""
    caught_up: bool
    """Whether no index entry was still to be written when the flush began."""


class Backlog:
    """What this process has still to do after it answered. Every method may be called from many threads at once."""

    def __init__(self, parts: Parts, directory: Path) -> None:
        """Create `directory`. Raises `ConfigError`, `StorageFull`, `Unavailable`."""
        self._parts = parts
        self._flag = _Flag(directory)
        self.wakeup = threading.Event()
        """Set when something was added that searches wait for."""
        self._lock = threading.Lock()
        self._resolving = threading.Lock()
        self._pending: dict[FileId, _Pending] = {}
        self._in_doubt: dict[Key, tuple[FileId, Intent | None]] = {}
        self._repairs = 0
        self.needs_reindex = False
        """Whether unknown entries may be missing, so that the index has to be compared with the store."""
        self._announced = False
        """Whether other nodes may think that this process has a backlog."""
        self._changed = False
        self._to_purge: list[Key] = []

    # --- what the index lacks -----------------------------------------------------------------------------

    def is_complete(self) -> bool:
        """Return whether the cache has an entry for each file, as far as all processes of all nodes know."""
        with self._lock:
            if self._is_urgent() or self._repairs:
                return False
        if self._flag.is_set_anywhere():
            return False
        try:
            return not self._parts.coordination.any_dirty()
        except Unavailable:
            return False

    def is_urgent(self) -> bool:
        """Return whether this process has work that searches wait for."""
        with self._lock:
            return self._is_urgent()

    def _is_urgent(self) -> bool:
        return bool(self._pending or self._in_doubt or self.needs_reindex)

    def require_reindex(self) -> None:
        """Record that entries may be missing. Until `finish_reindex` a missing entry proves nothing to any process."""
        with self._lock:
            self.needs_reindex = True
            self._flag.set()
        self.wakeup.set()

    def finish_reindex(self) -> None:
        """Record that the index was compared with the store and completed."""
        with self._lock:
            self.needs_reindex = False
            self._clear_flag()

    @contextmanager
    def repairing(self) -> Iterator[None]:
        """Within it a missing entry proves nothing to any process of any node.

        Raises `Unavailable` when the other nodes cannot learn of it.
        """
        with self._lock:
            self._repairs += 1
            self._flag.set()
        try:
            if not self._announce():
                raise Unavailable("Other nodes cannot learn that the index is being repaired.")
            yield
        finally:
            with self._lock:
                self._repairs -= 1
                self._clear_flag()
            try:
                self._announce_end()
            except ArtstoreError as e:
                log.warning("%s It is tried again.", e.detail)

    def clear_dead(self) -> None:
        """Remove the flags of dead processes: recovery has written their entries. Raises `StorageFull`,
        `Unavailable`."""
        self._flag.clear_dead()

    # --- entries to be written ----------------------------------------------------------------------------

    def enqueue(self, file_id: FileId, key: Key, intent: Intent | None) -> bool:
        """Add an entry that differs from its sidecar. `intent` stays open until the entry is written.

        Returns False when the other nodes cannot learn of it: they would consider their index complete.
        """
        if intent is not None:
            try:
                intent.sync()  # the checkpoint may advance without this entry
            except (StorageFull, Unavailable) as e:
                log.warning("%s", e.detail)
        with self._lock:
            self._flag.set()
            intents = self._pending[file_id].intents if file_id in self._pending else ()
            self._pending[file_id] = _Pending(key, (*intents, intent) if intent is not None else intents)
        self.wakeup.set()
        return self._announce()

    def pending_key(self, file_id: FileId) -> Key | None:
        """Return where a file lies whose entry is still to be written, or None."""
        with self._lock:
            pending = self._pending.get(file_id)
        return pending.key if pending else None

    def drain(self, write: Callable[[FileId, Key], None]) -> None:
        """Call `write` for each entry that is still to be written; then commit its intents.

        When `write` raises `Unavailable`, so does this: that entry and those behind it stay.
        """
        with self._lock:
            todo = list(self._pending.items())
        for file_id, pending in todo:
            try:
                write(file_id, pending.key)
            except Unavailable:
                with self._lock:  # to the end of the line: next time the others come first
                    self._pending[file_id] = self._pending.pop(file_id)
                raise
            with self._lock:
                if self._pending.get(file_id) is not pending:  # it was added again meanwhile
                    continue
                del self._pending[file_id]
            for intent in pending.intents:
                intent.commit()
        with self._lock:
            self._clear_flag()
        self._announce_end()

    # --- uploads in doubt ---------------------------------------------------------------------------------

    def enqueue_in_doubt(self, file_id: FileId, key: Key, intent: Intent) -> None:
        """Add an upload whose outcome the store did not tell. It is resolved once the store answers."""
        with self._lock:
            self._flag.set()
            self._in_doubt[key] = (file_id, intent)
        self.wakeup.set()

    def resolve_in_doubt(self, file_id: FileId | None = None) -> None:
        """Resolve the uploads of this process that are in doubt: those of one file, or all. Raises `Unavailable`."""
        with self._resolving:
            with self._lock:
                todo = list(self._in_doubt.items())
            for key, (doubted, intent) in todo:
                if file_id not in (None, doubted):
                    continue
                if self._parts.backend.resolve(key):
                    self.enqueue(doubted, key, intent)
                elif intent is not None:
                    intent.roll_back("the store did not answer in time")
                with self._lock:
                    del self._in_doubt[key]
                    self._clear_flag()

    # --- what the next flush makes durable ----------------------------------------------------------------

    def note_change(self) -> None:
        """Record that the cache was changed."""
        with self._lock:
            self._changed = True

    def has_changes(self) -> bool:
        """Return whether the cache was changed since the last flush, or tombstones wait for one."""
        with self._lock:
            return self._changed or bool(self._to_purge)

    def discard_data(self, key: Key) -> None:
        """Delete the data of a deleted file now; its tombstone is purged after the next flush. Never raises."""
        try:
            self._parts.backend.delete_data(key)
        except ArtstoreError as e:  # the tombstone stays, so recovery tries again
            log.warning("the data of the deleted file %s is still there: %s", key, e.detail)
            return
        with self._lock:
            self._to_purge.append(key)

    @contextmanager
    def flushing(self) -> Iterator[Flush]:
        """Yield what there is to flush. What the caller leaves in it waits for the next flush."""
        with self._lock:
            pending = {entry.key for entry in self._pending.values()}
            # While the entry of a deleted file is still to be removed, the tombstone is the trace of the deletion.
            purgeable = [key for key in self._to_purge if key not in pending]
            flush = Flush(self._changed, purgeable, caught_up=not pending)
            self._changed = False
            self._to_purge = [key for key in self._to_purge if key in pending]
        try:
            yield flush
        finally:
            with self._lock:
                self._changed |= flush.changed
                self._to_purge += flush.to_purge

    def close(self) -> None:
        """Give up the flag. If entries are missing still, it stays until another process has written them."""
        self._flag.close()

    # --- what other processes and nodes see ---------------------------------------------------------------

    def _clear_flag(self) -> None:
        if not (self._is_urgent() or self._repairs):
            self._flag.clear()

    def _announce(self) -> bool:
        """Show the other nodes that this process has a backlog; return whether they know."""
        try:
            self._parts.coordination.set_dirty()
        except Unavailable as e:
            log.warning("other nodes cannot learn that the index is incomplete: %s", e.detail)
            return False
        finally:
            self._announced = True
        return True

    def _announce_end(self) -> None:
        """Show the other nodes that this process has no backlog any more, if they may think that it has."""
        announced, self._announced = self._announced, False
        try:
            if announced:
                # Before the backlog is read: what is added later then stays.
                position = self._parts.log.position()
                with self._lock:
                    idle = not (self._pending or self._repairs)
                if idle:
                    self._parts.coordination.clear_dirty(position)
                    announced = False
        finally:
            if announced:
                self._announced = True


class _Flag:
    """The file by which this process shows the others of its node that it has a backlog. Its caller holds a lock."""

    def __init__(self, directory: Path) -> None:
        with translate_startup_errors(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._directory = directory
        self._file: OwnedFile | None = None
        self._foreign: set[Path] = set()

    def set(self) -> None:
        """Create the file. When it cannot be created, other processes learn of the backlog by the log, after this
        process ended."""
        while self._file is None:
            try:
                self._file = OwnedFile.create(self._directory / f"{os.getpid()}-{secrets.token_hex(4)}")
            except FileExistsError:  # another process took the new file for that of a dead process
                continue
            except OSError as e:
                log.warning("cannot show that the index is incomplete: %s", os.strerror(e.errno or 0))
                break

    def clear(self) -> None:
        """Remove the file. When that fails it is tried again at the next call."""
        if self._file is not None:
            try:
                self._file.remove()
                self._file = None
            except OSError as e:
                log.warning("cannot show that the index is complete: %s", os.strerror(e.errno or 0))

    def close(self) -> None:
        """Release the file and leave it, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def is_set_anywhere(self) -> bool:
        """Return whether any process of this node, alive or dead, has set its flag; True when that cannot be read."""
        try:
            with os.scandir(self._directory) as files:
                return any(_FLAG_NAME.fullmatch(f.name) and f.is_file(follow_symlinks=False) for f in files)
        except OSError as e:
            log.warning("cannot read whether the index is complete: %s", os.strerror(e.errno or 0))
            return True

    def clear_dead(self) -> None:
        """Remove the flags of dead processes. Raises `StorageFull`, `Unavailable`."""
        with translate_errors("The flags of dead processes cannot be removed"):
            for path in self._directory.iterdir():
                if (ours := self._file) is not None and path == ours.path:
                    continue
                if not _FLAG_NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
                    if path not in self._foreign:
                        self._foreign.add(path)
                        log.warning("%s is no file of artstore: it is ignored", path)
                elif (dead := OwnedFile.seize(path)) is not None:
                    try:
                        dead.remove()
                    finally:
                        dead.close()
