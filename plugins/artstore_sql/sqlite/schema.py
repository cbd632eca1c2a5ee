"""The schema in SQLite: what the tables alone do not say."""

from __future__ import annotations

from sqlalchemy import Connection, insert

from artstore_sql import migration
from artstore_sql.fts5 import PARTS
from artstore_sql.tables import SCHEMA, Tables

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


def recreate(connection: Connection, tables: Tables, *, trigram: bool) -> None:
    """Make an empty cache without a stamp, whatever was there: what all revisions together make."""
    _drop(connection, tables)
    tables.metadata.create_all(connection)
    for statement in (*_TRIGGERS, *((PARTS, _TRIGRAMS, *_PARTS_TRIGGERS) if trigram else ())):
        connection.exec_driver_sql(statement.format(p=tables.prefix))
    connection.execute(insert(tables.totals).values(files=0, size=0))
    facts = {"schema": str(SCHEMA), "words": "trigram" if trigram else "none"}
    connection.execute(insert(tables.meta), [{"name": name, "value": value} for name, value in facts.items()])
    migration.record_head(connection, tables.prefix)


def _drop(connection: Connection, tables: Tables) -> None:
    """Drop the tables of a cache, whichever are there; their triggers go with them."""
    # Virtual tables first, while what they speak of is still there.
    for name in ("trigrams", "parts"):
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {tables.prefix}{name}")
    tables.metadata.drop_all(connection)
