"""Opens a database file. A file that is broken, outdated or not ours is replaced by an empty cache."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, inspect, select

from artstore.errors import ConfigError, NotFound, Unavailable
from artstore_sql import migration
from artstore_sql.sqlite.database import Sqlite, is_broken
from artstore_sql.sqlite.locks import Alive
from artstore_sql.sqlite.schema import recreate
from artstore_sql.tables import SCHEMA, Tables

log = logging.getLogger("artstore.sql")

PATIENCE = 300.0
"""Seconds that a start waits for another process's start, which may be checking a large file."""
_CONFIG_ERRNOS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)


def open_database(
    database: Sqlite, tables: Tables, alive: Alive | None, *, trigram: bool, patience: float
) -> tuple[Alive, bool]:
    """Prepare the file; return the `Alive` to keep, and whether words are indexed.

    `alive` is what an earlier call returned; None when the process starts. Leaves no connection open, so that a
    server may fork after it. Raises `Unavailable`, and `ConfigError` for a path that can never be.
    """
    path = database.path
    if alive is None:
        _make_directory(path)
    with database.exclusive(time.monotonic() + patience), database.translate_errors():
        starts, alive = alive is None, alive or Alive(path)
        try:
            why = _reason_to_replace(database, alive if starts else None)
            with database.integrity.changing():
                try:
                    indexed = _ready(database, tables, why, trigram=trigram)
                finally:
                    database.disconnect()
            if starts and alive.alone:
                alive.record_clean_boot()
            return alive, indexed
        except BaseException:
            if starts:
                alive.close()
            raise


def _ready(database: Sqlite, tables: Tables, why: str, *, trigram: bool) -> bool:
    if why:
        _put_aside(database, why)
    try:
        return _prepare(database, tables, trigram=trigram)
    except _Unusable as e:
        _put_aside(database, str(e))
    except Unavailable as e:
        if not is_broken(e):
            raise
        _put_aside(database, e.detail)
    return _prepare(database, tables, trigram=trigram)


def require_readable(database: Sqlite, tables: Tables) -> None:
    """Make sure that the file can be read as it is. Raises `NotFound` when there is none, `Unavailable`."""
    if not database.path.exists():
        raise NotFound(f"There is no cache {database.path} yet.")
    if database.integrity.is_suspect():
        raise Unavailable(f"The cache {database.path} is suspect: the next start replaces it.")
    with database.reading() as connection:
        schema = _meta(connection, tables).get("schema", "")
    if schema != str(SCHEMA):
        raise Unavailable(f"The cache {database.path} has schema {schema!r}, not {SCHEMA}.")


class _Unusable(Exception):
    """The file is sound, but this process cannot use it."""


def _make_directory(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        if e.errno not in _CONFIG_ERRNOS:
            raise Unavailable(f"The cache {path.name} cannot be opened: {os.strerror(e.errno or 0)}.") from e
        raise ConfigError(
            f"The directory of the cache {path} cannot be made or written: {os.strerror(e.errno or 0)}.",
            place="cache.sql.url",
            cure="Name a path that may be written.",
        ) from e
    os.close(probe)


def _reason_to_replace(database: Sqlite, starting: Alive | None) -> str:
    """Return why the file must be replaced; an empty text when it can be used."""
    path = database.path
    if database.integrity.is_suspect():
        return "it was suspect"
    if not path.is_file():
        return "it was removed" if database.has_wal or os.path.lexists(path) else ""
    if not database.integrity.unchanged_since_release(starting=starting is not None):
        return "something other than artstore replaced or changed it"
    # The last process that closes the database removes the WAL. So a WAL that no process uses was left by a dead one.
    # Its writes are intact then: only after a power cut may the file be damaged, and only then it is read as a whole,
    # which takes time in proportion to its size.
    fell = starting is not None and starting.alone and path.stat().st_size and database.has_wal
    if starting is not None and fell and not starting.clean_since_boot():
        return "" if _sound(database) else "it is damaged"
    return ""


def _sound(database: Sqlite) -> bool:
    database.shared_memory.require_space()
    try:
        # No deadline: a large file takes as long as it takes to read.
        with closing(sqlite3.connect(f"{database.path.as_uri()}?mode=rw", uri=True)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as e:
        if is_broken(e):
            return False
        raise


def _put_aside(database: Sqlite, why: str) -> None:
    database.disconnect()
    path = database.path
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.broken-{stamp}")
    log.warning("the cache %s is put aside as %s and replaced by an empty one: %s", path, aside.name, why)
    # The WAL goes last: beside an empty database SQLite drops it, beside the old one it would be missed.
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    _delete_older(path, aside)
    database.reset()


def _delete_older(path: Path, aside: Path) -> None:
    """Delete older files that were put aside: they may be large, and the sidecars hold all that they hold."""
    for older in path.parent.glob(f"{path.name}.broken-*"):
        if older.name.removesuffix("-wal") != aside.name:
            with suppress(OSError):
                older.unlink()


def _prepare(database: Sqlite, tables: Tables, *, trigram: bool) -> bool:
    # Never opened when it is there: closing that descriptor would drop SQLite's locks in this process.
    with suppress(FileExistsError):
        os.close(os.open(database.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with database.transaction(time.monotonic() + PATIENCE) as connection:
        known = _meta(connection, tables)
        schema = known.get("schema", "")
        if schema.isdecimal() and int(schema) > SCHEMA:
            raise ConfigError(
                f"The cache {database.path} was made by a newer artstore (schema {schema}, ours is {SCHEMA}).",
                place="cache.sql",
                cure="Delete it: it is rebuilt from the sidecars.",
            )
        indexed = known.get("words") == "trigram"
        if indexed and not trigram:
            # A virtual table whose module is missing can be neither written nor dropped.
            raise _Unusable("its words are indexed by FTS5, which this SQLite lacks")
        if schema == str(SCHEMA):
            return _migrated(connection, tables, indexed=indexed, trigram=trigram)
        if known:
            log.warning("the cache %s has schema %r, not %d: it is rebuilt", database.path, schema, SCHEMA)
        recreate(connection, tables, trigram=trigram)
        return trigram


def _migrated(connection: Connection, tables: Tables, *, indexed: bool, trigram: bool) -> bool:
    revision = migration.current_revision(connection, tables.prefix)
    if revision is None or revision in migration.DEVELOPMENT:
        log.warning("the cache has the schema of a development version: it is rebuilt")
        recreate(connection, tables, trigram=trigram)
        return trigram
    if revision != migration.HEAD:
        migration.move(connection, tables.prefix, "head")
        return _meta(connection, tables).get("words") == "trigram"
    return indexed


def _meta(connection: Connection, tables: Tables) -> dict[str, str]:
    if not inspect(connection).has_table(tables.meta.name):
        return {}
    columns = {column["name"] for column in inspect(connection).get_columns(tables.meta.name)}
    if not {"name", "value"} <= columns:
        return {"schema": ""}
    rows = connection.execute(select(tables.meta.c.name, tables.meta.c.value))
    return {str(name): str(value) for name, value in rows}
