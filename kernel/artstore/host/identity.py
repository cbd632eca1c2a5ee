"""The identity of an element: recorded in its store at the first start, compared with the settings at later ones."""

from __future__ import annotations

from datetime import datetime

from artstore.attr import timestamp
from artstore.element import RECORD, ElementRecord, decode, encode
from artstore.errors import ConfigError, Conflict
from artstore.locks import Locks
from artstore.modes import Mode
from artstore.spi import RecoverableBackend


def establish(
    backend: RecoverableBackend,
    locks: Locks,
    *,
    element_id: str | None,
    naming: str,
    mode: Mode,
    fallback_id: str,
    at: datetime,
) -> None:
    """Record the element at its first start; later, check that the store is its own. Durable on return.

    Raises `ConfigError` for the store of another element, `StorageFull`, `Unavailable`.
    """
    with locks.exclusive("mode"):
        document = backend.read_document(RECORD)
        if document is None:
            if element_id is None and _has_files(backend):
                # A new id would be wrong, and a new mode might allow what the old one forbade.
                raise ConfigError(
                    f"This store holds files, but {RECORD}, with the id and mode of their element, is missing.",
                    place=f".artstore/{RECORD}",
                    cure="Restore it from a backup of the store; or set element_id and mode, to create it again.",
                )
            record = ElementRecord(
                element_id=element_id or fallback_id,
                naming=naming,
                mode=mode,
                changed_at=timestamp(at),
                changed_by="artstore",
                reason="first start",
            )
            try:
                backend.write_document(RECORD, encode(record), if_absent=True)
                return
            except Conflict:  # another machine created it first
                document = backend.read_document(RECORD)
    recognise(document or b"", element_id=element_id, naming=naming)


def _has_files(backend: RecoverableBackend) -> bool:
    return any(entry.sidecar for d in backend.list_directories() for entry in backend.list(d))


def recognise(document: bytes, *, element_id: str | None, naming: str) -> None:
    """Raise `ConfigError` unless `document` is the record of this element."""
    record = decode(document)
    if element_id and record.element_id != element_id:
        raise ConfigError(
            f"This store belongs to element '{record.element_id}', not to '{element_id}'.",
            place="element_id",
            cure="Name the right element_id, or point the backend to a store of its own.",
        )
    if record.naming != naming:
        raise ConfigError(
            f"This store was made with naming '{record.naming}', not '{naming}'.",
            place="naming",
            cure=f'Set naming = "{record.naming}".',
        )
