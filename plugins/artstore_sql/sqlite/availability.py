"""The database as one process uses it: opened at start, and opened again whenever it cannot be used any more."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from artstore.errors import ConfigError, NotFound, Unavailable
from artstore_sql.sqlite.database import Sqlite
from artstore_sql.sqlite.integrity import is_damage
from artstore_sql.sqlite.locks import Alive
from artstore_sql.sqlite.schema import Unusable, claim, prepare, read_meta
from artstore_sql.tables import SCHEMA, Tables

log = logging.getLogger("artstore.sql")

PAUSE = 1.0
"""Seconds between two tries to open a database."""
PATIENCE = 300.0
"""Seconds that a start waits for another process's start, which may be reading a large file."""
_CONFIG_ERRNOS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)


class Availability:
    """Opens the database. While it cannot be used every call raises `Unavailable`; one thread tries again each second.

    `Integrity` decides when the database is opened again, and whether an empty cache replaces it then.
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
        self._element = ""
        self._is_claimed = True
        self.indexed = trigram
        """Whether trigrams of words are indexed."""
        try:
            self._open(PATIENCE)
        except Unavailable as e:
            self._record_failure(e)

    def require(self) -> None:
        """Raise `Unavailable` unless the database is open and believed."""
        with self._database.translate_errors():
            if self._is_claimed and self._database.integrity.is_unchanged():
                return
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable("The cache is being opened; try again.")
        try:
            if time.monotonic() < self._next:
                raise Unavailable(self._why)
            with self._database.translate_errors():
                if not self._database.integrity.is_unchanged() and not self._accept_checkpoint():
                    self._open(self._timeout)
            if not self._is_claimed:
                self._claim()
        except ConfigError as e:  # not at start: the file was replaced while the process serves
            # Clients see it: it names no path.
            shown = Unavailable("The cache cannot be used; the log says why.")
            self._record_failure(shown, e.detail)
            raise shown from e
        except Unavailable as e:
            self._record_failure(e)
            raise
        finally:
            self._lock.release()

    def claim(self, element_id: str) -> None:
        """Let only this element use the cache, from now on or from when it can be used. Raises `ConfigError`."""
        with self._lock:
            self._element, self._is_claimed = element_id, False
            if self._alive is None:
                return
            try:
                self._claim()
            except Unavailable as e:
                self._record_failure(e)

    def is_shared(self) -> bool:
        """Return whether another process uses the database, too. Call it only under `exclusive`."""
        return self._alive is not None and not self._alive.is_alone()

    def close(self) -> None:
        """Stop using the database."""
        if self._alive is not None:
            self._alive.close()

    def _accept_checkpoint(self) -> bool:
        deadline = time.monotonic() + self._timeout
        with self._database.exclusive(deadline), self._database.translate_errors():
            return self._alive is not None and self._database.integrity.accept_checkpoint()

    def _open(self, patience: float) -> None:
        """Open the database, or an empty one in its place. Raises `Unavailable`, `ConfigError`.

        No connection stays open, so that a server may fork after it.
        """
        path, starting = self._database.path, self._alive is None
        with _translate_first_errors(path):
            self._database.integrity.require_ours()
            if starting:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with self._database.exclusive(time.monotonic() + patience), self._database.translate_errors():
            alive = self._alive or Alive(path)
            try:
                why = self._database.integrity.reason_to_replace(starting=starting, alone=alive.is_alone())
                # A record made before that would keep the next start from finding this damage again.
                if why:
                    self._put_aside(why)
                self._database.allow_syncs()
                with self._database.integrity.changing():
                    self.indexed = self._prepare_or_replace()
            except BaseException:
                if starting:
                    alive.close()
                raise
            self._alive = alive

    def _claim(self) -> None:
        """Claim the cache in the open database. No connection stays open, as in `_open`."""
        deadline = time.monotonic() + self._timeout
        with self._database.exclusive(deadline), self._database.translate_errors():
            try:
                with self._database.transaction(deadline) as connection:
                    is_new = claim(connection, self._tables, self._element)
                if is_new:
                    self._database.sync()
            finally:
                with self._database.integrity.changing():
                    self._database.disconnect()
        self._is_claimed = True

    def _prepare_or_replace(self) -> bool:
        try:
            return self._prepare()
        except Unusable as e:
            self._put_aside(str(e))
        except Unavailable as e:
            if not is_damage(e):
                raise
            self._put_aside(e.detail)
        return self._prepare()

    def _prepare(self) -> bool:
        """Prepare the file for use, and return whether words are indexed. An empty file is made when there is none."""
        path = self._database.path
        # Never opened when it is there: closing that descriptor would drop SQLite's locks in this process.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with self._database.transaction(time.monotonic() + PATIENCE) as connection:
                indexed = prepare(connection, self._tables, path, trigram=self._trigram)
                if self._element:
                    claim(connection, self._tables, self._element)
        finally:
            self._database.disconnect()
        self._is_claimed = True
        return indexed

    def _put_aside(self, why: str) -> None:
        self._database.disconnect()
        self._database.integrity.put_aside(why)

    def _record_failure(self, error: Unavailable, why: str = "") -> None:
        if time.monotonic() >= self._next:
            log.warning("the cache cannot be used: %s", why or error.detail)
            self._why, self._next = error.detail, time.monotonic() + PAUSE


def require_readable(database: Sqlite, tables: Tables) -> None:
    """Make sure that the file can be read as it is. Raises `NotFound` when there is none, `ConfigError` for a foreign
    one, `Unavailable`."""
    if not database.path.exists():
        raise NotFound(f"There is no cache {database.path} yet.")
    with database.translate_errors():
        database.integrity.require_ours()
    if database.integrity.is_suspect():
        raise Unavailable(f"The cache {database.path} is suspect: the next start replaces it.")
    with database.reading() as connection:
        schema = read_meta(connection, tables).get("schema", "")
    if schema != str(SCHEMA):
        raise Unavailable(f"The cache {database.path} has schema {schema!r}, not {SCHEMA}.")


@contextmanager
def _translate_first_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno not in _CONFIG_ERRNOS:
            raise Unavailable(f"The cache {path.name} cannot be opened: {os.strerror(e.errno or 0)}.") from e
        raise ConfigError(
            f"The cache {path}, or its directory, cannot be made or written: {os.strerror(e.errno or 0)}.",
            place="cache.sql.url",
            cure="Name a path that may be written.",
        ) from e
