"""The kernel: what an element does with files. Every change follows one order, top to bottom:

    intent in the log -> data -> sidecar (the commit point) -> cache row -> commit

Synchronous and thread-safe. It knows no HTTP, no SQL and no disk: those are behind `artstore.spi`.
"""

from __future__ import annotations

import hashlib
import logging
import mimetypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from artstore.attr import Attr, decode, timestamp
from artstore.debts import Debts
from artstore.element import Element, ElementRecord
from artstore.errors import (
    ArtstoreError,
    Conflict,
    Damaged,
    DigestMismatch,
    InvalidField,
    MalformedRequest,
    NotFound,
    Refused,
    StorageFull,
    TooLarge,
    Unavailable,
)
from artstore.hookspecs import Change
from artstore.ids import now, uuid7
from artstore.keeper import Keeper
from artstore.locks import Locks
from artstore.modes import Mode, Operation
from artstore.settings import Limits
from artstore.spi import Backend, Cache, Name, Naming, Page, Principal, Query, Reader, Span, Writer
from artstore.wal import Intent, Status, Transaction, Wal

log = logging.getLogger("artstore.kernel")

SLOW = timedelta(minutes=30)
"""An upload older than this makes its intent durable before it publishes: its directory may be older than
those that recovery looks through."""

_NAME_TRIES = 5

Announce = Callable[[Change, Attr], None]


class Download:
    """A file held open for reading."""

    def __init__(self, attr: Attr, reader: Reader) -> None:
        self.attr = attr
        self._reader = reader
        self.path = reader.path

    def pieces(self, span: Span) -> Iterable[bytes]:
        return self._reader.pieces(span)

    def close(self) -> None:
        self._reader.close()


