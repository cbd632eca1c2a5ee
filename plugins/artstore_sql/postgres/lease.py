"""The lease of one process on its own intents, by the clock of the database."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable

from sqlalchemy import Connection, text

from artstore.errors import ArtstoreError
from artstore_sql.postgres.database import Postgres

log = logging.getLogger("artstore.sql")


class Owner:
    """A process as the log knows it. Its number is never used again: who was fenced comes back as another.

    `rested` is called each time the lease was renewed.
    """

    def __init__(self, database: Postgres, table: str, lease: float, rested: Callable[[], None]) -> None:
        self._database = database
        self._table = table
        self._lease = lease
        self._rested = rested
        self._stop = threading.Event()
        self.fenced = False
        """Others settle what this one left; it can end nothing any more."""
        process = f"{socket.gethostname()}:{os.getpid()}"
        new = text(
            f"INSERT INTO {table} (process, lease) VALUES (:process, clock_timestamp() + :lease * interval '1 s') "
            "RETURNING id"
        ).bindparams(process=process, lease=lease)
        self.id: int = database.write(lambda c: c.execute(new).scalar_one())
        self._thread = threading.Thread(target=self._run, name="artstore-lease", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Raises `Unavailable` when the database does not answer."""
        change = text(
            f"UPDATE {self._table} SET lease = clock_timestamp() + :lease * interval '1 s' "
            "WHERE id = :id AND NOT fenced"
        ).bindparams(lease=self._lease, id=self.id)
        if self._database.write(lambda c: c.execute(change).rowcount) == 0:
            self.fenced = True
            log.error("the log took this process for dead: others settle what it had begun")

    def flushed(self, upto: int) -> None:
        """What ended before `upto` is of no concern any more."""
        change = text(f"UPDATE {self._table} SET flushed = :upto WHERE id = :id AND NOT fenced").bindparams(
            upto=upto, id=self.id
        )
        self._database.write(lambda c: c.execute(change))

    def owe(self, mark: int) -> bool:
        """False for one that was fenced."""
        change = text(f"UPDATE {self._table} SET owes = :mark WHERE id = :id AND NOT fenced").bindparams(
            mark=mark, id=self.id
        )
        self.fenced = self._database.write(lambda c: c.execute(change).rowcount) == 0
        return not self.fenced

    def paid(self, upto: int) -> None:
        """What it owed before `upto` it owes no more."""
        change = text(f"UPDATE {self._table} SET owes = 0 WHERE id = :id AND owes <= :upto").bindparams(
            upto=upto, id=self.id
        )
        self._database.write(lambda c: c.execute(change))

    def leave(self, wal: str) -> None:
        """Go, and leave to others at once what is not settled."""
        self._stop.set()
        self._thread.join()

        def change(connection: Connection) -> None:
            mine = {"id": self.id}
            left = f"SELECT 1 FROM {wal} WHERE owner = :id AND (status = 'pending' OR ended > flushed)"
            connection.execute(
                text(f"DELETE FROM {self._table} WHERE id = :id AND NOT fenced AND NOT EXISTS ({left})"),
                mine,
            )
            connection.execute(text(f"UPDATE {self._table} SET lease = '-infinity' WHERE id = :id"), mine)

        self._database.write(change)

    def _run(self) -> None:
        while not self._stop.wait(self._lease / 3) and not self.fenced:
            try:
                self.renew()
                if not self.fenced:
                    self._rested()
            except ArtstoreError as e:
                log.warning("the lease is not renewed: %s", e.detail)
            except Exception:
                log.exception("the lease is not renewed")
