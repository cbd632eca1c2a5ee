"""A PostgreSQL whose tables are there, and of this version's making."""

from __future__ import annotations

import logging
import threading

from pydantic import SecretStr
from sqlalchemy import Connection, text

from artstore.errors import ConfigError, NotFound, Unavailable
from artstore_sql import migration
from artstore_sql.postgres.database import Postgres
from artstore_sql.postgres.errors import Refused

log = logging.getLogger("artstore.sql")

PATIENCE = 600.0
"""Seconds that a migration may take, or a wait for that of another node."""


class Schema:
    """Makes or migrates the tables once, at the first call that reaches the server; again when they were dropped."""

    def __init__(self, database: Postgres, prefix: str, *, reading: bool) -> None:
        self._database = database
        self._prefix = prefix
        self._reading = reading
        self._lock = threading.Lock()
        self._done = False
        self._element = ""

    def open_or_defer(self) -> None:
        """Open the tables at start. Raises `ConfigError`; a server that does not answer is asked again later."""
        try:
            self._open()
        except Unavailable as e:
            if isinstance(e, Refused):
                self._database.close()
                raise
            log.warning("%s", e.detail)
        except BaseException:
            self._database.close()
            raise

    def require(self) -> None:
        """Raise `Unavailable` unless the tables are there."""
        if self._done:
            return
        with self._lock:
            if not self._done:
                try:
                    self._open()
                except (ConfigError, NotFound) as e:
                    raise Unavailable(e.detail) from e

    def claim(self, element_id: str) -> None:
        """Let only this element use the tables, from now on or from when the server answers. Raises `ConfigError`."""
        self._element = element_id
        if self._done:
            try:
                self._claim()
            except Unavailable as e:
                self._done = False
                log.warning("%s", e.detail)

    def invalidate(self) -> None:
        """Check the tables again before the next call: they were dropped."""
        self._done = False

    def _open(self) -> None:
        there = self._database.read(lambda c: migration.current_revision(c, self._prefix), strict=True)
        if self._reading and there is None:
            raise NotFound("The database has no tables of this element yet.")
        if there != migration.HEAD and not self._reading:
            self._database.write(self._upgrade, timeout=PATIENCE, strict=True)
        if self._element:
            self._claim()
        self._done = True

    def _claim(self) -> None:
        meta = f"{self._prefix}meta"
        new = text(f"INSERT INTO {meta} VALUES ('element', :element) ON CONFLICT (name) DO NOTHING")
        there = text(f"SELECT value FROM {meta} WHERE name = 'element'")

        def claim(connection: Connection) -> str:
            connection.execute(new.bindparams(element=self._element))
            return str(connection.execute(there).scalar_one())

        owner = self._database.write(claim)
        if owner != self._element:
            raise ConfigError(
                f"The tables '{self._prefix}...' belong to element '{owner}', not to '{self._element}'.",
                place="cache.sql.table_prefix, wal.sql.table_prefix",
                cure="Give each element a prefix, or a database, of its own. If this one took the other's place, "
                "drop the tables: they are filled again.",
            )

    def _upgrade(self, connection: Connection) -> None:
        lock_schema(connection, self._prefix)
        migration.move(connection, self._prefix, "head")


def migrate(url: SecretStr, timeout: float, prefix: str, target: str | None) -> str | None:
    """Move the schema by hand; where it is then."""
    database = Postgres(url, timeout, place="cache.sql.url", size=1)

    def change(connection: Connection) -> str | None:
        lock_schema(connection, prefix)
        return migration.move(connection, prefix, str(target))

    try:
        if target is None:
            return database.read(lambda c: migration.current_revision(c, prefix), strict=True)
        return database.write(change, timeout=PATIENCE, strict=True)
    finally:
        database.close()


def lock_schema(connection: Connection, prefix: str) -> None:
    """Wait until no other node migrates these tables; until the end of the transaction."""
    connection.execute(text("SET LOCAL statement_timeout TO 0"))
    connection.execute(text("SET LOCAL lock_timeout TO 0"))
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"artstore schema {prefix}"},
    )
