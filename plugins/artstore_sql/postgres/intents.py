"""Intents in the log in PostgreSQL: those of this process, and what one left that was fenced."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from artstore.errors import ArtstoreError, Unavailable
from artstore.spi import Status, Transaction
from artstore_sql.postgres.lease import Owner

if TYPE_CHECKING:
    from artstore_sql.postgres.log import SqlLog

log = logging.getLogger("artstore.sql")


class SqlIntent:
    """An intent of this process."""

    def __init__(self, log: SqlLog, owner: Owner, tx: str) -> None:
        self._log = log
        self._owner = owner
        self._tx = tx

    def commit(self) -> None:
        self._log.end(self._owner, self._tx, "committed", None)

    def roll_back(self, error: str) -> None:
        self._log.end(self._owner, self._tx, "rolled_back", error)

    def fail(self, error: str) -> None:
        self._log.end(self._owner, self._tx, "failed", error)

    def sync(self) -> None:
        # It has been durable since it was opened.
        if self._owner.fenced:
            raise Unavailable(
                "This process was taken for dead, and others settled what it had begun; try again."
            )


class Left:
    """What one fenced owner left."""

    dead = False

    def __init__(
        self, log: SqlLog, owner: int, pending: list[Transaction], unflushed: list[Transaction]
    ) -> None:
        self._log = log
        self._owner = owner
        self.pending: Sequence[Transaction] = pending
        self.unflushed: Sequence[Transaction] = unflushed

    def end(self, transaction: Transaction, status: Status, error: str | None = None) -> None:
        try:
            self._log.say(self._owner, transaction.id, status, error, fenced=True)
        except ArtstoreError as e:
            log.warning("%s It is found again.", e.detail)

    def settle(self) -> None:
        self._log.forget(self._owner)

    def release(self) -> None:
        """Nothing is held: whoever is alone in recovery reads it anew."""
