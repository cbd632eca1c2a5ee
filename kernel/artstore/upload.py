"""An upload under way, from its first byte to its commit."""

from __future__ import annotations

import hashlib
import logging
import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from artstore import checkpoint, reservation
from artstore.attr import Attr, timestamp, validated
from artstore.errors import (
    ArtstoreError,
    Conflict,
    DigestMismatch,
    MalformedRequest,
    NotFound,
    OutcomeUnknown,
    TooLarge,
)
from artstore.ids import FileId, now
from artstore.locks import Note
from artstore.modes import Operation
from artstore.rows import believe
from artstore.spi import PIECE, Intent, Name, Principal, Writer

if TYPE_CHECKING:
    from artstore.kernel import Kernel

log = logging.getLogger("artstore.session")

SLOW = timedelta(minutes=30)
"""An upload older than this makes its intent durable before it publishes: its directory may be older than
those that recovery looks through."""


class Session:
    """An upload under way: `write` any number of times, then `commit` or `abort`. One thread at a time."""

    def __init__(
        self,
        kernel: Kernel,
        intent: Intent | None,
        writer: Writer,
        name: Name,
        file_id: FileId,
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
        self._unchecked = 0
        self.size = 0

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append to the data. Raises `TooLarge`, `StorageFull`, `Unavailable`; the session is over then."""
        try:
            view = memoryview(piece)
            for start in range(0, len(view), PIECE):
                self._append(view[start : start + PIECE])
        except ArtstoreError as e:
            self.abort(e.detail)
            raise

    def _append(self, piece: memoryview) -> None:
        self.size += len(piece)
        if self.size > self._kernel.limits.max_file_size:
            raise TooLarge(f"The file is larger than {int(self._kernel.limits.max_file_size)} bytes.")
        self._unchecked += len(piece)
        if self._unchecked >= PIECE:  # others write too, and not every body says how long it is
            self._admit()
        self._sha256.update(piece)  # first: it leaves the piece in the processor's cache for the writing
        self._writer.write(piece)

    def _admit(self) -> None:
        self._unchecked = 0
        if self._intent is not None:  # else nothing is kept
            self._kernel.admit(max(0, (self._announced or 0) - self.size), written=self.size)

    def commit(
        self,
        *,
        description: str = "",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        sha256: Iterable[str] = (),
    ) -> tuple[Attr, bool]:
        """Make the file true: its attr, and whether it is new (False: the same upload was there already).

        Data and sidecar are durable on return. `sha256`: digests the caller announced. On any exception but
        `OutcomeUnknown` nothing is left. Raises `DigestMismatch`, `InvalidField`, `MalformedRequest`, `Conflict`,
        `ModeNotAllowed`, `StorageFull`, `Unavailable`.
        """
        kernel = self._kernel
        try:
            digest = self._sha256.hexdigest()
            self._check(digest, sha256)
            if self._announced is None and self._unchecked:
                self._admit()
            fields = {
                "file_id": self._file_id,
                "storage_filename": self._name.filename,
                "storage_path": self._name.directory,
                "size": self.size,
                "sha256": digest,
            }
            texts = {"description": description, "tags": tags, "metadata": metadata or {}}
            attr = validated(self._draft.model_dump() | fields | texts)
            sidecar = attr.encode(kernel.backend.capabilities.sidecar_limit)
            with ExitStack() as stack:
                note: Note | None = None
                if self._chosen:
                    note = stack.enter_context(kernel.locks.file(self._file_id))
                    stack.enter_context(kernel.coordination.exclusive(f"file {self._file_id}"))
                    kernel.keeper.decide(self._file_id)  # perhaps it is there, and nobody knows
                    self._settle_the_dead(note)
                    there = self._present()
                    if there is None and self._settle_others():
                        there = self._present()
                    if there is not None:
                        # Its writer may have died before it was durable, and this is an acknowledgement.
                        kernel.backend.resolve(there.key)
                        kernel.write_row(None, there)
                        self.abort("the same file was there already")
                        return there, False
                if self._intent is None:
                    raise Conflict(f"The file {self._file_id} was deleted meanwhile; try again.")
                stack.enter_context(kernel.element.gate(Operation.UPLOAD))
                self._publish(sidecar, self._intent, note)
                kernel.settle_row(self._intent, attr)
                if note is not None:
                    note.wipe()
        except BaseException as e:
            self.abort(e.detail if isinstance(e, ArtstoreError) else type(e).__name__)
            raise
        return attr, True

    def _publish(self, sidecar: bytes, intent: Intent, note: Note | None) -> None:
        kernel = self._kernel
        # Where no staged file is the trace of an upload, the log is.
        if (
            now() - self._at > SLOW
            or not kernel.backend.capabilities.lists_uploads
            or checkpoint.is_behind(kernel, self._name.directory)
        ):
            intent.sync()
        if note is not None:
            note.write(self._name.key)
        try:
            self._writer.publish(sidecar)
        except OutcomeUnknown:
            self._over = True
            kernel.keeper.doubt(self._file_id, self._name.key, intent)
            raise
        except ArtstoreError:
            with suppress(ArtstoreError):
                # A disk that failed may not have taken it back: then the next try finds it.
                if note is not None and believe(kernel, self._name.key) is None:
                    note.wipe()
            raise
        self._over = True

    def _settle_the_dead(self, note: Note) -> None:
        """Of a file whose writer died after its commit and before its row nobody knows for now but the lock that it
        held, and a request of it may still be on its way: a retry must not make a second one."""
        kernel = self._kernel
        if (key := note.read()) is None:
            return
        reservation.settle(kernel, key, late=kernel.backend.capabilities.shared)
        if (attr := believe(kernel, key)) is not None:
            kernel.write_row(None, attr)
        note.wipe()

    def _settle_others(self) -> bool:
        """Whoever has the same upload under way elsewhere does not hold the lock that we hold: it will find our file,
        or it died or lost the lock since it looked. Then it must not publish any more; True when it has."""
        there = False
        for key in set(self._kernel.coordination.open_uploads(self._file_id)) - {self._name.key}:
            attr = believe(self._kernel, key) if self._kernel.backend.resolve(key) else None
            if attr is not None:
                self._kernel.write_row(None, attr)
                there = True
        return there

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


class Unkept:
    """The writer of an upload whose file is there already: its bytes are compared, not kept."""

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Nothing to keep."""

    def publish(self, sidecar: bytes) -> None:
        raise AssertionError("what is not kept cannot be published")

    def abort(self) -> None:
        """Nothing to leave."""


def draft(by: Principal, filename: str, content_type: str | None, at: datetime) -> Attr:
    """The attr of an upload as far as it is known when it begins; refuses bad names before the body comes."""
    guess = content_type or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    return validated(
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
