"""Locks between nodes: advisory locks of PostgreSQL, each held by a connection of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection

from artstore.errors import ConfigError, Conflict, Unavailable
from artstore_sql.postgres.database import Postgres

log = logging.getLogger("artstore.sql")

CONNECTIONS = 16
_PAUSES = (0.005, 0.1)
_LIMIT = "SELECT set_config('idle_session_timeout', %s, false)"
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


class Locks:
    """Named locks. A holder shows that it lives; one that was paused for longer than a lease loses its locks."""

    def __init__(self, url: SecretStr, timeout: float, lease: float, *, place: str, prefix: str) -> None:
        self._database = Postgres(url, timeout, place=place, size=CONNECTIONS)
        self._lease = lease
        self._prefix = prefix
        self._lock = threading.Lock()
        self._held: dict[int, Connection] = {}
        self._renewing: threading.Thread | None = None
        self._stop = threading.Event()

    @contextmanager
    def exclusive(self, name: str, *, wait: bool) -> Iterator[None]:
        """Hold the lock; wait for it as long as the server answers. Raises `Unavailable`, `Conflict`."""
        name = f"artstore {self._prefix} {name}"
        with self._database.connection() as connection:
            self._ask(connection, _LIMIT, str(int(self._lease * 1000)))
            pause, longest = _PAUSES
            while not self._ask(connection, _LOCK, name):
                if not wait:
                    raise Conflict("Another node holds this lock; one at a time.")
                time.sleep(pause)
                pause = min(pause * 1.5, longest)
            try:
                self._keep_alive(connection)
                yield
            finally:
                with self._lock:
                    del self._held[id(connection)]
                try:
                    self._ask(connection, _UNLOCK, name)
                except Unavailable as e:  # the server released the lock when it lost the connection
                    log.warning("a lock was lost: %s", e.detail)
                    connection.invalidate()

    def close(self) -> None:
        self._stop.set()
        if self._renewing is not None:
            self._renewing.join()
        self._database.close()

    def _keep_alive(self, connection: Connection) -> None:
        with self._lock:
            self._held[id(connection)] = connection
            if self._renewing is None:
                self._renewing = threading.Thread(target=self._renew, name="artstore-locks", daemon=True)
                self._renewing.start()

    def _renew(self) -> None:
        while not self._stop.wait(self._lease / 3):
            with self._lock:
                held = list(self._held.values())
            for connection in held:
                try:
                    self._ask(connection, "SELECT 1")
                except Unavailable as e:
                    with self._lock:
                        lost = self._held.get(id(connection)) is connection
                    if lost:  # and not released a moment ago
                        log.warning("a lock was lost: %s", e.detail)
                except Exception:  # the other locks are renewed even so
                    log.exception("a lock is not kept")

    def _ask(self, connection: Connection, statement: str, *values: object) -> Any:
        try:
            return self._database.ask(connection, statement, *values)
        except ConfigError as e:
            raise Unavailable(e.detail) from e
