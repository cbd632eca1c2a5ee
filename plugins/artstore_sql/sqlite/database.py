"""A SQLite file that several processes write to: connections, transactions, durability."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from artstore.errors import Unavailable
from artstore_sql.sqlite.deadline import interrupt_after
from artstore_sql.sqlite.integrity import Integrity, is_damage
from artstore_sql.sqlite.locks import exclusive
from artstore_sql.sqlite.shared_memory import SharedMemory

log = logging.getLogger("artstore.sql")

READERS = 8
LONG_WAL = 8 << 20
"""Bytes of the WAL past which it is copied into the database: readers look through all of it."""
_READING = ("mmap_size=0", "cache_size=-8192", "temp_store=MEMORY")
_WRITING = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "wal_autocheckpoint=0",
    f"journal_size_limit={LONG_WAL}",
    "secure_delete=OFF",
)


class BadData(Unavailable):
    """The database refuses this row, and works otherwise."""


class Sqlite:
    """The connections of one process. Between calls only the connections of the pool stay open.

    SQLite before 3.51.3 can corrupt a database in WAL mode when two connections write and checkpoint
    at once. So nothing checkpoints by itself, and `exclusive` is held around every write transaction
    and every checkpoint, by all processes. (The last connection to close also checkpoints: SQLite does
    that under its own lock of the whole file, while no other connection exists.)
    """

    def __init__(self, path: Path, timeout: float, *, reading: bool = False, in_state: bool = False) -> None:
        self.path = path
        self._read_only = reading
        self.integrity = Integrity(path, in_state=in_state)
        self._wal = path.with_name(f"{path.name}-wal")
        self._shared_memory = SharedMemory(path.with_name(f"{path.name}-shm"))
        self._timeout = timeout
        self._long = LONG_WAL
        self._unsynced: str = ""
        self._slots = threading.BoundedSemaphore(READERS)
        # The writer's connection comes on top of the readers': it never waits for them.
        self._engine = create_engine(
            "sqlite://", creator=self._connect, poolclass=QueuePool, pool_size=READERS + 1, max_overflow=-1
        )
        event.listen(self._engine, "connect", self._remember)
        event.listen(self._engine, "checkout", self._recheck)
        event.listen(self._engine, "begin", _begin)
        self._writing = self._engine.execution_options(artstore_writing=True)

    @contextmanager
    def exclusive(self, deadline: float) -> Iterator[None]:
        """Hold the right to write, among all threads of all processes."""
        with self.translate_errors(), exclusive(self.path, deadline):
            yield

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the database for as long as it is held."""
        deadline = time.monotonic() + self._timeout
        if not self._slots.acquire(timeout=self._timeout):
            raise Unavailable(
                f"The cache did not answer within {self._timeout:g} s: too many calls wait for it."
            )
        try:
            with (
                self.translate_errors(),
                self._engine.connect() as connection,
                interrupt_after(connection, deadline),
            ):
                yield connection
        finally:
            self._slots.release()

    @contextmanager
    def transaction(self, deadline: float) -> Iterator[Connection]:
        """Yield a write transaction, and commit it at the end. Call it under `exclusive`."""
        with (
            self.translate_errors(),
            self._writing.connect() as connection,
            interrupt_after(connection, deadline),
            connection.begin(),
        ):
            yield connection

    def sync(self) -> None:
        """Make every commit durable. Call it under `exclusive`.

        With synchronous=NORMAL a commit is written to the WAL and not synced, and a passive checkpoint
        that readers hold back may return without having synced either. The sync of the WAL itself is
        what counts: from there SQLite recovers every commit. The checkpoint after it only keeps it short.
        """
        if self._unsynced:
            raise Unavailable(self._unsynced)
        try:
            for path, flags in ((self._wal, os.O_RDWR), (self.path.parent, os.O_RDONLY | os.O_DIRECTORY)):
                try:
                    # SQLite takes no POSIX locks on the WAL, so closing this descriptor drops none.
                    fd = os.open(path, flags | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue  # no WAL: the last close has copied and synced all of it
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except OSError as e:
            self._refuse_syncs(f"The cache could not be made durable: {os.strerror(e.errno or 0)}.")
            raise Unavailable(self._unsynced) from e
        self._checkpoint()

    def checkpoint_if_long(self) -> None:
        """Copy a long WAL into the database. Call it under `exclusive`."""
        with self.translate_errors():
            length = self._wal.stat().st_size if self.integrity.has_wal() else 0
        if length > self._long:
            # What a reader still needs stays: check again when the WAL has grown by as much once more.
            self._long = LONG_WAL if self._checkpoint() else length + LONG_WAL

    def _checkpoint(self) -> bool:
        with self.translate_errors(), self.integrity.changing(), self._engine.connect() as connection:
            try:
                # Outside of a transaction, where SQLAlchemy would begin one.
                cursor = connection.connection.cursor()
                busy, frames, copied = cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                cursor.close()
            except sqlite3.OperationalError as e:
                if e.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                    self._refuse_syncs(f"The cache could not be made durable: {e}.")
                raise
        return not busy and frames == copied

    def _refuse_syncs(self, detail: str) -> None:
        # A second sync would succeed while the disk holds the old bytes.
        self._unsynced = detail
        self.mark_suspect(detail)

    def mark_suspect(self, why: str) -> None:
        """Have the database put aside when a process opens it next."""
        if not self._read_only:  # a read-only process may have read a file that was being written
            self.integrity.mark_suspect(why)

    def allow_syncs(self) -> None:
        """Sync again after a failed sync: the file that could not be synced is replaced."""
        self._unsynced = ""

    def disconnect(self) -> None:
        """Close the connections of the pool."""
        self._engine.dispose()

    def close(self) -> None:
        """Wait for the readers, then close every connection."""
        deadline = time.monotonic() + self._timeout
        held = 0
        while held < READERS and self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            held += 1
        self._release(deadline)
        for _ in range(held):
            self._slots.release()

    def _release(self, deadline: float) -> None:
        if not self._read_only:
            try:
                # The close of the last connection copies the WAL into the file.
                with self.exclusive(deadline), self.integrity.changing():
                    self._engine.dispose()
            except (Unavailable, OSError) as e:
                log.warning("the cache was closed without a checkpoint: %s", e)
                with suppress(OSError):
                    self.integrity.forget_stamp()
        self._engine.dispose()

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise the errors of SQLite, SQLAlchemy and the system as errors of artstore."""
        try:
            yield
        except DBAPIError as e:
            raise self._translate(e.orig) from e
        except sqlite3.Error as e:
            raise self._translate(e) from e
        except (OverflowError, UnicodeError) as e:
            raise BadData(f"The cache cannot hold this: {e}.") from e
        except OSError as e:  # without its path: clients may see the message
            raise Unavailable(f"The cache does not answer: {os.strerror(e.errno or 0)}.") from e
        except SQLAlchemyError as e:
            raise Unavailable(f"The cache does not answer: {e}.") from e

    def _translate(self, error: BaseException | None) -> Unavailable:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT:
            return Unavailable(f"The cache did not answer within {self._timeout:g} s.")
        if is_damage(error):
            self.mark_suspect(str(error))
        kind = Unavailable if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError) else BadData
        return kind(f"The cache does not answer: {error}.")

    # --- connections ---

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a database deleted in service is an error, not an empty one without tables. A read-only
        # connection creates no file beside it either, which mode=ro would while no other connection is open.
        mode = "mode=rw" if not self._read_only else "mode=ro" if self.integrity.has_wal() else "immutable=1"
        if not self._read_only and self.integrity.is_replaced():
            # It was replaced since `Availability.require`, perhaps by a file that artstore did not make.
            raise Unavailable("The cache was replaced; try again.")
        maps = mode != "immutable=1"
        if maps:
            self._shared_memory.require_space()
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?{mode}",
            uri=True,
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            for pragma in (*(() if self._read_only else _WRITING), *_READING):
                connection.execute(f"PRAGMA {pragma}").close()
            if not self._read_only:
                # Opens the WAL: from here on the connection has its inode, so that its removal is noticed.
                connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").close()
            if maps:
                self._shared_memory.preallocate()
        except BaseException:
            connection.close()
            raise
        return connection

    def _remember(self, _dbapi: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["identity"] = self._identity()

    def _recheck(self, _dbapi: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        before, now = entry.info["identity"], self._identity()
        if before[0] != now[0]:
            # Another process put the file aside: this connection has the old one.
            raise DisconnectionError("the database file was replaced")
        if before == now:
            return
        if self._read_only:
            raise DisconnectionError("a process began or ceased to use the database")
        self.mark_suspect("something other than artstore removed its WAL")
        raise Unavailable("The cache lost the last writes; it is replaced by an empty one.")

    def _identity(self) -> tuple[int, int, int]:
        inodes = self.integrity.identity()
        return (inodes[0], self.integrity.has_wal(), 0) if self._read_only else inodes


def _begin(connection: Connection) -> None:
    # Immediate: a transaction that begins by reading cannot be made a writer once another has written.
    writing = connection.get_execution_options().get("artstore_writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
    # SQLite 3.40 compiles a statement whose trigger writes to FTS5 wrongly ("no such table") when another
    # connection changed the schema (`clear`). A plain statement before it makes SQLite read the new schema.
    connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1").close()
