"""A cache in PostgreSQL: for any number of nodes, each with any number of processes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import ColumnElement, Connection, Executable, TextClause, func, select, text

from artstore.attr import Attr
from artstore.errors import Unavailable
from artstore.ids import FileId, Key
from artstore.spi import Cache, Context, Page, Query, Totals
from artstore_sql.pages import page_of, possible
from artstore_sql.postgres.database import Postgres
from artstore_sql.postgres.errors import Dropped
from artstore_sql.postgres.schema import Schema
from artstore_sql.postgres.search import execute
from artstore_sql.postgres.tables import Tables, tables_of
from artstore_sql.settings import SqlSettings
from artstore_sql.tables import consistent_attr, is_text, row
from artstore_sql.trigrams import all_codes
from artstore_sql.writes import BORN, Count, Writes

CONNECTIONS = 8
"""Connections of one process at most."""
BATCH = 1000

# A commit that touches no row which another node could hold.
_SOMETHING = text("SELECT pg_logical_emit_message(true, 'artstore', '')")

T = TypeVar("T")
Row = dict[str, Any]


class PostgresCache(Cache):
    """A row for each file, durable when it is written.

    Commits that a crash of the server may undo would be quicker, but then it would be unknown which rows are missing.
    """

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = SqlSettings

    def __init__(self, settings: SqlSettings, context: Context) -> None:
        if settings.url is None:
            raise TypeError("a cache in PostgreSQL has a url")
        self._tables = tables_of(settings.table_prefix)
        self._database = Postgres(settings.url, settings.timeout, place="cache.sql.url", size=CONNECTIONS)
        self._schema = Schema(self._database, settings.table_prefix, reading=context.read_only)
        self._writes = Writes()
        self._upsert = _counted(_upsert(self._tables.files.name, self._tables), self._tables.meta.name)
        self._removal = _counted(_removal(self._tables.files.name), self._tables.meta.name)
        self._closed = False
        self._schema.open_or_defer()

    def claim(self, element_id: str) -> None:
        self._schema.claim(element_id)

    def put(self, attrs: Sequence[Attr]) -> None:
        rows = [_row(attr) for attr in attrs]
        for start in range(0, len(rows), BATCH):
            # In order, so that two writers of the same rows do not deadlock.
            some = sorted(_newest(rows[start : start + BATCH]), key=lambda one: str(one["file_id"]))
            self._write_counted(self._upsert, rows=json.dumps(some, ensure_ascii=False))

    def remove(self, file_ids: Sequence[FileId]) -> None:
        gone = sorted({file_id for file_id in file_ids if _is_text(file_id)})
        for start in range(0, len(gone), BATCH):
            self._write_counted(self._removal, gone=gone[start : start + BATCH])

    def key(self, file_id: FileId) -> Key | None:
        files = self._tables.files.c
        if not _is_text(file_id):
            return None
        wanted = select(files.storage_path, files.storage_filename).where(files.file_id == file_id)
        there = self._all(wanted)
        return Key(f"{there[0].storage_path}/{there[0].storage_filename}") if there else None

    def search(self, query: Query) -> Page:
        if not possible(query):
            return Page(items=(), next=None)
        texts = self._use(lambda: self._database.read(lambda c: execute(c, self._tables, query)))
        return page_of(texts, query, _attr)

    def ids_in(self, directory: str) -> dict[str, FileId]:
        files = self._tables.files.c
        if not _is_text(directory):
            return {}
        wanted = select(files.storage_filename, files.file_id).where(files.storage_path == directory)
        return {one.storage_filename: one.file_id for one in self._all(wanted)}

    def entries_in(self, directory: str) -> Iterator[tuple[FileId, Attr | None]]:
        files, last = self._tables.files, 0
        while _is_text(directory):
            some = select(files).where(files.c.storage_path == directory, files.c.id > last)
            some = some.order_by(files.c.id).limit(BATCH)
            there = self._all(some)
            yield from ((one.file_id, _consistent(one._mapping)) for one in there)
            if len(there) < BATCH:
                return
            last = there[-1].id

    def list_directories(self, since: str = "") -> Iterator[str]:
        path = self._tables.files.c.storage_path
        wanted: ColumnElement[bool] = path >= since
        while _is_text(since):
            # One look-up in the index for each directory, in place of one read for each row.
            least = select(func.min(path)).where(wanted)
            ((directory,),) = self._all(least)
            if directory is None:
                return
            yield directory
            wanted = path > directory

    def totals(self) -> Totals:
        stripes = self._tables.totals.c
        sums = select(func.coalesce(func.sum(stripes.files), 0), func.coalesce(func.sum(stripes.size), 0))
        ((files, size),) = self._all(sums)
        return Totals(int(files), int(size))

    def flush(self) -> None:
        self._write(_SOMETHING)  # every commit was durable: what counts is whether the server answers

    def generation(self) -> str | None:
        meta, before = self._tables.meta.c, self._writes.committed()
        names = ["stamp", BORN, *before.least]
        rows = {
            one.name: one.value
            for one in self._all(select(meta.name, meta.value).where(meta.name.in_(names)))
        }
        return None if self._writes.is_set_back(before, rows) else rows.get("stamp")

    def set_generation(self, stamp: str, *, if_match: str | None = None) -> None:
        def change(connection: Connection) -> None:
            if if_match is not None and self._stamp(connection) != if_match:
                raise Unavailable("The cache was cleared meanwhile.")
            new = text(
                f"INSERT INTO {self._tables.meta.name} VALUES ('stamp', :stamp) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            )
            connection.execute(new, {"stamp": stamp})

        self._use(lambda: self._database.write(change))

    def clear(self) -> None:
        tables = self._tables

        def change(connection: Connection) -> None:
            connection.exec_driver_sql(f"TRUNCATE {tables.files.name}, {tables.totals.name}")
            # The counts of all processes go: none is compared with the cache that begins here.
            gone = f"DELETE FROM {tables.meta.name} WHERE name = 'stamp' OR name LIKE 'writes %'"
            connection.execute(text(gone))
            born = text(
                f"INSERT INTO {tables.meta.name} VALUES ('{BORN}', :born) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            )
            connection.execute(born, {"born": secrets.token_hex(8)})

        self._use(lambda: self._database.write(change))

    def check(self) -> None:
        self.totals()
        self._write(_SOMETHING)

    def close(self) -> None:
        self._closed = True
        self._database.close()

    # --- calls ---

    def _all(self, wanted: Executable) -> Sequence[Any]:
        return self._use(lambda: self._database.read(lambda c: c.execute(wanted).all()))

    def _write(self, change: Executable) -> None:
        self._use(lambda: self._database.write(lambda c: c.execute(change)))

    def _write_counted(self, change: TextClause, **values: Any) -> None:
        with self._writes.name() as name:
            counted = change.bindparams(count=name, **values)
            ((born, value),) = self._use(lambda: self._database.write(lambda c: c.execute(counted).all()))
        self._writes.confirm(Count(name, born, int(value)))

    def _use(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable("The cache is closed.")
        self._schema.require()
        try:
            return call()
        except Dropped:
            self._schema.invalidate()
            raise

    def _stamp(self, connection: Connection) -> str | None:
        meta = self._tables.meta.c
        wanted = select(meta.value).where(meta.name == "stamp")
        return connection.execute(wanted).scalar_one_or_none()


def _is_text(value: str) -> bool:
    return is_text(value) and "\0" not in value


def _row(attr: Attr) -> Row:
    made = row(attr)
    return made | {"tags": sorted(set(attr.tags)), "parts": all_codes(made["words"])}


def _consistent(there: Any) -> Attr | None:
    attr = consistent_attr(there)
    if attr is None:
        return None
    right = _row(attr)
    return attr if all(there[name] == right[name] for name in ("tags", "parts")) else None


def _newest(rows: Sequence[Row]) -> list[Row]:
    """Return each file once: a statement cannot change a row twice."""
    kept: dict[str, Row] = {}
    for one in rows:
        there = kept.get(one["file_id"])
        if there is None or one["revision"] >= there["revision"]:
            kept[one["file_id"]] = one
    return list(kept.values())


def _attr(found: str) -> Attr:
    try:
        return Attr.model_validate_json(found)
    except ValidationError as e:
        raise Unavailable("The cache holds a row that is no attr; it will be rebuilt.") from e


def _counted(change: str, meta: str) -> TextClause:
    """Return the statement that does `change`, a list of CTEs, and counts it: in one round trip.

    Its row is the birth of the cache and the count.
    """
    return text(
        f"WITH {change}, counted AS ("
        f"INSERT INTO {meta} AS m VALUES (:count, '1') "
        "ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(m.value AS bigint) + 1 AS text) RETURNING value) "
        f"SELECT (SELECT value FROM {meta} WHERE name = '{BORN}'), value FROM counted"
    )


def _removal(files: str) -> str:
    """Return the removal of entries, which it locks in order, so that two removals do not deadlock."""
    return (
        f"held AS (SELECT id FROM {files} WHERE file_id = ANY(:gone) ORDER BY file_id FOR UPDATE), "
        f"changed AS (DELETE FROM {files} WHERE id IN (SELECT id FROM held))"
    )


def _upsert(files: str, tables: Tables) -> str:
    """Return the rows as one JSON text: one statement and one round trip for a thousand rows."""
    names = [column.name for column in tables.files.columns if column.name != "id"]
    types = {"size": "bigint", "revision": "bigint", "tags": "text[]", "parts": "int[]"}
    columns = ", ".join(names)
    typed = ", ".join(f"{name} {types.get(name, 'text')}" for name in names)
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name != "file_id")
    return (
        f"changed AS (INSERT INTO {files} AS f ({columns}) "
        f"SELECT {columns} FROM json_to_recordset(CAST(:rows AS json)) AS r ({typed}) "
        f"ON CONFLICT (file_id) DO UPDATE SET {changed} WHERE excluded.revision >= f.revision)"
    )
