"""Intents in the log in PostgreSQL: those of this process, and those that a fenced process left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from artstore.errors import ArtstoreError, Unavailable
from artstore.spi import Status, Transaction
from artstore_sql.postgres.lease import Owner
from artstore_sql.postgres.log_table import LogTable

log = logging.getLogger("artstore.sql")


class Ends:
    """Writes the ends of this process's intents. An end that cannot be written now is written later.

    Every method may be called from many threads at once.
    """

    def __init__(self, table: LogTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._pending: list[tuple[Owner, str, Status, str | None]] = []

    def write(self, owner: Owner, tx: str, status: Status, error: str | None) -> None:
        """End an intent. Never raises: what cannot be written now is written with the next renewal of the lease."""
        try:
            if not self._table.end(owner.id, tx, status, error):
                log.warning("the intent %s was taken over: its end (%s) is not recorded", tx, status)
        except ArtstoreError as e:
            log.warning("the end of the intent %s will be written later: %s", tx, e.detail)
            with self._lock:
                self._pending.append((owner, tx, status, error))

    def flush_pending(self) -> None:
        """Write the ends that could not be written before. Raises `Unavailable`: the rest stays pending."""
        with self._lock:
            pending, self._pending = self._pending, []
        for n, (owner, tx, status, error) in enumerate(pending):
            try:
                self._table.end(owner.id, tx, status, error)
            except ArtstoreError:
                with self._lock:
                    self._pending += pending[n:]
                raise


class SqlIntent:
    """An open intent of this process; durable since it was opened."""

    def __init__(self, ends: Ends, owner: Owner, tx: str) -> None:
        self._ends = ends
        self._owner = owner
        self._tx = tx

    def commit(self) -> None:
        self._ends.write(self._owner, self._tx, "committed", None)

    def roll_back(self, error: str) -> None:
        self._ends.write(self._owner, self._tx, "rolled_back", error)

    def end_in_doubt(self, error: str) -> None:
        self._ends.write(self._owner, self._tx, "failed", error)

    def sync(self) -> None:
        if self._owner.fenced:
            raise Unavailable(
                "This process was considered dead, and another one resolved what it had begun; try again."
            )


class SqlAbandoned:
    """What one fenced owner left. The owner may only be late, so `certainly_dead` is False."""

    certainly_dead = False

    def __init__(self, table: LogTable, owner: int, left: Sequence[Transaction]) -> None:
        self._table = table
        self._owner = owner
        self.pending: Sequence[Transaction] = [t for t in left if t.status == "pending"]
        self.uncheckpointed: Sequence[Transaction] = [t for t in left if t.status != "pending"]

    def end(self, transaction: Transaction, status: Status, error: str | None = None) -> None:
        try:
            self._table.end(self._owner, transaction.id, status, error, fenced=True)
        except ArtstoreError as e:
            log.warning("%s Recovery will find the intent %s again.", e.detail, transaction.id)

    def close(self) -> None:
        self._table.forget_owner(self._owner)

    def release(self) -> None:
        """Nothing is held: the next process that recovers reads it again."""