class Kernel:
    """One element in one process. `announce` hears of every committed change and must not raise."""

    def __init__(
        self,
        *,
        backend: Backend,
        cache: Cache,
        naming: Naming,
        wal: Wal,
        locks: Locks,
        element: Element,
        limits: Limits,
        debts: Debts,
        announce: Announce,
    ) -> None:
        self.backend = backend
        self.cache = cache
        self.naming = naming
        self.wal = wal
        self.locks = locks
        self.element = element
        self.limits = limits
        self.announce = announce
        self.keeper = Keeper(self, debts)

    # --- upload -------------------------------------------------------------------------------------------

    def begin(
        self,
        by: Principal,
        *,
        filename: str,
        content_type: str | None = None,
        file_id: str | None = None,
        size: int | None = None,
    ) -> Session:
        """Open an upload session. `size` in bytes where the caller announced it; `file_id` where they chose it.

        Raises `ModeNotAllowed`, `TooLarge`, `StorageFull`, `Conflict`, `InvalidField`, `Unavailable`.
        """
        self.element.require(Operation.UPLOAD)
        self.admit(size)
        at = now()
        draft = _draft(by, filename, content_type, at)
        if file_id is not None and self._has(file_id):
            # A retry, or a mistake: the bytes will tell, and need not be kept for it.
            nowhere = Name(directory=draft.storage_path, filename=draft.storage_filename)
            return Session(self, None, _Unkept(), nowhere, file_id, True, draft, at, size)
        for tries_left in reversed(range(_NAME_TRIES)):
            new_id = file_id or uuid7(at)
            # A chosen id does not change: the name of one deleted a moment ago differs by its second.
            moment = at + timedelta(seconds=_NAME_TRIES - 1 - tries_left) if file_id else at
            name = self.naming.name(file_id=new_id, original_filename=filename, username=by.name, at=moment)
            intent = self.wal.begin("upload", by=by.name, file_id=new_id, key=name.key)
            try:
                writer = self.backend.create(name.key)
            except Conflict as e:
                intent.roll_back(e.detail)
                if not tries_left:
                    raise
            except BaseException as e:
                intent.roll_back(str(e))
                raise
            else:
                return Session(self, intent, writer, name, new_id, bool(file_id), draft, at, size)
        raise AssertionError("unreachable")

    def _has(self, file_id: str) -> bool:
        try:
            self.attr(file_id)
        except NotFound:
            return False
        return True

    def admit(self, size: int | None) -> None:
        """Raise `TooLarge` or `StorageFull` unless `size` more bytes (None: a few) may come."""
        limits = self.limits
        if size is not None and size > limits.max_file_size:
            raise TooLarge(f"The file has {size} bytes; {int(limits.max_file_size)} is the most taken here.")
        space = self.backend.space()
        if space.free is not None and space.free - (size or 0) < limits.min_free:
            raise StorageFull("The volume of this element has no room for the file.")
        if limits.capacity is not None:
            try:
                used = self.cache.totals().size
            except Unavailable:  # the cache must not stand between a user and the store
                return
            if used + (size or 0) > limits.capacity:
                raise StorageFull("The capacity of this element is used up.")

    # --- read ---------------------------------------------------------------------------------------------

    def attr(self, file_id: str) -> Attr:
        """All that is known of a file, from its sidecar. Raises `NotFound`, `Damaged`, `Unavailable`."""
        return self._find(file_id)[0]

    def download(self, file_id: str) -> Download:
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
            raise Damaged(f"The data of {file_id} has {reader.size} bytes; its sidecar says {attr.size}.")
        return Download(attr, reader)

    def search(self, query: Query) -> Page:
        """One page of the files that match. Raises `Unavailable` when the cache does not answer."""
        return self.cache.search(query)

    def _find(self, file_id: str) -> tuple[Attr, bytes]:
        """A file's sidecar, decoded and as it is. The cache says where; the tree says whether."""
        answered = True
        try:
            key = self.keeper.owed_key(file_id) or self.cache.key(file_id)
        except Unavailable:
            key, answered = None, False
        if key is not None:
            try:
                return self._believe(key, file_id)
            except NotFound:
                pass  # a stale row, or deleted a moment ago
        elif answered and self.keeper.is_whole():
            raise NotFound(f"There is no file {file_id}.")
        directory = self.naming.directory(file_id)
        # The id tells the directory; only an id that somebody chose, with no cache to ask, costs a walk.
        places: Iterable[str] = () if directory is None else (directory,)
        if not answered:
            places = [*places, *(d for d in self.backend.directories() if d != directory)]
        for place in places:
            for entry in self.backend.scan(place):
                if entry.sidecar and self.naming.carries(entry.key.rpartition("/")[2], file_id):
                    try:
                        return self._believe(entry.key, file_id)
                    except NotFound:
                        continue
        raise NotFound(f"There is no file {file_id}.")

    def _believe(self, key: str, file_id: str) -> tuple[Attr, bytes]:
        sidecar = self.backend.sidecar(key)
        attr = decode(sidecar, key)
        if attr.file_id != file_id:
            raise NotFound(f"There is no file {file_id}.")
        return attr, sidecar

    # --- change -------------------------------------------------------------------------------------------

    def update(self, by: Principal, file_id: str, change: Callable[[Attr], Mapping[str, Any]]) -> Attr:
        """Replace `description`, `tags`, `metadata`, those that `change` names; durable on return.

        `change` sees the present attr, says what becomes of it, or raises when it is not what the caller
        took it for. Raises `NotFound`, `ModeNotAllowed`, `InvalidField`, `PreconditionFailed`, `Unavailable`.
        """
        self.element.require(Operation.UPDATE)
        with self.locks.file(file_id):
            old, old_sidecar = self._find(file_id)
            attr = _changed(old, change(old))
            if attr == old.model_copy(update={"revision": attr.revision, "updated_at": attr.updated_at}):
                return old
            sidecar = attr.encode()
            intent = self.wal.begin(
                "update", by=by.name, file_id=file_id, key=old.key, revision=attr.revision
            )
            try:
                intent.sync()
                with self.element.gate(Operation.UPDATE):
                    self.backend.replace_sidecar(old.key, old_sidecar, sidecar)
            except Refused as e:
                intent.roll_back(e.detail)
                raise
            except ArtstoreError as e:
                intent.fail(e.detail)
                self.keeper.owe(file_id, old.key, None)  # it may have happened all the same
                raise
            self._settle_row(intent, attr)
        self.announce("update", attr)
        return attr

    def delete(self, by: Principal, file_id: str, condition: Callable[[Attr], None]) -> None:
        """Delete a file; durable on return, and works on a full disk.

        `condition` sees the present attr and raises when it is not what the caller took it for.
        Raises `NotFound`, `ModeNotAllowed`, `PreconditionFailed`, `Damaged`, `Unavailable`.
        """
        self.element.require(Operation.DELETE)
        with self.locks.file(file_id):
            attr, _ = self._find(file_id)
            condition(attr)
            intent: Intent | None = None
            try:
                intent = self.wal.begin("delete", by=by.name, file_id=file_id, key=attr.key)
            except StorageFull:
                log.warning("the log is full: %s is deleted with its tombstone as the only trace", file_id)
            try:
                with self.element.gate(Operation.DELETE):
                    self.backend.entomb(attr.key)
            except Refused as e:
                if intent is not None:
                    intent.roll_back(e.detail)
                raise
            except ArtstoreError as e:
                if intent is not None:
                    intent.fail(e.detail)
                self.keeper.owe(file_id, attr.key, None)  # it may have happened all the same
                raise
            self._settle_row(intent, attr, gone=True)
        self.keeper.bury(attr.key)
        self.announce("delete", attr)

    def _settle_row(self, intent: Intent | None, attr: Attr, *, gone: bool = False) -> None:
        """The last two steps of a change. It has succeeded whatever the cache says: a row that cannot be
        written now is owed, and the intent stays open until it is paid."""
        try:
            if gone:
                self.cache.remove([attr.file_id])
            else:
                self.cache.put([attr])
        except Exception as e:
            log.warning("the cache row of %s is owed: %s", attr.file_id, e)
            self.keeper.owe(attr.file_id, attr.key, intent)
        else:
            if intent is not None:
                intent.commit()

    # --- the element --------------------------------------------------------------------------------------

    def transition(self, by: Principal, target: Mode, *, confirm: bool, reason: str) -> ElementRecord:
        """Change the mode; durable, and true for every process of this node, on return. Raises `Conflict`."""
        intent = self.wal.begin("mode", by=by.name, key=target.value)
        try:
            intent.sync()
            record = self.element.transition(target, confirm=confirm, by=by.name, reason=reason, at=now())
        except BaseException as e:
            intent.roll_back(str(e))
            raise
        intent.commit()
        return record

    def transactions(self, *, status: Status | None, limit: int, before: str | None) -> list[Transaction]:
        """What the log tells, newest first."""
        return self.wal.transactions(status=status, limit=limit, before=before)

    def close(self) -> None:
        """Leave everything durable and settled; sessions still open are lost."""
        self.keeper.close()
        self.wal.close()
        self.element.close()
        self.cache.close()
        self.backend.close()


