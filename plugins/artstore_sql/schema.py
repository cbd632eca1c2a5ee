"""The schema in SQLite: what the tables alone do not say."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from sqlalchemy import Connection, insert, update

from artstore_sql import migration
from artstore_sql.tables import SCHEMA, Tables

# External content: the text stays in `files` alone. detail=none: trigrams without their places are a
# third of the size; what they let through is looked at again anyway.
_PARTS = """CREATE VIRTUAL TABLE {p}parts USING fts5(words, content='{p}files', content_rowid='id',
    tokenize='trigram case_sensitive 1', detail=none, columnsize=0)"""

_PARTS_TRIGGERS = (
    """CREATE TRIGGER {p}parts_insert AFTER INSERT ON {p}files BEGIN
        INSERT INTO {p}parts (rowid, words) VALUES (new.id, new.words);
    END""",
    """CREATE TRIGGER {p}parts_delete AFTER DELETE ON {p}files BEGIN
        INSERT INTO {p}parts ({p}parts, rowid, words) VALUES ('delete', old.id, old.words);
    END""",
    """CREATE TRIGGER {p}parts_update AFTER UPDATE ON {p}files WHEN old.words <> new.words BEGIN
        INSERT INTO {p}parts ({p}parts, rowid, words) VALUES ('delete', old.id, old.words);
        INSERT INTO {p}parts (rowid, words) VALUES (new.id, new.words);
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


def has_trigram() -> bool:
    """Whether this build of SQLite can index the parts of words."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(_PARTS.format(p="try_"))
        except sqlite3.OperationalError:
            return False
    return True


def renew(connection: Connection, tables: Tables, *, trigram: bool) -> None:
    """Make an empty cache without a stamp, whatever was there."""
    drop(connection, tables)
    create(connection, tables)
    if trigram:
        index_words(connection, tables)
    migration.mark(connection, tables.prefix)


def create(connection: Connection, tables: Tables) -> None:
    """The tables, without an index of words."""
    tables.metadata.create_all(connection)
    for statement in _TRIGGERS:
        connection.exec_driver_sql(statement.format(p=tables.prefix))
    connection.execute(insert(tables.totals).values(files=0, size=0))
    facts = {"schema": str(SCHEMA), "words": "none"}
    connection.execute(insert(tables.meta), [{"name": name, "value": value} for name, value in facts.items()])


def index_words(connection: Connection, tables: Tables) -> None:
    """Index the words of whatever rows there are."""
    p = tables.prefix
    for statement in (_PARTS, *_PARTS_TRIGGERS):
        connection.exec_driver_sql(statement.format(p=p))
    connection.exec_driver_sql(f"INSERT INTO {p}parts ({p}parts) VALUES ('rebuild')")
    connection.execute(update(tables.meta).where(tables.meta.c.name == "words").values(value="trigram"))


def unindex_words(connection: Connection, tables: Tables) -> None:
    """Drop that index, if there is one."""
    for name in ("insert", "delete", "update"):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {tables.prefix}parts_{name}")
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {tables.prefix}parts")
    connection.execute(update(tables.meta).where(tables.meta.c.name == "words").values(value="none"))


def drop(connection: Connection, tables: Tables) -> None:
    """Drop the tables of a cache, whichever are there; their triggers go with them."""
    # The virtual table first, while the one its content lies in is still there.
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {tables.prefix}parts")
    tables.metadata.drop_all(connection)
