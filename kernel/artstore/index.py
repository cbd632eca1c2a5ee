"""The index: the cache while it is complete. It finds files, and every change writes its entry here.

An entry never counts for more than its sidecar. So each write of an entry ends with a look at the sidecar where another
process may have changed it meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta

from artstore import checkpoint
from artstore.attr import Attr, decode
from artstore.backlog import Backlog
from artstore.errors import ArtstoreError, Damaged, NotFound, Unavailable
from artstore.ids import FileId, Key, now
from artstore.locks import LOCK_TIMEOUT
from artstore.parts import Parts
from artstore.spi import Entry, Intent, Page, Query, RecoverableBackend, Totals
from artstore.stamps import Stamp

log = logging.getLogger("artstore.index")

BATCH = 500
"""Entries that are written to the cache at a time."""
RECENT = timedelta(hours=24)
"""Age up to which a file is searched for again after a race: longer than any process takes from reading a sidecar to
writing its entry."""


class Index:
    """The cache and the backlog of one process. Searches are answered in full or with `Unavailable`."""

    def __init__(self, parts: Parts, backlog: Backlog) -> None:
        self._parts = parts
        self.backlog = backlog

    # --- read ---------------------------------------------------------------------------------------------

    def search(self, query: Query) -> Page:
        """Return one page of the files that match. Raises `Unavailable` unless the index answers and is complete."""
        self._require_complete()  # before the search: an entry may be written between the two
        page = self._parts.cache.search(query)
        self._require_recognised()  # after it: the cache may have been replaced
        return page

    def totals(self) -> Totals:
        """Return the number of all files and their bytes. Raises `Unavailable` unless the index is complete."""
        self._require_complete()
        totals = self._parts.cache.totals()
        self._require_recognised()
        return totals

    def key(self, file_id: FileId) -> tuple[Key | None, bool]:
        """Return where the file is said to lie, or None; and whether the cache answered."""
        try:
            return self.backlog.pending_key(file_id) or self._parts.cache.key(file_id), True
        except Unavailable:
            return None, False

    def locate(self, file_id: FileId) -> tuple[Key | None, bool]:
        """Return where the file is said to lie, or None; and whether None proves that there is no such file."""
        complete = self.backlog.is_complete()
        key = self.backlog.pending_key(file_id)
        try:
            key = key or self._parts.cache.key(file_id)
            return key, complete and (key is not None or checkpoint.recognises(self._parts))
        except Unavailable:
            return key, False

    def check(self) -> None:
        """Raise `Unavailable`, with a sentence, unless searches are answered and entries can be written."""
        self._parts.cache.check()
        self.totals()

    def _require_complete(self) -> None:
        self._parts.element.record()  # the index outlives its store: what it names is nothing without that
        if not self.backlog.is_complete():
            raise Unavailable("The index of this element is incomplete at the moment; it is being repaired.")

    def _require_recognised(self) -> None:
        if not checkpoint.recognises(self._parts):
            raise Unavailable("The index of this element was replaced; it is being rebuilt.")

    # --- write --------------------------------------------------------------------------------------------

    def renew_stamp(self, attr: Attr, stamp: Stamp) -> Attr:
        """Stamp a change again that took too long to reach the store; return its attr. The sidecar is durable then.

        Called before the entry is written: no search has shown the file with the old stamp.
        """
        parts = self._parts
        while stamp.is_late():
            limit, stamp = parts.backend.capabilities.sidecar_limit, parts.clock.stamp()
            renewed = stamp.put_on(attr)
            try:
                parts.backend.replace_sidecar(attr.key, renewed.encode(limit), if_match=attr.encode(limit))
            except ArtstoreError as e:  # the change itself was made
                log.warning("%s keeps the time at which its change began: %s", attr.key, e.detail)
                self.backlog.enqueue(attr.file_id, attr.key, None)
                return attr
            attr = renewed
        return attr

    def write_entry(self, intent: Intent | None, attr: Attr, *, deleted: bool = False) -> bool:
        """Write the entry of a file that was changed, or remove that of a `deleted` one; return whether it is done.

        The change succeeded whatever the cache answers. When the cache fails, the entry goes into the backlog, and
        `intent` stays open until it is written. Raises `Unavailable` when other nodes cannot learn of that: they would
        consider their index complete, so the change must not be acknowledged.
        """
        cache, backend = self._parts.cache, self._parts.backend
        try:
            if deleted:
                cache.remove([attr.file_id])
            else:
                cache.put([attr])
                if attr.revision > 1 and backend.capabilities.shared:
                    # Another node that deleted the file meanwhile found no entry to remove.
                    backend.read_sidecar(attr.key)
        except Exception as e:
            log.warning("the index entry of %s is written later: %s", attr.file_id, e)
            if not self.backlog.enqueue(attr.file_id, attr.key, intent):
                raise Unavailable(
                    "The change was made, but its index entry is not written yet; try again."
                ) from e
            return False
        finally:
            self.backlog.note_change()
        return True

    def repair_entry(self, file_id: FileId, key: Key, *, force: bool = False) -> bool:
        """Make the entry of one file equal to its sidecar; return whether there is a file.

        With `force` also when the entry has a newer revision than the sidecar. A second call has no effect. Raises
        `Unavailable`.
        """
        backend, cache = self._parts.backend, self._parts.cache
        with self._parts.locks.file(file_id, timeout=LOCK_TIMEOUT):
            try:
                attr: Attr | None = decode(backend.read_sidecar(key), key)
            except NotFound:
                attr = None
            except Damaged as e:
                log.error("%s", e.detail)
                return False
            if attr is not None and attr.file_id != file_id:
                attr = None
            if (force or attr is None) and cache.key(file_id) == key:
                cache.remove([file_id])
                self.backlog.note_change()
            if attr is None:
                return False
            cache.put([attr])
            self.backlog.note_change()
            if backend.capabilities.shared and read_attr(backend, key) is None:
                cache.remove([file_id])  # another node deleted it meanwhile, and found no entry to remove
                return False
            return True

    def put_entries(self, attrs: Sequence[Attr], *, sole_writer: bool) -> None:
        """Write the entries of sidecars that were read a moment ago. Raises `Unavailable`.

        `sole_writer`: no other thread or process changes files meanwhile.
        """
        self._parts.cache.put(attrs)
        self.backlog.note_change()
        if sole_writer:
            return
        for attr in attrs:
            # Race: the file was deleted after we read its sidecar, so the deletion found no entry to remove. It may
            # have been uploaded again under another key, whose entry ours has replaced. So both are repaired.
            if read_attr(self._parts.backend, attr.key) is None:
                with self.backlog.repairing():
                    self.repair_entry(attr.file_id, attr.key)
                    for key in self._recent_keys(attr.file_id):
                        self.repair_entry(attr.file_id, key)

    def _recent_keys(self, file_id: FileId) -> Iterator[Key]:
        """Yield the keys under which a file may lie that was uploaded a short time ago."""
        parts = self._parts
        for directory in parts.backend.list_directories(parts.naming.directory_at(now() - RECENT)):
            for entry in list_entries(parts, directory):
                if entry.sidecar and parts.naming.carries(entry.key.rpartition("/")[2], file_id):
                    yield entry.key


def list_entries(parts: Parts, directory: str) -> Iterator[Entry]:
    """Yield what lies in one directory; nothing in a foreign one that cannot be read. Raises `Unavailable`.

    A directory of ours that cannot be read is never taken for an empty one: its files would count as lost.
    """
    try:
        yield from parts.backend.list(directory)
    except Unavailable as e:
        if parts.naming.is_directory(directory):
            raise
        log.info("a foreign directory is left alone: %s", e.detail)


def read_attr(backend: RecoverableBackend, key: Key) -> Attr | None:
    """Return the attr of `key`, or None when there is no sidecar, or a damaged one (which is logged).

    Raises `Unavailable`.
    """
    try:
        return decode(backend.read_sidecar(key), key)
    except NotFound:
        return None
    except Damaged as e:
        log.error("%s", e.detail)
        return None
