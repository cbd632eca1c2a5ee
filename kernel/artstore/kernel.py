"""The kernel: what an element does with files. Every change follows one order, top to bottom:

    intent in the log -> data -> sidecar (the commit point) -> cache row -> commit

Synchronous and thread-safe. It knows no HTTP, no SQL and no disk: those are behind `artstore.spi`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from artstore import reservation
from artstore.attr import Attr, decode, next_revision
from artstore.background import Keeper
from artstore.debts import Debts
from artstore.element import Element, ElementRecord
from artstore.errors import (
    ArtstoreError,
    Damaged,
    NotFound,
    PreconditionFailed,
    Refused,
    StorageFull,
    TooLarge,
    Unavailable,
)
from artstore.host.sections import Limits
from artstore.ids import FileId, Key, now
from artstore.index import Index
from artstore.locks import Locks
from artstore.modes import Mode, Operation
from artstore.observers import Observers, change_of
from artstore.reading import Download
from artstore.spi import (
    Cache,
    Coordination,
    Intent,
    Log,
    Name,
    Naming,
    Page,
    Principal,
    Query,
    RecoverableBackend,
    SingleNode,
    Status,
    Transaction,
)
from artstore.upload import Session, Unkept, draft

log = logging.getLogger("artstore.kernel")

_CHANGE_TRIES = 16
"""Of one change, while other nodes change the same file."""

T = TypeVar("T")


class _Overtaken(Exception):
    """The file was changed by another node between our look and our change."""


@contextmanager
def _overtaken() -> Iterator[None]:
    try:
        yield
    except PreconditionFailed as e:
        raise _Overtaken(e.detail) from e


class Kernel:
    """One element in one process."""

    def __init__(
        self,
        *,
        backend: RecoverableBackend,
        cache: Cache,
        naming: Naming,
        wal: Log,
        coordination: Coordination | None = None,
        locks: Locks,
        element: Element,
        limits: Limits,
        debts: Debts,
        observers: Observers | None = None,
    ) -> None:
        self.backend = backend
        self.cache = cache
        self.naming = naming
        self.wal = wal
        self.coordination = coordination or SingleNode()
        self.locks = locks
        self.element = element
        self.limits = limits
        self.observers = observers or Observers()
        self.keeper = Keeper(self, debts)
        self.index = Index(self)

    # --- upload -------------------------------------------------------------------------------------------

    def begin(
        self,
        by: Principal,
        *,
        filename: str,
        content_type: str | None = None,
        file_id: FileId | None = None,
        size: int | None = None,
    ) -> Session:
        """Open an upload session. `size` in bytes where the caller announced it; `file_id` where they chose it.

        Raises `ModeNotAllowed`, `TooLarge`, `StorageFull`, `Conflict`, `InvalidField`, `Unavailable`.
        """
        self.element.require(Operation.UPLOAD)
        if size is not None and size > self.limits.max_file_size:
            most = int(self.limits.max_file_size)
            raise TooLarge(f"The file has {size} bytes; {most} is the most taken here.")
        at = now()
        begun = draft(by, filename, content_type, at)
        if file_id is not None and self._has(file_id):
            # A retry, or a mistake: the bytes will tell, and need not be kept for it, so it needs no room.
            nowhere = Name(directory=begun.storage_path, filename=begun.storage_filename)
            return Session(self, None, Unkept(), nowhere, file_id, True, begun, at, size)
        self.admit(size)
        new_id, name, intent, writer = reservation.take(self, by, filename, at, file_id)
        return Session(self, intent, writer, name, new_id, bool(file_id), begun, at, size)

    def _has(self, file_id: FileId) -> bool:
        try:
            self.attr(file_id)
        except NotFound:
            return False
        return True

    def admit(self, size: int | None, *, written: int = 0) -> None:
        """Raise `StorageFull` unless `size` more bytes (None: a few) may come after those `written`."""
        limits = self.limits
        space = self.backend.free_bytes()
        if space is not None and space - (size or 0) < limits.min_free:
            raise StorageFull("The volume of this element has no room for the file.")
        if limits.capacity is not None:
            try:
                used = self.index.totals().size
            except Unavailable:  # the cache must not stand between a user and the store
                return
            if used + written + (size or 0) > limits.capacity:
                raise StorageFull("The capacity of this element is used up.")

    # --- read ---------------------------------------------------------------------------------------------

    def attr(self, file_id: FileId) -> Attr:
        """All that is known of a file, from its sidecar. Raises `NotFound`, `Damaged`, `Unavailable`."""
        return self._find(file_id)[0]

    def download(self, file_id: FileId) -> Download:
        """Open a file. Raises `NotFound`, `Damaged`, `ModeNotAllowed`, `Unavailable`."""
        self.element.require(Operation.DOWNLOAD)
        attr = self.attr(file_id)
        try:
            reader = self.backend.read(attr.key)
        except NotFound:
            # Deleted between the two looks, or its data is missing: the sidecar tells which.
            self.attr(file_id)
            raise Damaged(f"The data of {file_id} is missing.") from None
        if reader.size != attr.size:
            reader.close()
            self.attr(file_id)  # likewise
            raise Damaged(f"The data of {file_id} has {reader.size} bytes; its sidecar says {attr.size}.")
        return Download(attr, reader, self.backend)

    def search(self, query: Query) -> Page:
        """One page of the files that match. Raises `Unavailable` unless the cache answers and is whole."""
        return self.index.search(query)

    def _find(self, file_id: FileId) -> tuple[Attr, bytes]:
        """A file's sidecar, decoded and as it is. The cache says where; the tree says whether."""
        key, whole = self.index.key(file_id)
        found = self._at(key, file_id)
        if found is None and whole:
            # Asked only now, since other nodes may have to be asked as well.
            key, whole = self.index.where(file_id)
            found = self._at(key, file_id)
        if found is not None:
            return found
        if key is None and whole and not self.backend.capabilities.shared:
            raise NotFound(f"There is no file {file_id}.")
        directory = self.naming.directory_of(file_id)
        # The id tells the directory; only an id that somebody chose, with no cache to believe, costs a walk.
        places: Iterable[str] = () if directory is None else (directory,)
        if not whole:
            places = [*places, *(d for d in self.backend.list_directories() if d != directory)]
        for place in places:
            for entry in self.backend.list(place):
                if entry.sidecar and self.naming.carries(entry.key.rpartition("/")[2], file_id):
                    try:
                        return self._believe(entry.key, file_id)
                    except NotFound:
                        continue
        raise NotFound(f"There is no file {file_id}.")

    def _at(self, key: Key | None, file_id: FileId) -> tuple[Attr, bytes] | None:
        if key is None:
            return None
        try:
            return self._believe(key, file_id)
        except NotFound:  # a stale row, or deleted a moment ago
            return None

    def _believe(self, key: Key, file_id: FileId) -> tuple[Attr, bytes]:
        sidecar = self.backend.read_sidecar(key)
        attr = decode(sidecar, key)
        if attr.file_id != file_id:
            raise NotFound(f"There is no file {file_id}.")
        return attr, sidecar

    # --- change -------------------------------------------------------------------------------------------

    def update(self, by: Principal, file_id: FileId, change: Callable[[Attr], Mapping[str, Any]]) -> Attr:
        """Replace `description`, `tags`, `metadata`, those that `change` names; durable on return.

        `change` sees the present attr, says what becomes of it, or raises when it is not what the caller
        took it for. Raises `NotFound`, `ModeNotAllowed`, `InvalidField`, `PreconditionFailed`, `Unavailable`.
        """
        self.element.require(Operation.UPDATE)
        with self.locks.file(file_id):
            old, new = self._as_it_is(file_id, lambda old, seen: self._update(by, old, seen, change))
        return new

    def _update(
        self, by: Principal, old: Attr, seen: bytes, change: Callable[[Attr], Mapping[str, Any]]
    ) -> tuple[Attr, Attr]:
        attr = next_revision(old, change(old), now())
        if attr == old.model_copy(update={"revision": attr.revision, "updated_at": attr.updated_at}):
            # Whoever made it so may have failed to make it durable, and this is an acknowledgement.
            with self.element.gate(Operation.UPDATE), _overtaken():
                self.backend.replace_sidecar(old.key, seen, if_match=seen)
            self.write_row(None, old)
            return old, old
        sidecar = attr.encode(self.backend.capabilities.sidecar_limit)
        intent = self.wal.begin(
            "update", by=by.name, file_id=old.file_id, key=old.key, revision=attr.revision
        )
        with self._change(intent, old):
            intent.sync()
            with self.element.gate(Operation.UPDATE), _overtaken():
                self.backend.replace_sidecar(old.key, sidecar, if_match=seen)
        self.settle_row(intent, attr)
        return old, attr

    def delete(self, by: Principal, file_id: FileId, condition: Callable[[Attr], None]) -> None:
        """Delete a file; durable on return, and works on a full disk.

        `condition` sees the present attr and raises when it is not what the caller took it for.
        Raises `NotFound`, `ModeNotAllowed`, `PreconditionFailed`, `Damaged`, `Unavailable`.
        """
        self.element.require(Operation.DELETE)
        with self.locks.file(file_id):
            self._as_it_is(file_id, lambda old, seen: self._delete(by, old, seen, condition))

    def _delete(self, by: Principal, attr: Attr, seen: bytes, condition: Callable[[Attr], None]) -> Attr:
        condition(attr)
        intent: Intent | None = None
        try:
            intent = self.wal.begin("delete", by=by.name, file_id=attr.file_id, key=attr.key)
        except StorageFull:
            log.warning("the log is full: %s is deleted with its tombstone as the only trace", attr.file_id)
        with self._change(intent, attr), self.element.gate(Operation.DELETE), _overtaken():
            self.backend.delete(attr.key, if_match=seen)
        try:
            self.settle_row(intent, attr, gone=True)
        finally:
            self.keeper.bury(attr.key)
        return attr

    def _as_it_is(self, file_id: FileId, change: Callable[[Attr, bytes], T]) -> T:
        """`change` of a file as it is now; again when another node was faster. Raises `Unavailable` when all were."""
        for _ in range(_CHANGE_TRIES):
            try:
                return change(*self._find(file_id))
            except _Overtaken:
                continue
        raise Unavailable("Others change this file all the time; try again.")

    @contextmanager
    def _change(self, intent: Intent | None, attr: Attr) -> Iterator[None]:
        """How an intent ends when what is done within it fails."""
        try:
            yield
        except (Refused, _Overtaken) as e:
            if intent is not None:
                intent.roll_back(str(e))
            raise
        except ArtstoreError as e:
            if intent is not None:
                intent.fail(e.detail)
            self.keeper.owe(attr.file_id, attr.key, None)  # it may have happened all the same
            raise

    def settle_row(self, intent: Intent | None, attr: Attr, *, gone: bool = False) -> None:
        """The last steps of a change; raises what `write_row` does."""
        written = self.write_row(intent, attr, gone=gone)
        # Before the intent ends: until then the log remembers.
        self.observers.tell(change_of(attr, gone=gone))
        if written and intent is not None:
            intent.commit()

    def write_row(self, intent: Intent | None, attr: Attr, *, gone: bool = False) -> bool:
        """A change has succeeded whatever the cache says: a row that cannot be written now (False) is owed, and the
        intent stays open until it is paid. Raises `Unavailable` when other nodes cannot be told of that: they take
        their index for whole, so the change must not be acknowledged."""
        try:
            if gone:
                self.cache.remove([attr.file_id])
            else:
                self.cache.put([attr])
                if attr.revision > 1 and self.backend.capabilities.shared:
                    self.backend.read_sidecar(attr.key)  # whoever deleted it meanwhile found no row to remove
        except Exception as e:
            log.warning("the cache row of %s is owed: %s", attr.file_id, e)
            if not self.keeper.owe(attr.file_id, attr.key, intent):
                raise Unavailable("It was done, but the index cannot be told of it now; ask again.") from e
            return False
        finally:
            self.keeper.changed()
        return True

    # --- the element --------------------------------------------------------------------------------------

    def transition(self, by: Principal, target: Mode, *, confirm: bool, reason: str) -> ElementRecord:
        """Change the mode; durable, and true for every process of this node, on return. Raises `Conflict`."""
        intent = self.wal.begin("mode", by=by.name, key=target.value)
        try:
            intent.sync()
            with self.coordination.exclusive("mode"):
                record = self.element.transition(target, confirm=confirm, by=by.name, reason=reason, at=now())
        except BaseException as e:
            # Unless it was refused, it may have happened all the same.
            (intent.roll_back if isinstance(e, Refused) else intent.fail)(str(e))
            raise
        intent.commit()
        return record

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Within it no other process, on this node or another, is alone by that name."""
        with self.locks.exclusive(name), self.coordination.exclusive(name):
            yield

    def transactions(self, *, status: Status | None, limit: int, before: str | None) -> list[Transaction]:
        """What the log tells, newest first."""
        return self.wal.transactions(status=status, limit=limit, before=before)

    def close(self) -> None:
        """Leave everything durable and settled; sessions still open are lost."""
        self.keeper.close()
        # Before the log: whose intents others may settle can publish nothing any more.
        self.backend.close()
        self.wal.close()
        self.element.close()
        self.cache.close()
