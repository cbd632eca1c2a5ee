"""The element itself: its id and its mode, kept in the store, and the gate that every change passes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from artstore import modes
from artstore.attr import Timestamp, timestamp, with_changed_bytes
from artstore.errors import ConfigError, Conflict, PreconditionFailed, Unavailable
from artstore.locks import Locks
from artstore.modes import Mode, Operation
from artstore.spi import PIECE, RecoverableBackend

RECORD = "element.json"
_RECORD_TTL = 0.5
"""Seconds for which the record of a store that several machines share is used before it is read again."""


class ElementRecord(BaseModel):
    """The content of `.artstore/element.json`. Unknown keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1
    element_id: str
    store_id: str = ""
    """Made at random with the store. An element id does not tell a store from a new one, since it may be configured."""
    naming: str
    mode: Mode
    changed_at: Timestamp
    changed_by: str
    reason: str = ""

    def is_of_store(self, other: ElementRecord) -> bool:
        """Return whether both are records of one store."""
        return (self.store_id, self.element_id) == (other.store_id, other.element_id)


class Element:
    """Id and mode of one element. The record in the store is the truth; it is read again before each use. Every method
    may be called from many threads at once."""

    def __init__(self, backend: RecoverableBackend, locks: Locks) -> None:
        self._backend = backend
        self._locks = locks
        self._lock = threading.Lock()
        self._seen: tuple[bytes, ElementRecord] | None = None
        self._read_at = 0.0
        self._gate = locks.shared("element")

    def record(self) -> ElementRecord:
        """Return the record as it is in the store, up to half a second ago. Raises `Unavailable`."""
        if (
            self._backend.capabilities.shared
            and time.monotonic() - self._read_at < _RECORD_TTL
            and self._seen
        ):
            return self._seen[1]
        return self._read()[1]

    def _read(self) -> tuple[bytes, ElementRecord]:
        began = time.monotonic()  # an answer that was long on its way is as old as its request
        document = self._backend.read_document(RECORD)
        if document is None:
            raise Unavailable("The store has lost the record of this element.")
        seen = self._seen
        if seen is None or seen[0] != document:
            try:
                read = (document, decode(document))
            except ConfigError as e:
                raise Unavailable(e.detail) from None
            if seen is not None and not read[1].is_of_store(seen[1]):
                raise Unavailable("Another store lies in the place of the store of this element.")
            seen = self._seen = read
        self._read_at = began
        return seen

    def require(self, operation: Operation) -> None:
        """Raise `ModeNotAllowed` unless the present mode allows `operation`. Raises `Unavailable`."""
        modes.require(self.record().mode, operation)

    @contextmanager
    def gate(self, operation: Operation) -> Iterator[None]:
        """Within it the mode does not change: a transition returns after all have left. Raises as `require`."""
        self.require(operation)  # first, so that refused operations do not keep a transition waiting
        with self._gate:
            self.require(operation)
            yield

    def transition(self, target: Mode, *, confirm: bool, by: str, reason: str, at: datetime) -> ElementRecord:
        """Change the mode; on return it is durable, and every process of every node obeys it.

        On another node a change that has passed the gate before may still end. Raises `Conflict`, `StorageFull`,
        `Unavailable`.
        """
        with self._lock, self._locks.exclusive("mode"):
            document, current = self._read()
            if current.mode is target:
                # The process that changed it may have failed half way, and our refusal says that the mode holds.
                self._apply(document, current, old=document)
            modes.check_transition(current.mode, target, confirm=confirm)
            changed = current.model_copy(
                update={"mode": target, "changed_at": timestamp(at), "changed_by": by, "reason": reason}
            )
            self._apply(encode(changed), changed, old=document)
        return changed

    def _apply(self, document: bytes, record: ElementRecord, *, old: bytes) -> None:
        # Written first, so that later operations are refused. Then wait until no process of any node uses the old
        # record any more, and for the operations that entered before.
        try:
            self._backend.write_document(RECORD, document, if_match=old)
        except PreconditionFailed:
            raise Conflict("The record of the mode was changed meanwhile; try again.") from None
        self._seen = (document, record)
        if modes.allows_changes(record.mode):
            return  # no transition to this mode forbids anything, and new operations would keep us waiting
        if self._backend.capabilities.shared:
            time.sleep(_RECORD_TTL)
        with self._locks.exclusive("element"):
            pass

    def resolve_transition(self, target: str | None, *, dead: bool) -> bool:
        """Resolve a transition to `target` of another process: return whether it was made.

        Unless that process is `dead`, it cannot make it after False. Raises `StorageFull`, `Unavailable`.
        """
        while True:
            document, record = self._read()
            if dead or record.mode == target:
                return record.mode == target
            try:
                self._backend.write_document(RECORD, with_changed_bytes(document, PIECE), if_match=document)
            except PreconditionFailed:
                continue
            return False

    def close(self) -> None:
        """Release the gate. Called once."""
        self._gate.close()


def encode(record: ElementRecord) -> bytes:
    """Return the document of `record`."""
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False).encode()


def decode(document: bytes) -> ElementRecord:
    """Return the record in `document`. Raises `ConfigError` when it cannot be read."""
    try:
        return ElementRecord.model_validate_json(document)
    except ValidationError as e:
        raise ConfigError(
            f"{RECORD} of the store cannot be read: {e.errors(include_url=False)[0]['msg']}.",
            place=f".artstore/{RECORD}",
            cure="Restore it from a backup of the store.",
        ) from None
