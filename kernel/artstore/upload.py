"""An upload, from its first byte to its commit.

`Upload._commit` keeps the order of every change: data and sidecar (the commit point), index entry, commit of the
intent. `reservation.reserve` opened the intent before the first byte.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError

from artstore import checkpoint, reservation
from artstore.attr import Attr, ContentType, Filename, Username, invalid_field, timestamp, validate
from artstore.errors import (
    ArtstoreError,
    Conflict,
    DigestMismatch,
    MalformedRequest,
    NotFound,
    OutcomeUnknown,
    StorageFull,
    TooLarge,
)
from artstore.ids import FileId, Key, now
from artstore.index import Index, read_attr
from artstore.locks import Breadcrumb
from artstore.modes import Operation
from artstore.observers import Observers, event_of
from artstore.parts import Parts
from artstore.reading import find
from artstore.reservation import Reservation
from artstore.space import Room, Space
from artstore.spi import PIECE, Principal

LONG_UPLOAD = timedelta(minutes=30)
"""An upload that took longer makes its intent durable before it publishes: its directory may be older than those that
recovery compares."""


class UploadRequest(BaseModel, frozen=True):
    """What is known of an upload when it begins. It is checked then, before the body arrives."""

    file_id: FileId | None
    """The id that the caller chose, if they did."""
    original_filename: Filename
    content_type: ContentType
    uploaded_by: Username
    uploaded_by_id: Username
    at: datetime
    size: int | None
    """The number of bytes that the caller announced, if they did."""


def make_request(
    by: Principal,
    filename: str,
    content_type: str | None,
    file_id: FileId | None,
    size: int | None,
    at: datetime,
) -> UploadRequest:
    """Return the checked request. Raises `InvalidField`."""
    try:
        return UploadRequest(
            file_id=file_id,
            original_filename=filename,
            content_type=content_type or "application/octet-stream",
            uploaded_by=by.name,
            uploaded_by_id=by.id,
            at=at,
            size=size,
        )
    except ValidationError as e:
        raise invalid_field(e) from None


class Session(ABC):
    """An upload in progress: `write` any number of times, then `commit` or `abort`. Used by one thread at a time."""

    def __init__(self, parts: Parts, index: Index, request: UploadRequest, file_id: FileId) -> None:
        self._parts = parts
        self._index = index
        self._request = request
        self.file_id = file_id
        self._sha256 = hashlib.sha256()
        self.size = 0
        """Bytes that were written so far."""

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append to the data. Raises `TooLarge`, `StorageFull`, `Unavailable`; then the session is aborted."""
        try:
            view = memoryview(piece)
            for start in range(0, len(view), PIECE):
                self._append(view[start : start + PIECE])
        except ArtstoreError as e:
            self.abort(e.detail)
            raise

    def _append(self, piece: memoryview) -> None:
        self.size += len(piece)
        if self.size > self._parts.limits.max_file_size:
            raise TooLarge(f"The file is larger than {int(self._parts.limits.max_file_size)} bytes.")
        self._sha256.update(piece)

    def commit(self, *, sha256: Iterable[str] = (), **texts: Any) -> tuple[Attr, bool]:
        """Return the attr of the file, and whether it is new (False: the same upload was there already).

        Data and sidecar are durable on return. `sha256`: digests that the caller announced; `texts`: the fields of the
        attr that the caller may set (description, tags, metadata). After any exception but
        `OutcomeUnknown` nothing is left. Raises `DigestMismatch`, `InvalidField`, `MalformedRequest`, `Conflict`,
        `ModeNotAllowed`, `StorageFull`, `Unavailable`. Called once.
        """
        try:
            digest = self._digest(sha256)
            return self._commit(digest, **texts)
        except BaseException as e:
            self.abort(e.detail if isinstance(e, ArtstoreError) else type(e).__name__)
            raise

    @abstractmethod
    def _commit(self, digest: str, **texts: Any) -> tuple[Attr, bool]:
        """Do what `commit` promises. `digest`: the sha-256 of what arrived."""

    @abstractmethod
    def abort(self, reason: str = "given up") -> None:
        """Remove what was written. Never raises. Has no effect after `commit`, and twice."""

    def _digest(self, announced: Iterable[str]) -> str:
        """Return the digest of what arrived. Raises `MalformedRequest` and `DigestMismatch` when other bytes were
        announced."""
        size, digest = self._request.size, self._sha256.hexdigest()
        if size is not None and self.size != size:
            raise MalformedRequest(f"The body ended after {self.size} of {size} bytes.")
        for expected in announced:
            if expected != digest:
                raise DigestMismatch(f"The sha-256 of what arrived is {digest}, not {expected}.")
        return digest

    # --- a chosen id --------------------------------------------------------------------------------------

    @contextmanager
    def _lock(self) -> Iterator[Breadcrumb]:
        """Exclude every other upload of a chosen id, on all nodes. What dead or failed ones left is resolved first."""
        with (
            self._parts.locks.file(self.file_id) as breadcrumb,
            self._parts.coordination.exclusive(f"file {self.file_id}"),
        ):
            self._index.backlog.resolve_in_doubt(self.file_id)
            self._resolve_dead_writer(breadcrumb)
            yield breadcrumb

    def _resolve_dead_writer(self, breadcrumb: Breadcrumb) -> None:
        """Resolve the upload of a process that died between its commit point and its index entry.

        Until recovery has run, only the breadcrumb tells of that file, and a retry must not make a second one. On a
        shared store a request of the dead process may still be on its way.
        """
        parts = self._parts
        if (key := breadcrumb.read()) is None:
            return
        reservation.resolve_upload(parts, key, writer_may_return=parts.backend.capabilities.shared)
        if (attr := read_attr(parts.backend, key)) is not None:
            self._index.write_entry(None, attr)
        breadcrumb.erase()

    def _find_same(self, digest: str, own_key: Key | None) -> Attr | None:
        """Return the file that has the chosen id, if it is this very upload; durable on return. Called while holding
        the lock. Raises `Conflict` when it is another file."""
        attr = self._compare(digest)
        if attr is None and self._resolve_open_uploads(own_key):
            attr = self._compare(digest)
        if attr is not None:
            # Its writer may have died before it was durable, and our answer acknowledges it.
            self._parts.backend.resolve(attr.key)
            self._index.write_entry(None, attr)
        return attr

    def _compare(self, digest: str) -> Attr | None:
        try:
            attr, _ = find(self._parts, self._index, self.file_id)
        except NotFound:
            return None
        if attr.sha256 == digest and attr.original_filename == self._request.original_filename:
            return attr
        raise Conflict(f"The id {self.file_id} belongs to a file with other bytes or another name.")

    def _resolve_open_uploads(self, own_key: Key | None) -> bool:
        """Resolve the uploads of the same id that other nodes have open; return whether one of them is committed.

        A process that has such an upload does not hold the lock that we hold. So it has not looked for our file yet,
        and will find it; or it died, or lost the lock, after it looked. Then it must not publish any more.
        """
        found = False
        for key in set(self._parts.coordination.open_uploads(self.file_id)) - {own_key}:
            attr = read_attr(self._parts.backend, key) if self._parts.backend.resolve(key) else None
            if attr is not None:
                self._index.write_entry(None, attr)
                found = True
        return found


