"""Which store a home serves, as the home itself remembers it: `state/store.json`.

A volume that is not mounted, a wrong prefix or a bucket made anew look like the store of a first start. By this record
a start tells them apart. The store is written first and this record second. So a crash between the two leaves a home
that adopts the store that it finds, as a home does whose `state/` was removed.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from artstore.errors import StorageFull
from artstore.posix import fsync_directory, translate_errors, translate_startup_errors

log = logging.getLogger("artstore.host")

_NAME = "store.json"


class StoreRecord(BaseModel):
    """The store that a home has served. Empty ids: the record was there and could not be read."""

    model_config = ConfigDict(frozen=True)

    store_id: str = ""
    element_id: str = ""


def read(state: Path) -> StoreRecord | None:
    """Return the record in the directory `state`, or None when this home has served no store.

    Raises as `translate_startup_errors` does.
    """
    with translate_startup_errors(state):
        try:
            document = (state / _NAME).read_bytes()
        except FileNotFoundError:
            return None
    try:
        return StoreRecord.model_validate_json(document)
    except ValidationError:
        log.warning("%s cannot be read: a store that is there is taken for the right one", state / _NAME)
        return StoreRecord()


def write(state: Path, record: StoreRecord) -> None:
    """Replace the record; durable on return. Raises `Unavailable`.

    On a full disk it is left out, and the next start writes it: reading and deleting need no room.
    """
    document = record.model_dump_json(indent=2).encode()
    try:
        with translate_errors("The record of the store cannot be written"):
            _write(state, document)
    except StorageFull as e:
        log.warning("this home does not remember its store yet: %s", e.detail)


def _write(state: Path, document: bytes) -> None:
    temp = state / f"{_NAME}.{os.getpid()}"
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            if os.write(fd, document) < len(document):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temp, state / _NAME)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    fsync_directory(state)


def remove(state: Path) -> None:
    """Forget the store that this home has served; durable on return. No record is no error. Raises `Unavailable`."""
    with translate_errors("The record of the store cannot be removed"):
        (state / _NAME).unlink(missing_ok=True)
        fsync_directory(state)
