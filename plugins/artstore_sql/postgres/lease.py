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
    """This process as the log knows it. Its number is never used again: a fenced process continues under another one.

    `on_renewed` is called each time the lease was renewed. Every method raises `Unavailable` when the database does not
    answer.
    """

    def __init__(self, database: Postgres, table: str, lease: float, on_renewed: Callable[[], None]) -> None:
        self._database = database
        self._table = table
        self._lease = lease
        self._on_renewed = on_renewed
        self._stop = threading.Event()
        self.fenced = False
        """Other processes recover what this one left; it can end no intent any more."""
        process = f"{socket.gethostname()}:{os.getpid()}"
        new = text(
            f"INSERT INTO {table} (process, lease) VALUES (:process, clock_timestamp() + :lease * interval '1 s') "
            "RETURNING id"
        ).bindparams(process=process, lease=lease)
        self.id: int = database.write(lambda c: c.execute(new).scalar_one())
        self._thread = threading.Thread(target=self._run, name="artstore-lease", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Renew the lease, or notice that this owner was fenced."""
        change = text(
            f"UPDATE {self._table} SET lease = clock_timestamp() + :lease * interval '1 s' "
            "WHERE id = :id AND NOT fenced"
        ).bindparams(lease=self._lease, id=self.id)
        if self._database.write(lambda c: c.execute(change).rowcount) == 0:
            self.fenced = True
            log.error("the lease of this process expired: other processes recover what it had begun")

    def checkpoint(self, position: int) -> None:
        """Record that what ended before `position` is durable in the index."""
        change = text(
            f"UPDATE {self._table} SET flushed = :position WHERE id = :id AND NOT fenced"
        ).bindparams(position=position, id=self.id)
        self._database.write(lambda c: c.execute(change))

    def set_dirty(self, position: int) -> bool:
        """Record that index entries are still to be written; return False when this owner is fenced."""
        change = text(
            f"UPDATE {self._table} SET dirty_at = :position WHERE id = :id AND NOT fenced"
        ).bindparams(position=position, id=self.id)
        self.fenced = self._database.write(lambda c: c.execute(change).rowcount) == 0
        return not self.fenced

    def clear_dirty(self, position: int) -> None:
        """Record that the entries that were missing before `position` are written."""
        change = text(
            f"UPDATE {self._table} SET dirty_at = 0 WHERE id = :id AND dirty_at <= :position"
        ).bindparams(position=position, id=self.id)
        self._database.write(lambda c: c.execute(change))

    def leave(self, intents: str) -> None:
        """Release the lease, so that other processes recover at once what is not finished."""
        self._stop.set()
        self._thread.join()

        def change(connection: Connection) -> None:
            mine = {"id": self.id}
            left = f"SELECT 1 FROM {intents} WHERE owner = :id AND (status = 'pending' OR ended > flushed)"
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
                    self._on_renewed()
            except ArtstoreError as e:
                log.warning("the lease was not renewed: %s", e.detail)
            except Exception:
                log.exception("the lease was not renewed")
