"""The schema in SQLite: what the tables alone do not say."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select

from artstore.errors import ConfigError
from artstore_sql import migration
from artstore_sql.fts5 import PARTS
from artstore_sql.sqlite.first_page import APPLICATION_ID
from artstore_sql.tables import SCHEMA, Tables
from artstore_sql.writes import BORN

log = logging.getLogger("artstore.sql")

# Two characters that no text holds follow each text, so that each letter of it begins a trigram: the trigrams in
# order then find words of one and two letters, too.
_TRIGRAMS = "CREATE VIRTUAL TABLE {p}trigrams USING fts5vocab({p}parts, instance)"

_PARTS_TRIGGERS = (
    """CREATE TRIGGER {p}parts_insert AFTER INSERT ON {p}files BEGIN
        INSERT INTO {p}parts (rowid, words) VALUES (new.id, new.words || char(64977, 64977));
    END""",
    """CREATE TRIGGER {p}parts_delete AFTER DELETE ON {p}files BEGIN
        INSERT INTO {p}parts ({p}parts, rowid, words)
            VALUES ('delete', old.id, old.words || char(64977, 64977));
    END""",
    """CREATE TRIGGER {p}parts_update AFTER UPDATE ON {p}files WHEN old.words <> new.words BEGIN
        INSERT INTO {p}parts ({p}parts, rowid, words)
            VALUES ('delete', old.id, old.words || char(64977, 64977));
        INSERT INTO {p}parts (rowid, words) VALUES (new.id, new.words || char(64977, 64977));
    END""",
)

# Triggers, so that an upsert which leaves a newer row alone leaves its tags and the sums alone, too.
_TRIGGERS = (
    """CREATE TRIGGER {p}files_insert AFTER INSERT ON {p}files BEGIN
        INSERT INTO {p}tags (tag, file) SELECT DISTINCT value, new.id FROM json_each(new.attr, '$.tags');
        UPDATE {p}totals SET files = files + 1, size = size + new.size;
    END""",
    """CREATE TRIGGER {p}files_delete AFTER DELETE ON {p}files BEGIN
        DELETE FROM {p}tags WHERE file = old.id
            AND tag IN (SELECT value FROM json_each(old.attr, '$.tags'));
        UPDATE {p}totals SET files = files - 1, size = size - old.size;
    END""",
    """CREATE TRIGGER {p}files_update AFTER UPDATE ON {p}files BEGIN
        DELETE FROM {p}tags WHERE file = old.id
            AND tag IN (SELECT value FROM json_each(old.attr, '$.tags'));
        INSERT INTO {p}tags (tag, file) SELECT DISTINCT value, new.id FROM json_each(new.attr, '$.tags');
        UPDATE {p}totals SET size = size - old.size + new.size;
    END""",
)


_OWNER = "element"
"""The fact that says which element the cache belongs to."""


class Unusable(Exception):
    """The file is sound, but this process cannot use it."""


def prepare(connection: Connection, tables: Tables, path: Path, *, trigram: bool) -> bool:
    """Make the cache in the file `path` one of this version, and return whether trigrams of words are indexed.

    The rows are kept where the schema allows it. Raises `ConfigError` for a newer schema, and `Unusable`.
    """
    marked = connection.exec_driver_sql("PRAGMA application_id").scalar_one() == APPLICATION_ID
    if not marked and inspect(connection).get_table_names():
        raise Unusable("it was made by an early version of artstore")
    known = read_meta(connection, tables)
    schema = known.get("schema", "")
    if schema.isdecimal() and int(schema) > SCHEMA:
        raise ConfigError(
            f"The cache {path} was made by a newer artstore (schema {schema}, ours is {SCHEMA}).",
            place="cache.sql",
            cure="Delete it: it is rebuilt from the sidecars.",
        )
    indexed = known.get("words") == "trigram"
    if indexed and not trigram:
        # A virtual table whose module is missing can be neither written nor dropped.
        raise Unusable("its words are indexed by FTS5, which this SQLite lacks")
    if schema == str(SCHEMA):
        return _migrate(connection, tables, indexed=indexed, trigram=trigram)
    if known:
        log.warning("the cache %s has schema %r, not %d: it is rebuilt", path, schema, SCHEMA)
    recreate(connection, tables, trigram=trigram)
    return trigram


def _migrate(connection: Connection, tables: Tables, *, indexed: bool, trigram: bool) -> bool:
    revision = migration.current_revision(connection, tables.prefix)
    if revision is None or revision in migration.DEVELOPMENT:
        log.warning("the cache has the schema of a development version: it is rebuilt")
        recreate(connection, tables, trigram=trigram)
        return trigram
    if revision != migration.HEAD:
        migration.move(connection, tables.prefix, "head")
        return read_meta(connection, tables).get("words") == "trigram"
    return indexed


def recreate(connection: Connection, tables: Tables, *, trigram: bool) -> None:
    """Make an empty cache without a stamp, whatever was there. It equals what all revisions together make.

    It belongs to the same element as before.
    """
    owner = read_meta(connection, tables).get(_OWNER)
    _drop(connection, tables)
    # In the transaction that makes the tables: a file with tables of ours has the id.
    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    tables.metadata.create_all(connection)
    for statement in (*_TRIGGERS, *((PARTS, _TRIGRAMS, *_PARTS_TRIGGERS) if trigram else ())):
        connection.exec_driver_sql(statement.format(p=tables.prefix))
    connection.execute(insert(tables.totals).values(files=0, size=0))
    facts = {"schema": str(SCHEMA), "words": "trigram" if trigram else "none", BORN: secrets.token_hex(8)}
    facts |= {} if owner is None else {_OWNER: owner}
    connection.execute(insert(tables.meta), [{"name": name, "value": value} for name, value in facts.items()])
    migration.record_head(connection, tables.prefix)


def _drop(connection: Connection, tables: Tables) -> None:
    """Drop the tables of a cache, whichever are there; their triggers go with them."""
    # Virtual tables first, while the tables that they refer to are still there.
    for name in ("trigrams", "parts"):
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {tables.prefix}{name}")
    tables.metadata.drop_all(connection)


def claim(connection: Connection, tables: Tables, element_id: str) -> bool:
    """Let only this element use the tables; return whether that is new. Raises `ConfigError`."""
    owner = read_meta(connection, tables).get(_OWNER)
    if owner is None:
        connection.execute(insert(tables.meta).values(name=_OWNER, value=element_id))
    elif owner != element_id:
        raise ConfigError(
            f"The cache belongs to element '{owner}', not to '{element_id}'.",
            place="cache.sql.url, cache.sql.table_prefix",
            cure="Give each element a file, or a prefix, of its own. If this one took the other's place, delete the "
            "file: the cache is rebuilt from the sidecars.",
        )
    return owner is None


def read_meta(connection: Connection, tables: Tables) -> dict[str, str]:
    """Return the facts that the cache records about itself; nothing when it has no such table."""
    if not inspect(connection).has_table(tables.meta.name):
        return {}
    columns = {column["name"] for column in inspect(connection).get_columns(tables.meta.name)}
    if not {"name", "value"} <= columns:
        return {"schema": ""}
    rows = connection.execute(select(tables.meta.c.name, tables.meta.c.value))
    return {str(name): str(value) for name, value in rows}