class Session:
    """An upload under way: `write` any number of times, then `commit` or `abort`. One thread at a time."""

    def __init__(
        self,
        kernel: Kernel,
        intent: Intent | None,
        writer: Writer,
        name: Name,
        file_id: str,
        chosen: bool,
        draft: Attr,
        at: datetime,
        announced: int | None,
    ) -> None:
        self._kernel = kernel
        self._intent = intent
        self._writer = writer
        self._name = name
        self._file_id = file_id
        self._chosen = chosen
        self._draft = draft
        self._at = at
        self._announced = announced
        self._sha256 = hashlib.sha256()
        self._over = False
        self.size = 0

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append to the data. Raises `TooLarge`, `StorageFull`, `Unavailable`; the session is over then."""
        try:
            self.size += len(piece)
            if self.size > self._kernel.limits.max_file_size:
                raise TooLarge(f"The file is larger than {int(self._kernel.limits.max_file_size)} bytes.")
            self._writer.write(piece)
            self._sha256.update(piece)
        except ArtstoreError as e:
            self.abort(e.detail)
            raise

    def commit(
        self,
        *,
        description: str = "",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        sha256: Iterable[str] = (),
    ) -> tuple[Attr, bool]:
        """Make the file true: its attr, and whether it is new (False: the same upload was there already).

        Data and sidecar are durable on return. `sha256`: digests the caller announced. On any exception
        nothing is left. Raises `DigestMismatch`, `InvalidField`, `MalformedRequest`, `Conflict`,
        `ModeNotAllowed`, `StorageFull`, `Unavailable`.
        """
        kernel = self._kernel
        try:
            digest = self._sha256.hexdigest()
            self._check(digest, sha256)
            fields = {
                "file_id": self._file_id,
                "storage_filename": self._name.filename,
                "storage_path": self._name.directory,
                "size": self.size,
                "sha256": digest,
            }
            attr = _changed(
                self._draft.model_copy(update=fields | {"revision": 0}),
                {"description": description, "tags": tags, "metadata": metadata or {}},
                at=self._at,
            )
            sidecar = attr.encode()
            with ExitStack() as stack:
                if self._chosen:
                    stack.enter_context(kernel.locks.file(self._file_id))
                    there = self._present()
                    if there is not None:
                        self.abort("the same file was there already")
                        return there, False
                if self._intent is None:
                    raise Conflict(f"The file {self._file_id} was deleted meanwhile; try again.")
                stack.enter_context(kernel.element.gate(Operation.UPLOAD))
                if now() - self._at > SLOW:
                    self._intent.sync()
                self._writer.publish(sidecar)
                self._over = True
                kernel._settle_row(self._intent, attr)
        except BaseException as e:
            self.abort(e.detail if isinstance(e, ArtstoreError) else type(e).__name__)
            raise
        kernel.announce("upload", attr)
        return attr, True

    def _check(self, digest: str, announced: Iterable[str]) -> None:
        if self._announced is not None and self.size != self._announced:
            raise MalformedRequest(f"The body ended after {self.size} of {self._announced} bytes.")
        for expected in announced:
            if expected != digest:
                raise DigestMismatch(f"The sha-256 of what arrived is {digest}, not {expected}.")

    def _present(self) -> Attr | None:
        """The file that has the chosen id already, when it is this very upload. Raises `Conflict` otherwise."""
        try:
            there = self._kernel.attr(self._file_id)
        except NotFound:
            return None
        if (
            there.sha256 == self._sha256.hexdigest()
            and there.original_filename == self._draft.original_filename
        ):
            return there
        raise Conflict(f"The id {self._file_id} belongs to a file with other bytes or another name.")

    def abort(self, reason: str = "given up") -> None:
        """Leave nothing. Harmless after `commit` and twice. Never raises."""
        if not self._over:
            self._over = True
            self._writer.abort()
            if self._intent is not None:
                self._intent.roll_back(reason)


class _Unkept:
    """The writer of an upload whose file is there already: its bytes are compared, not kept."""

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Nothing to keep."""

    def publish(self, sidecar: bytes) -> None:
        raise AssertionError("what is not kept cannot be published")

    def abort(self) -> None:
        """Nothing to leave."""


def _draft(by: Principal, filename: str, content_type: str | None, at: datetime) -> Attr:
    """The attr of an upload as far as it is known when it begins; refuses bad names before the body comes."""
    guess = content_type or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    return _validated(
        {
            "file_id": "00000000-0000-7000-8000-000000000000",
            "original_filename": filename,
            "storage_filename": "-",
            "storage_path": "-",
            "size": 0,
            "content_type": guess,
            "sha256": "0" * 64,
            "uploaded_by": by.name,
            "uploaded_by_id": by.id,
            "uploaded_at": timestamp(at),
            "updated_at": timestamp(at),
            "revision": 1,
        }
    )


def _changed(attr: Attr, changes: Mapping[str, Any], *, at: datetime | None = None) -> Attr:
    """The next revision of `attr`."""
    fields = attr.model_dump() | dict(changes)
    return _validated(fields | {"revision": attr.revision + 1, "updated_at": timestamp(at or now())})


def _validated(fields: Mapping[str, Any]) -> Attr:
    try:
        return Attr.model_validate(fields)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False, include_input=False)[0]
        field = str(first["loc"][0])
        name = {"original_filename": "filename"}.get(field, field)
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidField(name, f"{name}: {message}.") from None
