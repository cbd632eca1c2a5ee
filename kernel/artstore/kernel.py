"""The kernel: what an element does with files. Every change follows one order, top to bottom:

    intent in the log -> data -> sidecar (the commit point) -> index entry -> commit of the intent

`update` and `delete` are here, step by step; `Upload._commit` in `upload.py` is the same for an upload. Everything is
synchronous and thread-safe. The kernel knows no HTTP, no SQL and no disk: those are behind `artstore.spi`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from artstore import recovery
from artstore.attr import Attr, next_revision
from artstore.background import Background
from artstore.backlog import Backlog
from artstore.element import ElementRecord
from artstore.errors import (
    ArtstoreError,
    NotFound,
    PreconditionFailed,
    Refused,
    StorageFull,
    TooLarge,
    Unavailable,
)
from artstore.ids import FileId, Key, now
from artstore.index import Index
from artstore.ledger import Ledger
from artstore.modes import ALLOWED, Mode, Operation
from artstore.observers import Observers, event_of
from artstore.parts import Parts
from artstore.reading import Download, find, open_file
from artstore.reservation import reserve
from artstore.space import Room, Space
from artstore.spi import (
    Intent,
    Page,
    Principal,
    Query,
    Status,
    Transaction,
)
from artstore.upload import Retry, Session, Upload, make_request

log = logging.getLogger("artstore.kernel")

_CHANGE_ATTEMPTS = 16
"""How often one change is tried while other nodes change the same file."""

T = TypeVar("T")


class _ConcurrentChange(Exception):
    """Another node changed the file after it was read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How full the element is, in bytes. None: there is no such limit."""

    files: int
    size: int
    capacity: int | None
    reserved: int
    """Bytes that uploads in progress have reserved of the capacity."""
    free: int | None
    """Free bytes of the volume that uploads may use: without `limits.min_free`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the element is, and what it allows now."""

    element_id: str
    mode: Mode
    operations: frozenset[Operation]
    missing_guarantees: tuple[str, ...]
    multi_process: bool
    """Whether several processes of one home may serve it."""


class Kernel:
    """One element in one process. Every method may be called from many threads at once."""

    def __init__(
        self, parts: Parts, backlog: Backlog, ledger: Ledger, observers: Observers | None = None
    ) -> None:
        self.parts = parts
        self.index = Index(parts, backlog)
        self.space = Space(parts, self.index, ledger)
        self.observers = observers or Observers()
        self.background = Background(parts, self.index, self.observers)

    def recover(self, *, joining: bool = False) -> recovery.Report:
        """Recover what dead processes left. Called once, before this process serves. `joining`: see `recovery.recover`.
        Raises `ConfigError`, `Unavailable`."""
        return recovery.recover(self.parts, self.index, self.observers, joining=joining)

    def start(self) -> None:
        """Start the background thread."""
        self.background.start()

    def close(self) -> None:
        """Finish what can be finished and leave it durable. Open sessions are lost."""
        self.background.close()
        # Before the log: once others may resolve our intents, nothing may be published any more.
        self.parts.backend.close()
        self.parts.log.close()
        self.parts.element.close()
        self.parts.cache.close()
        self.space.close()

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
        """Begin an upload: open its intent. `file_id`: the id that the caller chose; `size`: the bytes they announced.

        Raises `ModeNotAllowed`, `TooLarge`, `StorageFull`, `Conflict`, `InvalidField`, `Unavailable`.
        """
        self.parts.element.require(Operation.UPLOAD)
        if size is not None and size > self.parts.limits.max_file_size:
            most = int(self.parts.limits.max_file_size)
            raise TooLarge(f"The file has {size} bytes; {most} is the most allowed here.")
        request = make_request(by, filename, content_type, file_id, size, now())
        if file_id is not None and self._exists(file_id):
            # A retry, or a mistake: the bytes will tell. They need not be kept for that, so there need be no space.
            return Retry(self.parts, self.index, request, file_id)
        self.space.check_volume(size or 0)
        room = Room(self.space, limited=self.parts.limits.capacity is not None)
        room.extend(size or 0, final=True)
        try:
            reservation = reserve(self.parts, by=by.name, filename=filename, at=request.at, chosen=file_id)
        except BaseException as e:
            room.release()
            if isinstance(e, StorageFull):
                self.space.note_refusal(e)
            raise
        return Upload(self.parts, self.index, self.observers, request, reservation, self.space, room)

    def _exists(self, file_id: FileId) -> bool:
        try:
            self.attr(file_id)
        except NotFound:
            return False
        return True

    # --- read ---------------------------------------------------------------------------------------------

    def attr(self, file_id: FileId) -> Attr:
        """Return all that is known of a file, from its sidecar. Raises `NotFound`, `Damaged`, `Unavailable`."""
        return find(self.parts, self.index, file_id)[0]

    def download(self, file_id: FileId) -> Download:
        """Open a file. Raises `NotFound`, `Damaged`, `ModeNotAllowed`, `Unavailable`."""
        return open_file(self.parts, self.index, file_id)

    def search(self, query: Query) -> Page:
        """Return one page of the files that match. Raises `Unavailable` unless the index answers and is complete."""
        return self.index.search(query)

    # --- change -------------------------------------------------------------------------------------------

    def update(self, by: Principal, file_id: FileId, change: Callable[[Attr], Mapping[str, Any]]) -> Attr:
        """Replace those of `description`, `tags`, `metadata` that `change` returns; durable on return.

        `change` receives the present attr, and raises when that is not what the caller expects. Raises `NotFound`,
        `ModeNotAllowed`, `InvalidField`, `PreconditionFailed`, `Damaged`, `Unavailable`.
        """
        backend, sidecar_limit = self.parts.backend, self.parts.backend.capabilities.sidecar_limit

        def attempt(old: Attr, seen: bytes) -> Attr:
            attr = next_revision(old, change(old), now())
            if attr == old.model_copy(update={"revision": attr.revision, "updated_at": attr.updated_at}):
                return self._confirm(old, seen)
            attr.encode(sidecar_limit)  # refused here when it is too large, before there is an intent
            intent = self.parts.log.begin(
                "update", by=by.name, file_id=file_id, key=old.key, revision=attr.revision
            )
            with self._end_failed(intent, old):
                intent.sync()
                with self._gate(Operation.UPDATE):
                    stamp = self.parts.clock.stamp()
                    attr = stamp.put_on(attr)
                    backend.replace_sidecar(old.key, attr.encode(sidecar_limit), if_match=seen)
                    attr = self.index.renew_stamp(attr, stamp)
            indexed = self.index.write_entry(intent, attr)
            self.observers.deliver(event_of(attr))
            if indexed:
                intent.commit()
            return attr

        self.parts.element.require(Operation.UPDATE)
        with self.parts.locks.file(file_id):
            return self._with_retries(file_id, attempt)

    def _confirm(self, attr: Attr, sidecar: bytes) -> Attr:
        """Make a sidecar durable that is as it should be: the process that wrote it may have failed to."""
        with self._gate(Operation.UPDATE):
            self.parts.backend.replace_sidecar(attr.key, sidecar, if_match=sidecar)
        self.index.write_entry(None, attr)
        return attr

    def delete(self, by: Principal, file_id: FileId, condition: Callable[[Attr], None]) -> None:
        """Delete a file; durable on return. Works on a full disk.

        `condition` receives the present attr, and raises when that is not what the caller expects. Raises `NotFound`,
        `ModeNotAllowed`, `PreconditionFailed`, `Damaged`, `Unavailable`.
        """

        def attempt(attr: Attr, seen: bytes) -> None:
            condition(attr)
            intent = self._begin_deletion(by, attr)
            with self._end_failed(intent, attr), self._gate(Operation.DELETE):
                self.parts.backend.delete(attr.key, if_match=seen)
            try:
                indexed = self.index.write_entry(intent, attr, deleted=True)
                self.observers.deliver(event_of(attr, deleted=True))
                if indexed and intent is not None:
                    intent.commit()
            finally:
                self.index.backlog.discard_data(attr.key)

        self.parts.element.require(Operation.DELETE)
        with self.parts.locks.file(file_id):
            self._with_retries(file_id, attempt)

    def _begin_deletion(self, by: Principal, attr: Attr) -> Intent | None:
        try:
            return self.parts.log.begin("delete", by=by.name, file_id=attr.file_id, key=attr.key)
        except StorageFull:
            log.warning(
                "the log is full: the tombstone is the only trace of the deletion of %s", attr.file_id
            )
            return None

    def _with_retries(self, file_id: FileId, attempt: Callable[[Attr, bytes], T]) -> T:
        """Call `attempt` with the present attr and sidecar, again when another node changed them meanwhile."""
        for _ in range(_CHANGE_ATTEMPTS):
            try:
                return attempt(*find(self.parts, self.index, file_id))
            except _ConcurrentChange:
                continue
        raise Unavailable("Other nodes change this file all the time; try again.")

    @contextmanager
    def _gate(self, operation: Operation) -> Iterator[None]:
        """Within it the mode does not change, and a compare-and-swap that fails is a `_ConcurrentChange`."""
        with self.parts.element.gate(operation):
            try:
                yield
            except PreconditionFailed as e:
                raise _ConcurrentChange(e.detail) from e

    @contextmanager
    def _end_failed(self, intent: Intent | None, attr: Attr) -> Iterator[None]:
        """End the intent of a change that fails within it."""
        try:
            yield
        except (Refused, _ConcurrentChange) as e:
            if intent is not None:
                intent.roll_back(str(e))
            raise
        except ArtstoreError as e:
            if intent is not None:
                intent.end_in_doubt(e.detail)
            self.index.backlog.enqueue(attr.file_id, attr.key, None)  # in doubt: it may have happened
            raise

    # --- the element --------------------------------------------------------------------------------------

    def transition(self, by: Principal, target: Mode, *, confirm: bool, reason: str) -> ElementRecord:
        """Change the mode; on return it is durable, and every process of this node obeys it. Raises `Conflict`,
        `StorageFull`, `Unavailable`."""
        intent = self.parts.log.begin("mode", by=by.name, key=Key(target.value))
        try:
            intent.sync()
            with self.parts.coordination.exclusive("mode"):
                record = self.parts.element.transition(
                    target, confirm=confirm, by=by.name, reason=reason, at=now()
                )
        except Refused as e:
            intent.roll_back(str(e))
            raise
        except BaseException as e:
            intent.end_in_doubt(str(e))  # in doubt: it may have happened
            raise
        intent.commit()
        return record

    def transactions(self, *, status: Status | None, limit: int, before: str | None) -> list[Transaction]:
        """Return the newest `limit` transactions of the log with ids below `before`, newest first."""
        return self.parts.log.transactions(status=status, limit=limit, before=before)

    def describe(self) -> Description:
        """Return what the element is. Raises `Unavailable`."""
        record, capabilities = self.parts.element.record(), self.parts.backend.capabilities
        return Description(
            element_id=record.element_id,
            mode=record.mode,
            operations=ALLOWED[record.mode],
            missing_guarantees=capabilities.missing_guarantees(),
            multi_process=capabilities.multi_process,
        )

    def usage(self) -> Usage:
        """Return how full the element is. Raises `Unavailable`, also when the index is incomplete."""
        limits, totals, free = self.parts.limits, self.index.totals(), self.parts.backend.free_bytes()
        return Usage(
            files=totals.files,
            size=totals.size,
            capacity=None if limits.capacity is None else int(limits.capacity),
            reserved=self.space.reserved(),
            free=None if free is None else max(0, free - int(limits.min_free)),
        )

    def health(self) -> dict[str, Callable[[], None]]:
        """Return the checks by which the element is ready to serve.

        Each raises `ArtstoreError`, with a sentence, unless its part works now. They may be called at the same time.
        """
        parts = self.parts

        def allows_uploads() -> bool:
            return Operation.UPLOAD in ALLOWED[parts.element.record().mode]

        def check_store() -> None:
            parts.backend.check(writing=allows_uploads())

        def check_space() -> None:
            if allows_uploads():
                self.space.require_some()

        return {"store": check_store, "space": check_space, "cache": self.index.check, "log": parts.log.check}
