"""The log in PostgreSQL, for nodes that share a store.

    <prefix>wal           an intent a row: pending -> committed | rolled_back | failed
    <prefix>wal_owners    a process a row: how long it counts as alive, by the clock of the database

A process that does not renew its lease is *fenced* by whoever notices: from then on none of its intents can be
ended by it, and what it left is settled by others. It comes back under a new number, with nothing begun.
That it cannot finish in the store what others undid there is the backend's promise (`Backend.settle`).
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import text

from artstore.attr import timestamp
from artstore.errors import ArtstoreError, Unavailable
from artstore.ids import FileId, Key
from artstore.spi import Context, Coordination, Log, Status, Transaction
from artstore_sql.postgres.database import Postgres
from artstore_sql.postgres.intents import Left, SqlIntent
from artstore_sql.postgres.lease import Owner
from artstore_sql.postgres.locks import Locks
from artstore_sql.postgres.schema import Opened
from artstore_sql.sqlite.cache import Prefix

log = logging.getLogger("artstore.sql")

CONNECTIONS = 6
"""Of one process, at most; those of `Locks` come on top."""
_PRUNED = 10_000


class LogSettings(BaseModel, extra="forbid"):
    """Where the intents are kept."""

    url: SecretStr
    table_prefix: Prefix = ""
    timeout: float = Field(default=5.0, gt=0, le=3600)
    lease: float = Field(default=15.0, ge=1, le=3600)
    """Seconds without a sign of life after which others settle what a process left."""
    keep_hours: float = Field(default=168, ge=0)


class SqlLog(Log, Coordination):
    """Intents in PostgreSQL; durable when they are begun."""

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = LogSettings

    def __init__(self, settings: LogSettings, context: Context) -> None:
        place, prefix = "wal.sql.url", settings.table_prefix
        self._settings = settings
        self._wal, self._owners = f"{prefix}wal", f"{prefix}wal_owners"
        self._database = Postgres(settings.url, settings.timeout, place=place, size=CONNECTIONS)
        self._locks = Locks(settings.url, settings.timeout, settings.lease, place=place, prefix=prefix)
        self._opened = Opened(self._database, prefix, reading=context.read_only)
        self._count = itertools.count(1)
        self._lock = threading.Lock()
        self._owner: Owner | None = None
        self._unsaid: list[tuple[Owner, str, Status, str | None]] = []
        self._closed = False
        self._opened.try_it()

    def claim(self, element_id: str) -> None:
        self._opened.claim(element_id)

    def begin(
        self, op: str, *, by: str, file_id: FileId | None = None, key: Key | None = None, revision: int = 0
    ) -> SqlIntent:
        at = _now()
        tx = _uuid7(at)
        told = {
            "tx": tx, "op": op, "file_id": file_id, "key": key, "by": by, "revision": revision,
            "started": timestamp(at),
        }  # fmt: skip
        # The same tx again is the same intent, whose answer was lost.
        new = text(
            f"INSERT INTO {self._wal} (tx, owner, op, file_id, key, by, revision, status, started) "
            "SELECT :tx, id, :op, :file_id, :key, :by, :revision, 'pending', :started "
            f"FROM {self._owners} WHERE id = :owner AND NOT fenced FOR SHARE "
            "ON CONFLICT (tx) DO UPDATE SET status = 'pending'"
        )
        while True:
            owner = self._alive()
            inserting = new.bindparams(owner=owner.id, **told)
            if self._database.write(lambda c, it=inserting: c.execute(it).rowcount):  # type: ignore[misc]
                return SqlIntent(self, owner, tx)
            owner.fenced = True

    def end(self, owner: Owner, tx: str, status: Status, error: str | None) -> None:
        """Of an intent of this process; what cannot be said now is said with the next renewal of the lease."""
        try:
            if not self.say(owner.id, tx, status, error):
                log.warning("the intent %s is in other hands: %s is not said of it", tx, status)
        except ArtstoreError as e:
            log.warning("the end of the intent %s is said later: %s", tx, e.detail)
            with self._lock:
                self._unsaid.append((owner, tx, status, error))

    def say(self, owner: int, tx: str, status: Status, error: str | None, *, fenced: bool = False) -> bool:
        """Whether the intent could be ended. Raises `Unavailable`."""
        change = text(
            f"UPDATE {self._wal} w SET status = :status, finished = :finished, ended = :ended, error = :error "
            f"FROM {self._owners} o WHERE w.tx = :tx AND w.owner = :owner AND w.status = 'pending' "
            "AND o.id = w.owner AND o.fenced = :fenced"
        ).bindparams(
            status=status, finished=timestamp(_now()), ended=next(self._count), error=(error or "")[:500] or None,
            tx=tx, owner=owner, fenced=fenced,
        )  # fmt: skip
        # An end that a crash takes back leaves the intent open, and recovery looks at it.
        return bool(self._database.write(lambda c: c.execute(change).rowcount, durable=False))

    def position(self) -> int:
        return next(self._count)

    def checkpoint(self, marks: int) -> None:
        if self._owner is not None:
            self._owner.flushed(marks)
        oldest = timestamp(_now() - timedelta(hours=self._settings.keep_hours))
        old = text(
            f"DELETE FROM {self._wal} WHERE tx IN (SELECT w.tx FROM {self._wal} w LEFT JOIN {self._owners} o "
            "ON o.id = w.owner WHERE w.status <> 'pending' AND w.finished < :oldest "
            "AND (o.id IS NULL OR w.ended <= o.flushed) LIMIT :most)"
        ).bindparams(oldest=oldest, most=_PRUNED)
        self._database.write(lambda c: c.execute(old))

    def set_dirty(self) -> None:
        owes = next(self._count)
        while not self._alive().owe(owes):  # what one that was fenced owed is for those who settle it
            pass

    def clear_dirty(self, marks: int) -> None:
        if self._owner is not None:
            self._owner.paid(marks)

    def any_dirty(self) -> bool:
        self._require()
        anybody = text(f"SELECT EXISTS (SELECT 1 FROM {self._owners} WHERE owes > 0)")
        return bool(self._database.read(lambda c: c.execute(anybody).scalar_one()))

    def open_uploads(self, file_id: FileId) -> Sequence[str]:
        self._require()
        me = 0 if self._owner is None else self._owner.id
        wanted = text(
            f"SELECT key FROM {self._wal} WHERE status = 'pending' AND op = 'upload' AND file_id = :file_id "
            "AND owner <> :me"
        ).bindparams(file_id=file_id, me=me)
        return self._database.read(lambda c: c.execute(wanted).scalars().all())

    def abandoned(self) -> Iterator[Left]:
        self._require()
        me = 0 if self._owner is None else self._owner.id
        # A server that was down longer than a lease let nobody renew: then all get time to do so first.
        fence = text(
            f"UPDATE {self._owners} SET fenced = true WHERE id <> :me AND NOT fenced AND (lease = '-infinity' OR "
            "(lease < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - :lease * interval '1 s'))"
        ).bindparams(me=me, lease=self._settings.lease)
        self._database.write(lambda c: c.execute(fence))
        fenced = text(f"SELECT id, flushed FROM {self._owners} WHERE fenced ORDER BY id")
        for owner, flushed in self._database.read(lambda c: c.execute(fenced).all()):
            left = text(
                f"SELECT * FROM {self._wal} WHERE owner = :owner AND (status = 'pending' OR ended > :flushed) "
                "ORDER BY tx"
            ).bindparams(owner=owner, flushed=flushed)
            rows = self._database.read(lambda c, it=left: c.execute(it).all())  # type: ignore[misc]
            pending = [_transaction(row) for row in rows if row.status == "pending"]
            yield Left(self, owner, pending, [_transaction(row) for row in rows if row.status != "pending"])

    def forget(self, owner: int) -> None:
        """Let a fenced owner go, unless something of it is still open."""
        open_one = f"SELECT 1 FROM {self._wal} WHERE owner = :owner AND status = 'pending'"
        change = text(
            f"DELETE FROM {self._owners} WHERE id = :owner AND fenced AND NOT EXISTS ({open_one})"
        ).bindparams(owner=owner)
        self._database.write(lambda c: c.execute(change))

    def transactions(
        self, *, status: Status | None = None, limit: int = 100, before: str | None = None
    ) -> list[Transaction]:
        self._require()
        wanted = text(
            f"SELECT * FROM {self._wal} WHERE (CAST(:status AS text) IS NULL OR status = :status) "
            "AND (CAST(:before AS text) IS NULL OR tx < :before) ORDER BY tx DESC LIMIT :limit"
        ).bindparams(status=status, before=before, limit=limit)
        return [_transaction(row) for row in self._database.read(lambda c: c.execute(wanted).all())]

    @contextmanager
    def exclusive(self, name: str, *, wait: bool = True) -> Iterator[None]:
        self._require()
        with self._locks.exclusive(name, wait=wait):
            yield

    def check(self) -> None:
        self._require()
        self._database.write(
            lambda c: c.execute(text("SELECT pg_logical_emit_message(true, 'artstore', '')"))
        )

    def close(self) -> None:
        self._closed = True
        if self._owner is not None and not self._owner.fenced:
            try:
                self._say_unsaid()
                self._owner.leave(self._wal)
            except ArtstoreError as e:
                log.warning("others settle what is left when the lease is over: %s", e.detail)
        self._locks.close()
        self._database.close()

    def _require(self) -> None:
        if self._closed:
            raise Unavailable("The log is closed.")
        self._opened.require()

    def _alive(self) -> Owner:
        self._require()
        with self._lock:
            if self._owner is None or self._owner.fenced:
                self._owner = Owner(self._database, self._owners, self._settings.lease, self._say_unsaid)
            return self._owner

    def _say_unsaid(self) -> None:
        with self._lock:
            unsaid, self._unsaid = self._unsaid, []
        for n, (owner, tx, status, error) in enumerate(unsaid):
            try:
                self.say(owner.id, tx, status, error)
            except ArtstoreError:
                with self._lock:
                    self._unsaid += unsaid[n:]
                raise


def _transaction(row: Any) -> Transaction:
    return Transaction(
        id=row.tx, operation=row.op, file_id=row.file_id, key=row.key, by=row.by, status=row.status,
        started=row.started, finished=row.finished, error=row.error,
        revision=row.revision or 0,
    )  # fmt: skip


def _now() -> datetime:
    return datetime.now(UTC)


def _uuid7(at: datetime) -> str:
    """A UUID that sorts by time (RFC 9562, 5.7)."""
    number = int(at.timestamp() * 1000) << 80 | 0x7 << 76 | secrets.randbits(76)
    return str(UUID(int=number & ~(0x3 << 62) | 0x2 << 62))