class Upload(Session):
    """The upload of a new file, under a key that was reserved for it."""

    def __init__(
        self,
        parts: Parts,
        index: Index,
        observers: Observers,
        request: UploadRequest,
        reservation: Reservation,
        space: Space,
        room: Room,
    ) -> None:
        super().__init__(parts, index, request, reservation.file_id)
        self._space = space
        self._room = room
        self._observers = observers
        self._reservation = reservation
        self._ended = False
        self._unchecked = 0
        """Bytes that were written since the free space was last checked."""

    def _append(self, piece: memoryview) -> None:
        super()._append(piece)  # the hash first: it leaves the piece in the processor's cache for the write
        self._room.extend(self.size)
        self._unchecked += len(piece)
        if self._unchecked >= PIECE:  # other uploads write too, and not every body has a length
            self._check_volume()
        try:
            self._reservation.writer.write(piece)
        except StorageFull as e:
            self._space.note_refusal(e)
            raise

    def _check_volume(self) -> None:
        self._unchecked = 0
        self._space.check_volume(max(0, (self._request.size or 0) - self.size))

    def _commit(self, digest: str, **texts: Any) -> tuple[Attr, bool]:
        intent, breadcrumb = self._reservation.intent, None
        if self._request.size is None and self._unchecked:
            self._check_volume()
        attr = self._describe(digest, texts)
        sidecar_limit = self._parts.backend.capabilities.sidecar_limit
        attr.encode(sidecar_limit)  # refused here when it is too large, before any lock is held
        with ExitStack() as stack:
            if self._request.file_id is not None:
                breadcrumb = stack.enter_context(self._lock())
                if (same := self._find_same(digest, attr.key)) is not None:
                    self.abort("the same file was there already")
                    return same, False
            stack.enter_context(self._parts.element.gate(Operation.UPLOAD))
            self._space.check_capacity(
                self.size
            )  # other nodes store files too, and do not show what they reserve
            self._leave_traces(breadcrumb)
            stamp = self._parts.clock.stamp()
            attr = stamp.put_on(attr)
            self._publish(attr.encode(sidecar_limit), breadcrumb)
            try:
                attr = self._index.renew_stamp(attr, stamp)
                indexed = self._index.write_entry(intent, attr)
            finally:
                self._room.release(stored=self.size)
            self._observers.deliver(event_of(attr))
            if indexed:
                intent.commit()
            if breadcrumb is not None:
                breadcrumb.erase()
        return attr, True

    def abort(self, reason: str = "given up") -> None:
        if not self._ended:
            self._ended = True
            self._reservation.writer.abort()
            self._reservation.intent.roll_back(reason)
        self._room.release()

    def _describe(self, digest: str, texts: Mapping[str, Any]) -> Attr:
        """Return the attr. Raises `InvalidField`."""
        request, name = self._request, self._reservation.name
        fields = {
            "file_id": self.file_id,
            "original_filename": request.original_filename,
            "storage_filename": name.filename,
            "storage_path": name.directory,
            "size": self.size,
            "content_type": request.content_type,
            "sha256": digest,
            "uploaded_by": request.uploaded_by,
            "uploaded_by_id": request.uploaded_by_id,
            "uploaded_at": timestamp(request.at),
            "updated_at": timestamp(request.at),
            "revision": 1,
        }
        return validate({**texts, **fields})

    def _leave_traces(self, breadcrumb: Breadcrumb | None) -> None:
        """Write what recovery, or a retry, needs if this process dies while it publishes."""
        parts, reserved = self._parts, self._reservation
        # Where the staged files are no trace of this upload, or recovery would not look for them, the log is.
        if (
            now() - self._request.at > LONG_UPLOAD
            or not parts.backend.capabilities.lists_uploads
            or checkpoint.precedes(parts, reserved.name.directory)
        ):
            reserved.intent.sync()
        if breadcrumb is not None:
            breadcrumb.write(reserved.name.key)

    def _publish(self, sidecar: bytes, breadcrumb: Breadcrumb | None) -> None:
        """Publish data and sidecar: the commit point. After `OutcomeUnknown` the background thread resolves it."""
        reserved = self._reservation
        try:
            reserved.writer.publish(sidecar)
        except OutcomeUnknown:
            self._ended = True
            self._room.release(stored=self.size)  # until it is known that there is none
            self._index.backlog.enqueue_in_doubt(self.file_id, reserved.name.key, reserved.intent)
            raise
        except ArtstoreError as e:
            if isinstance(e, StorageFull):
                self._space.note_refusal(e)
            with suppress(ArtstoreError):
                # A disk that failed may have kept the sidecar: then the breadcrumb stays, and the next try finds it.
                if breadcrumb is not None and read_attr(self._parts.backend, reserved.name.key) is None:
                    breadcrumb.erase()
            raise
        self._ended = True
        self._space.note_success()


class Retry(Session):
    """An upload under a chosen id that a file has already: the bytes are hashed and compared, not kept."""

    def _commit(self, digest: str, **texts: Any) -> tuple[Attr, bool]:
        with self._lock():
            same = self._find_same(digest, None)
        if same is None:
            raise Conflict(f"The file {self.file_id} was deleted meanwhile; try again.")
        return same, False

    def abort(self, reason: str = "given up") -> None:
        return
