"""The identity of an element: recorded in its store at the first start; at later ones compared with the settings and
with what the home remembers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from artstore.attr import timestamp
from artstore.element import RECORD, ElementRecord, decode, encode
from artstore.errors import ConfigError, Conflict, PreconditionFailed, Unavailable, missing_store
from artstore.host import store_record
from artstore.host.store_record import StoreRecord
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
    expected: StoreRecord | None = None,
    is_directory: Callable[[str], bool] = lambda path: True,
) -> ElementRecord:
    """Record the element at its first start; later, check that the store is its own. Durable on return.

    `expected`: the store that this home has served. `is_directory`: that of the naming. Raises `ConfigError` when
    another store is there, or none, and for the store of another element; `StorageFull`, `Unavailable`.
    """
    with locks.exclusive("mode"):
        document = backend.read_document(RECORD)
        if document is None and expected is None:
            if element_id is None and _has_files(backend, is_directory):
                # A new id would be wrong, and a new mode might allow what the old one forbade.
                raise ConfigError(
                    f"This store holds files, but {RECORD}, with the id and mode of their element, is missing.",
                    place=f".artstore/{RECORD}",
                    cure="Restore it from a backup of the store; or set element_id and mode, to create it again.",
                )
            record = ElementRecord(
                element_id=element_id or fallback_id,
                store_id=secrets.token_hex(16),
                naming=naming,
                mode=mode,
                changed_at=timestamp(at),
                changed_by="artstore",
                reason="first start",
            )
            try:
                backend.write_document(RECORD, encode(record), if_absent=True)
                return record
            except Conflict:  # another machine created it first
                document = backend.read_document(RECORD)
        record = recognise(document, element_id=element_id, naming=naming, expected=expected)
        return record if record.store_id else _name_store(backend, record, document or b"")


def forget_store(backend: RecoverableBackend, state: Path, expected: StoreRecord) -> None:
    """Forget the store that this home has served: `establish` then accepts what lies in its place. Durable on return.

    Raises `ConfigError` when it is the store that lies there; `Unavailable`.
    """
    document = backend.read_document(RECORD)
    if document is not None and decode(document).store_id == expected.store_id:
        raise ConfigError(
            "The store that this home has served is there.",
            place="--new-store",
            cure="Leave the option out: it is for a home whose store is gone.",
        )
    store_record.remove(state)


def _has_files(backend: RecoverableBackend, is_directory: Callable[[str], bool]) -> bool:
    for directory in backend.list_directories():
        try:
            if any(entry.sidecar for entry in backend.list(directory)):
                return True
        except Unavailable:
            if is_directory(directory):
                raise
    return False


def _name_store(backend: RecoverableBackend, record: ElementRecord, document: bytes) -> ElementRecord:
    """Give an id to a store of a version that made none, and return its record."""
    named = record.model_copy(update={"store_id": secrets.token_hex(16)})
    try:
        backend.write_document(RECORD, encode(named), if_match=document)
    except PreconditionFailed:
        raise Unavailable(f"{RECORD} was changed meanwhile; try again.") from None
    return named


def recognise(
    document: bytes | None, *, element_id: str | None, naming: str, expected: StoreRecord | None = None
) -> ElementRecord:
    """Return the record in `document`, the `element.json` of the store. Raises `ConfigError` unless it is the record of
    this element and of the `expected` store."""
    if document is None:
        raise missing_store("What lies in the place of the store", place="backend")
    record = decode(document)
    if expected is not None and expected.store_id not in ("", record.store_id):
        raise missing_store(f"A store of element '{record.element_id}', which lies there,", place="backend")
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
    return record
