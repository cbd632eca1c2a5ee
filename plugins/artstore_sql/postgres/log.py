"""The log in PostgreSQL, for nodes that share a store.

    <prefix>wal           one row per intent: pending -> committed | rolled_back | failed
    <prefix>wal_owners    one row per process: how long it counts as alive, by the clock of the database

A process that finds an expired lease *fences* its owner: from then on that owner can end none of its intents, and other
processes recover what it left. When it wakes it continues under a new number, with no open intents. That it can finish
nothing in the store that others undid there is the backend's promise (`Recoverable.resolve`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import text

from artstore.attr import timestamp
from artstore.errors import ArtstoreError, Unavailable
from artstore.ids import FileId, Key, now, uuid7
from artstore.spi import Context, Coordination, Log, Status, Transaction
from artstore_sql.postgres.database import Postgres
from artstore_sql.postgres.intents import Ends, SqlAbandoned, SqlIntent
from artstore_sql.postgres.lease import Owner
from artstore_sql.postgres.locks import Locks
from artstore_sql.postgres.log_table import LogTable
from artstore_sql.postgres.schema import Schema
from artstore_sql.settings import Prefix

log = logging.getLogger("artstore.sql")

CONNECTIONS = 6
"""Connections of one process at most; those of `Locks` come on top."""


class LogSettings(BaseModel, extra="forbid"):
    """`[wal.sql]`: the database that holds the intents."""

    url: SecretStr
    table_prefix: Prefix = ""
    timeout: float = Field(default=5.0, gt=0, le=3600)
    lease: float = Field(default=15.0, ge=1, le=3600)
    """Seconds without renewal after which other processes recover what a process left."""
    keep_hours: float = Field(default=168, ge=0)


class SqlLog(Log, Coordination):
    """Intents in PostgreSQL. Each is durable when `begin` returns."""

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = LogSettings

    def __init__(self, settings: LogSettings, context: Context) -> None:
        place, prefix = "wal.sql.url", settings.table_prefix
        self._settings = settings
        self._database = Postgres(settings.url, settings.timeout, place=place, size=CONNECTIONS)
        self._table = LogTable(self._database, prefix)
        self._ends = Ends(self._table)
        self._locks = Locks(settings.url, settings.timeout, settings.lease, place=place, prefix=prefix)
        self._schema = Schema(self._database, prefix, reading=context.read_only)
        self._lock = threading.Lock()
        self._owner: Owner | None = None
        self._closed = False
        self._schema.open_or_defer()

    def claim(self, element_id: str) -> None:
        self._schema.claim(element_id)

    def begin(
        self,
        operation: str,
        *,
        by: str,
        file_id: FileId | None = None,
        key: Key | None = None,
        revision: int = 0,
    ) -> SqlIntent:
        at = now()
        tx = uuid7(at)
        record = {
            "tx": tx, "op": operation, "file_id": file_id, "key": key, "by": by, "revision": revision,
            "started": timestamp(at),
        }  # fmt: skip
        while True:
            owner = self._live_owner()
            if self._table.begin(owner.id, record):
                return SqlIntent(self._ends, owner, tx)
            owner.fenced = True

    def position(self) -> int:
        return self._table.next_position()

    def checkpoint(self, position: int) -> None:
        if self._owner is not None:
            self._owner.checkpoint(position)
        self._table.prune(keep_hours=self._settings.keep_hours)

    def set_dirty(self) -> None:
        position = self._table.next_position()
        while not self._live_owner().set_dirty(
            position
        ):  # a fenced owner's entries are for those who recover it
            pass

    def clear_dirty(self, position: int) -> None:
        if self._owner is not None:
            self._owner.clear_dirty(position)

    def any_dirty(self) -> bool:
        self._require_open()
        return self._table.any_dirty()

    def open_uploads(self, file_id: FileId) -> Sequence[Key]:
        self._require_open()
        return [Key(key) for key in self._table.open_uploads(file_id, except_of=self._owner_id())]

    def abandoned(self) -> Iterator[SqlAbandoned]:
        self._require_open()
        for owner, flushed in self._table.fence(except_of=self._owner_id(), lease=self._settings.lease):
            yield SqlAbandoned(self._table, owner, self._table.left_by(owner, flushed))

    def transactions(
        self, *, status: Status | None = None, limit: int = 100, before: str | None = None
    ) -> list[Transaction]:
        self._require_open()
        return self._table.transactions(status=status, limit=limit, before=before)

    @contextmanager
    def exclusive(self, name: str, *, wait: bool = True) -> Iterator[None]:
        self._require_open()
        with self._locks.exclusive(name, wait=wait):
            yield

    def check(self) -> None:
        self._require_open()
        self._database.write(
            lambda c: c.execute(text("SELECT pg_logical_emit_message(true, 'artstore', '')"))
        )

    def close(self) -> None:
        self._closed = True
        if self._owner is not None and not self._owner.fenced:
            try:
                self._ends.flush_pending()
                self._owner.leave(self._table.intents)
            except ArtstoreError as e:
                log.warning("other processes will recover what is left when the lease expires: %s", e.detail)
        self._locks.close()
        self._database.close()

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("The log is closed.")
        self._schema.require()

    def _owner_id(self) -> int:
        return 0 if self._owner is None else self._owner.id

    def _live_owner(self) -> Owner:
        """Return this process's owner; a new one when it was fenced."""
        self._require_open()
        with self._lock:
            if self._owner is None or self._owner.fenced:
                lease, owners = self._settings.lease, self._table.owners
                self._owner = Owner(self._database, owners, lease, self._ends.flush_pending)
            return self._owner
