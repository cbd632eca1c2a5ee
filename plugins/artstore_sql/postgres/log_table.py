"""The table of intents: the statements that end them, and what a row says."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from artstore.attr import timestamp
from artstore.spi import Status, Transaction
from artstore_sql.postgres.database import Postgres

_PRUNED_AT_ONCE = 10_000
"""Rows that one prune deletes at most."""


class LogTable:
    """The tables `<prefix>wal` and `<prefix>wal_owners`. Every method raises `Unavailable`."""

    def __init__(self, database: Postgres, prefix: str) -> None:
        self.database = database
        self.intents, self.owners = f"{prefix}wal", f"{prefix}wal_owners"
        self._sequence = itertools.count(1)

    def next_position(self) -> int:
        """Return a number that is higher than those before it in this process."""
        return next(self._sequence)

    def begin(self, owner: int, record: dict[str, Any]) -> bool:
        """Insert a pending intent; durable on return. Return False when `owner` is fenced.

        The same `tx` again is the same intent: its reply was lost.
        """
        insert = text(
            f"INSERT INTO {self.intents} (tx, owner, op, file_id, key, by, revision, status, started) "
            "SELECT :tx, id, :op, :file_id, :key, :by, :revision, 'pending', :started "
            f"FROM {self.owners} WHERE id = :owner AND NOT fenced FOR SHARE "
            "ON CONFLICT (tx) DO UPDATE SET status = 'pending'"
        ).bindparams(owner=owner, **record)
        return bool(self.database.write(lambda c: c.execute(insert).rowcount))

    def end(self, owner: int, tx: str, status: Status, error: str | None, *, fenced: bool = False) -> bool:
        """End a pending intent of an owner; return whether it could be ended. Not durable on return: when a crash
        takes the end back the intent is open, and recovery resolves it."""
        update = text(
            f"UPDATE {self.intents} w SET status = :status, finished = :finished, ended = :ended, error = :error "
            f"FROM {self.owners} o WHERE w.tx = :tx AND w.owner = :owner AND w.status = 'pending' "
            "AND o.id = w.owner AND o.fenced = :fenced"
        ).bindparams(
            status=status, finished=timestamp(datetime.now(UTC)), ended=self.next_position(),
            error=(error or "")[:500] or None, tx=tx, owner=owner, fenced=fenced,
        )  # fmt: skip
        return bool(self.database.write(lambda c: c.execute(update).rowcount, durable=False))

    def prune(self, *, keep_hours: float) -> None:
        """Delete finished intents that are older, and whose changes are durable in the index."""
        oldest = timestamp(datetime.now(UTC) - timedelta(hours=keep_hours))
        delete = text(
            f"DELETE FROM {self.intents} WHERE tx IN (SELECT w.tx FROM {self.intents} w LEFT JOIN {self.owners} o "
            "ON o.id = w.owner WHERE w.status <> 'pending' AND w.finished < :oldest "
            "AND (o.id IS NULL OR w.ended <= o.flushed) LIMIT :most)"
        ).bindparams(oldest=oldest, most=_PRUNED_AT_ONCE)
        self.database.write(lambda c: c.execute(delete))

    def any_dirty(self) -> bool:
        """Return whether any owner has index entries still to write."""
        select = text(f"SELECT EXISTS (SELECT 1 FROM {self.owners} WHERE dirty_at > 0)")
        return bool(self.database.read(lambda c: c.execute(select).scalar_one()))

    def open_uploads(self, file_id: str, *, except_of: int) -> list[str]:
        """Return the keys of pending uploads of a file, without those of one owner."""
        select = text(
            f"SELECT key FROM {self.intents} WHERE status = 'pending' AND op = 'upload' AND file_id = :file_id "
            "AND owner <> :owner"
        ).bindparams(file_id=file_id, owner=except_of)
        return list(self.database.read(lambda c: c.execute(select).scalars().all()))

    def fence(self, *, except_of: int, lease: float) -> list[tuple[int, int]]:
        """Fence the owners whose lease expired; return every fenced owner with the position of its checkpoint.

        A server that was down for longer than a lease let no owner renew: then all get a lease's time to do so first.
        """
        update = text(
            f"UPDATE {self.owners} SET fenced = true WHERE id <> :me AND NOT fenced AND (lease = '-infinity' OR "
            "(lease < clock_timestamp() AND pg_postmaster_start_time() < clock_timestamp() - :lease * interval '1 s'))"
        ).bindparams(me=except_of, lease=lease)
        self.database.write(lambda c: c.execute(update))
        fenced = text(f"SELECT id, flushed FROM {self.owners} WHERE fenced ORDER BY id")
        return [(row.id, row.flushed) for row in self.database.read(lambda c: c.execute(fenced).all())]

    def left_by(self, owner: int, flushed: int) -> list[Transaction]:
        """Return the intents of a fenced owner that are pending, or that ended after its checkpoint."""
        select = text(
            f"SELECT * FROM {self.intents} WHERE owner = :owner AND (status = 'pending' OR ended > :flushed) "
            "ORDER BY tx"
        ).bindparams(owner=owner, flushed=flushed)
        return [_transaction(row) for row in self.database.read(lambda c: c.execute(select).all())]

    def forget_owner(self, owner: int) -> None:
        """Delete a fenced owner, unless one of its intents is still pending."""
        pending = f"SELECT 1 FROM {self.intents} WHERE owner = :owner AND status = 'pending'"
        delete = text(
            f"DELETE FROM {self.owners} WHERE id = :owner AND fenced AND NOT EXISTS ({pending})"
        ).bindparams(owner=owner)
        self.database.write(lambda c: c.execute(delete))

    def transactions(self, *, status: Status | None, limit: int, before: str | None) -> list[Transaction]:
        """Return the newest `limit` transactions with ids below `before`, newest first."""
        select = text(
            f"SELECT * FROM {self.intents} WHERE (CAST(:status AS text) IS NULL OR status = :status) "
            "AND (CAST(:before AS text) IS NULL OR tx < :before) ORDER BY tx DESC LIMIT :limit"
        ).bindparams(status=status, before=before, limit=limit)
        return [_transaction(row) for row in self.database.read(lambda c: c.execute(select).all())]


def _transaction(row: Any) -> Transaction:
    return Transaction(
        id=row.tx, operation=row.op, file_id=row.file_id, key=row.key, by=row.by, status=row.status,
        started=row.started, finished=row.finished, error=row.error,
        revision=row.revision or 0,
    )  # fmt: skip
