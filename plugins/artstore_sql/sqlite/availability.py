"""The database as one process uses it: opened at start, and opened again whenever it cannot be used any more."""

from __future__ import annotations

import logging
import threading
import time

from artstore.errors import ConfigError, Unavailable
from artstore_sql.sqlite.database import Sqlite
from artstore_sql.sqlite.locks import Alive
from artstore_sql.sqlite.opening import PATIENCE, open_database
from artstore_sql.tables import Tables

log = logging.getLogger("artstore.sql")

PAUSE = 1.0
"""Seconds between two tries to open a database."""


class Availability:
    """Opens the database. While it cannot be used every call raises `Unavailable`; one thread tries again each second.

    The database is opened again when it is suspect (damage, a failed fsync, a row that is no attr), or when
    something other than artstore replaced it, changed it, or removed its WAL.
    """

    def __init__(self, database: Sqlite, tables: Tables, *, trigram: bool, timeout: float) -> None:
        self._database = database
        self._tables = tables
        self._trigram = trigram
        self._timeout = timeout
        self._lock = threading.Lock()
        self._alive: Alive | None = None
        self._next = 0.0
        self._why = ""
        self.indexed = trigram
        """Whether trigrams of words are indexed."""
        try:
            self._open(PATIENCE)
        except Unavailable as e:
            self._record_failure(e)

    def require(self) -> None:
        """Raise `Unavailable` unless the database is open and unchanged."""
        with self._database.translate_errors():
            if self._database.integrity.unchanged_here():
                return
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable("The cache is being opened; try again.")
        try:
            if time.monotonic() < self._next:
                raise Unavailable(self._why)
            with self._database.translate_errors():
                if not self._database.integrity.unchanged_here() and not self._checkpointed_elsewhere():
                    self._open(self._timeout)
        except ConfigError as e:  # not at start: the file was replaced while the process serves
            self._record_failure(Unavailable(e.detail))
            raise Unavailable("The cache cannot be used; the log says why.") from e
        except Unavailable as e:
            self._record_failure(e)
            raise
        finally:
            self._lock.release()

    def _checkpointed_elsewhere(self) -> bool:
        """Return whether another process's checkpoint changed the file, and nothing else did."""
        deadline = time.monotonic() + self._timeout
        with self._database.exclusive(deadline), self._database.translate_errors():
            return self._alive is not None and self._database.integrity.checkpointed_elsewhere()

    def _open(self, patience: float) -> None:
        self._alive, self.indexed = open_database(
            self._database, self._tables, self._alive, trigram=self._trigram, patience=patience
        )

    def _record_failure(self, error: Unavailable) -> None:
        if time.monotonic() >= self._next:
            log.warning("the cache cannot be used: %s", error.detail)
            self._why, self._next = error.detail, time.monotonic() + PAUSE

    def is_shared(self) -> bool:
        """Return whether another process uses the database, too. Call it only under `exclusive`."""
        return self._alive is not None and not self._alive.is_alone()

    def close(self) -> None:
        """Stop using the database."""
        if self._alive is not None:
            self._alive.close()
