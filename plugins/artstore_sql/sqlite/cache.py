"""The cache in SQLite."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, SecretStr, ValidationError
from sqlalchemy import ColumnElement, Connection, Integer, Text, bindparam, cast, delete, func, select
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from artstore.attr import Attr
from artstore.errors import ConfigError, Conflict, Unavailable
from artstore.ids import FileId, Key
from artstore.spi import Cache, Context, Page, Query, Totals
from artstore_sql import migration
from artstore_sql.fts5 import has_trigram
from artstore_sql.pages import page_of, possible
from artstore_sql.settings import SqlSettings
from artstore_sql.sqlite.availability import PATIENCE, Availability, require_readable
from artstore_sql.sqlite.database import Sqlite
from artstore_sql.sqlite.file_system import UNSAFE, file_system
from artstore_sql.sqlite.schema import recreate
from artstore_sql.sqlite.search import execute
from artstore_sql.sqlite.writer import BATCH, Row, Step, Writer
from artstore_sql.tables import Tables, consistent_attr, is_text, row, tables_of
from artstore_sql.writes import BORN, Count, Writes


class SqlCache(Cache):
    """A row for each file, in SQLite: for one machine, any number of processes."""

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = SqlSettings
    trigram: ClassVar[bool] = True
    """Whether to index words where SQLite can."""

    def __init__(self, settings: SqlSettings, context: Context) -> None:
        path = _path(settings.url, context)
        self._tables = tables_of(settings.table_prefix)
        self._is_named = settings.url is not None
        self._database = Sqlite(
            path, settings.timeout, reading=context.read_only, in_state=not self._is_named
        )
        self._availability: Availability | None = None
        if context.read_only:
            require_readable(self._database, self._tables)
        else:
            trigram = self.trigram and has_trigram()
            self._availability = Availability(
                self._database, self._tables, trigram=trigram, timeout=settings.timeout
            )
        self._writes = Writes()
        self._is_counted = False
        self._writer = Writer(self._database, settings.timeout, count=self._count, writes=self._writes)
        self._upsert_statement = _upsert_statement(self._tables)
        self._closed = False

    def claim(self, element_id: str) -> None:
        # The file in the state is in the reach of this element alone, whatever id its store gets.
        if self._is_named and self._availability is not None:
            self._availability.claim(element_id)

    def put(self, attrs: Sequence[Attr]) -> None:
        rows = [row(attr) for attr in attrs]
        for start in range(0, len(rows), BATCH):
            self._write(self._upsert, rows[start : start + BATCH])

    def remove(self, file_ids: Sequence[FileId]) -> None:
        rows = [{"gone": file_id} for file_id in file_ids if is_text(file_id)]
        for start in range(0, len(rows), BATCH):
            self._write(self._delete, rows[start : start + BATCH])

    def key(self, file_id: FileId) -> Key | None:
        files = self._tables.files.c
        if not is_text(file_id):
            return None
        with self._reading() as connection:
            wanted = select(files.storage_path, files.storage_filename).where(files.file_id == file_id)
            found = connection.execute(wanted).one_or_none()
        return None if found is None else Key(f"{found.storage_path}/{found.storage_filename}")

    def search(self, query: Query) -> Page:
        if not possible(query):
            return Page(items=(), next=None)
        with self._reading() as connection:
            texts = execute(connection, self._tables, query, indexed=self._indexed)
        return page_of(texts, query, self._attr)

    def ids_in(self, directory: str) -> dict[str, FileId]:
        files = self._tables.files.c
        if not is_text(directory):
            return {}
        with self._reading() as connection:
            wanted = select(files.storage_filename, files.file_id).where(files.storage_path == directory)
            return {found.storage_filename: found.file_id for found in connection.execute(wanted)}

    def entries_in(self, directory: str) -> Iterator[tuple[FileId, Attr | None]]:
        files, last = self._tables.files, 0
        while is_text(directory):
            some = select(files).where(files.c.storage_path == directory, files.c.id > last)
            with self._reading() as connection:
                found = connection.execute(some.order_by(files.c.id).limit(BATCH)).mappings().all()
            yield from ((one["file_id"], consistent_attr(one)) for one in found)
            if len(found) < BATCH:
                return
            last = found[-1]["id"]

    def list_directories(self, since: str = "") -> Iterator[str]:
        path = self._tables.files.c.storage_path
        wanted: ColumnElement[bool] = path >= since
        while is_text(since):
            # One look-up in the index for each directory, in place of one read for each row.
            with self._reading() as connection:
                found = connection.execute(select(func.min(path)).where(wanted)).scalar_one()
            if found is None:
                return
            yield found
            wanted = path > found

    def totals(self) -> Totals:
        totals = self._tables.totals.c
        with self._reading() as connection:
            files, size = connection.execute(select(totals.files, totals.size)).one()
        return Totals(files, size)

    def flush(self) -> None:
        self._write(None, durable=True)

    def generation(self) -> str | None:
        meta, before = self._tables.meta.c, self._writes.committed()
        wanted = select(meta.name, meta.value).where(meta.name.in_(["stamp", BORN, *before.least]))
        with self._reading() as connection:
            rows = {one.name: one.value for one in connection.execute(wanted)}
        return None if self._writes.is_set_back(before, rows) else rows.get("stamp")

    def set_generation(self, stamp: str, *, if_match: str | None = None) -> None:
        self._write(self._change_generation, [{"value": stamp, "if_match": if_match}], durable=True)

    def clear(self) -> None:
        self._write(self._recreate)

    def check(self) -> None:
        self.totals()
        self._write(self._touch)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._database.close()
            if self._availability is not None:
                self._availability.close()

    @property
    def _indexed(self) -> bool:
        return self._availability is not None and self._availability.indexed

    def migrate(self, target: str) -> str | None:
        """Migrate the schema. Only `close` may follow. Raises `Conflict` while other processes use the cache."""
        deadline = time.monotonic() + PATIENCE
        with self._database.exclusive(deadline):
            if self._availability is not None and self._availability.is_shared():
                raise Conflict("The element is running: stop it, then move the schema of its cache.")
            with self._database.transaction(deadline) as connection:
                return migration.move(connection, self._tables.prefix, target)

    def revision(self) -> str | None:
        """Return the revision of the schema."""
        with self._reading() as connection:
            return migration.current_revision(connection, self._tables.prefix)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._closed:
            raise Unavailable("The cache is closed.")
        if self._availability is not None:
            self._availability.require()
        with self._database.reading() as connection:
            yield connection

    def _write(self, step: Step | None, rows: Sequence[Row] = (), *, durable: bool = False) -> None:
        if not self._closed and self._availability is not None:
            self._availability.require()
        self._writer.execute(step, rows, durable=durable)

    def _attr(self, text: str) -> Attr:
        try:
            return Attr.model_validate_json(text)
        except ValidationError as e:
            self._database.mark_suspect(f"a row is no attr: {text[:200]!r}")
            raise Unavailable("The cache holds a row that is no attr; it will be rebuilt.") from e

    # --- steps of the writer ---

    def _upsert(self, connection: Connection, rows: Sequence[Row]) -> None:
        connection.execute(self._upsert_statement, list(rows))

    def _delete(self, connection: Connection, rows: Sequence[Row]) -> None:
        files = self._tables.files
        connection.execute(delete(files).where(files.c.file_id == bindparam("gone")), list(rows))

    def _change_generation(self, connection: Connection, rows: Sequence[Row]) -> None:
        meta = self._tables.meta
        for request in rows:
            wanted = select(meta.c.value).where(meta.c.name == "stamp")
            if request["if_match"] not in (None, connection.execute(wanted).scalar_one_or_none()):
                raise Unavailable("Another process cleared the cache meanwhile.")
            self._set(connection, "stamp", request["value"])

    def _recreate(self, connection: Connection, _rows: Sequence[Row]) -> None:
        # Dropping costs much less than a trigger for each of a million rows.
        recreate(connection, self._tables, trigram=self._indexed)

    def _count(self, connection: Connection) -> Count:
        meta = self._tables.meta
        if not self._is_counted and self._availability is not None and not self._availability.is_shared():
            connection.execute(delete(meta).where(meta.c.name.like("writes %")))  # of processes that ended
        self._is_counted = True
        with self._writes.name() as name:
            new = insert(meta).values(name=name, value="1")
            counted = cast(cast(meta.c.value, Integer) + 1, Text)
            connection.execute(new.on_conflict_do_update(index_elements=["name"], set_={"value": counted}))
            wanted = select(meta.c.name, meta.c.value).where(meta.c.name.in_([name, BORN]))
            rows = {one.name: one.value for one in connection.execute(wanted)}
        return Count(name, rows.get(BORN), int(rows[name]))

    def _touch(self, connection: Connection, _rows: Sequence[Row]) -> None:
        # Another value each time: SQLite does not write a value that is there already.
        self._set(connection, "checked", secrets.token_hex(8))

    def _set(self, connection: Connection, name: str, value: str) -> None:
        new = insert(self._tables.meta).values(name=name, value=value)
        connection.execute(
            new.on_conflict_do_update(index_elements=["name"], set_={"value": new.excluded.value})
        )


def _upsert_statement(tables: Tables) -> Insert:
    """Return the upsert. It is built once: to build it for each batch took longer than all the rest of a write."""
    new = insert(tables.files)
    kept = ("id", "file_id")
    return new.on_conflict_do_update(
        index_elements=["file_id"],
        set_={name: value for name, value in new.excluded.items() if name not in kept},
        where=new.excluded.revision >= tables.files.c.revision,
    )


def _path(url: SecretStr | None, context: Context) -> Path:
    """Return the database file. Raises `ConfigError` without the url, which may hold a password."""
    if url is None:
        path = context.state / "cache.db"
    else:
        place = "cache.sql.url"
        try:
            parsed = make_url(url.get_secret_value())
        except ArgumentError:
            raise ConfigError(
                "This is no database url.", place=place, cure="Write sqlite:////var/lib/artstore/cache.db."
            ) from None
        if parsed.get_backend_name() != "sqlite":
            raise ConfigError(
                f"{parsed.get_backend_name()} is not supported.",
                place=place,
                cure="Use postgresql://user:password@host/database or sqlite:///<path>, or leave the url out.",
            )
        if (
            parsed.drivername not in ("sqlite", "sqlite+pysqlite")
            or parsed.host
            or "?" in url.get_secret_value()
        ):
            raise ConfigError(
                "Only sqlite:/// and a path are understood: no driver, host or option.",
                place=place,
                cure="Write sqlite:////var/lib/artstore/cache.db.",
            )
        if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
            raise ConfigError(
                "A cache in memory is not shared by the processes of an element.",
                place=place,
                cure="Name a file: sqlite:////var/lib/artstore/cache.db.",
            )
        path = context.home / str(parsed.database)
    path = Path(path).resolve()
    found = file_system(path)
    if found in UNSAFE:
        raise ConfigError(
            f"SQLite would be damaged on {found}, where {path} lies.",
            place="cache.sql.url",
            cure="Name a path on a local disk: the cache may be lost, it is rebuilt from the sidecars.",
        )
    return path
