"""The reservation of a key: no file has it, no tombstone, and no other upload in progress.

An id that a caller chose stays the same when the request is sent again, so within one second its name would be the same
too. If two attempts shared a key, a process that resolves, recovers or aborts the first could destroy the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from artstore.errors import Conflict
from artstore.ids import FileId, Key, uuid7
from artstore.locks import LOCK_TIMEOUT
from artstore.parts import Parts
from artstore.spi import Intent, Name, Writer

_ATTEMPTS = 64
"""Names that are tried for one upload. A name is taken while another upload has it, and until its tombstone is
purged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A key that this upload alone has, with its open intent and the writer of its data."""

    file_id: FileId
    name: Name
    intent: Intent
    writer: Writer


def reserve(
    parts: Parts, *, by: str, filename: str, at: datetime, chosen: FileId | None = None
) -> Reservation:
    """Open the intent of an upload and begin its data, under the id that the caller chose or a new one.

    Nothing is durable on return. Raises `Conflict`, `StorageFull`, `Unavailable`; then nothing is left.
    """
    for attempt in range(_ATTEMPTS):
        file_id = chosen or uuid7(at)
        name = parts.naming.name(
            file_id=file_id,
            original_filename=filename,
            username=by,
            at=at,
            attempt=attempt if chosen else 0,  # a new id gives another name by itself
        )
        intent = parts.log.begin("upload", by=by, file_id=file_id, key=name.key)
        try:
            writer = _create(parts, name.key, chosen)
        except BaseException as e:
            intent.roll_back(str(e))
            if not isinstance(e, Conflict) or attempt == _ATTEMPTS - 1:
                raise
        else:
            return Reservation(file_id=file_id, name=name, intent=intent, writer=writer)
    raise AssertionError("unreachable")


def _create(parts: Parts, key: Key, chosen: FileId | None) -> Writer:
    backend = parts.backend
    if chosen is None:
        return backend.create(key)
    taken = Conflict("Other uploads of this id began at the same time; try again.")
    # After our own intent was opened: of two nodes that begin at the same time at least one sees the other's.
    if key in parts.coordination.open_uploads(chosen):
        raise taken
    if not backend.capabilities.lists_uploads:
        return backend.create(key)
    with parts.locks.exclusive("names"):
        if key in backend.in_progress(key):
            raise taken
        return backend.create(key)


def resolve_upload(parts: Parts, key: Key, *, writer_may_return: bool) -> None:
    """Resolve the upload of `key`, whose writer is dead. Raises `Unavailable`.

    `writer_may_return`: it may only be paused, or a request of it may still be on its way.
    What a dead process had staged was recovered before. So data that is staged now belongs to a live process that has
    reserved the key since: it is left alone, and that process decides about the key.
    """
    backend = parts.backend
    if writer_may_return or not backend.capabilities.lists_uploads:
        backend.resolve(key)
        return
    with parts.locks.exclusive("names", timeout=LOCK_TIMEOUT):
        if key not in backend.in_progress(key):
            backend.resolve(key)
