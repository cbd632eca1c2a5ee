"""An index of the parts of words."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from artstore_sql.revisions import run
from artstore_sql.sqlite.schema import has_trigram
from artstore_sql.trigrams import grams

revision = "r2"
down_revision = "r1"
branch_labels = None
depends_on = None

_BATCH = 1000
# External content: the text stays in `files` alone. detail=none: trigrams without their places are a
# third of the size.
SQLITE = (
    """CREATE VIRTUAL TABLE {p}parts USING fts5(words, content='{p}files', content_rowid='id',
        tokenize='trigram case_sensitive 1', detail=none, columnsize=0)""",
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
    "INSERT INTO {p}parts ({p}parts) VALUES ('rebuild')",
    "UPDATE {p}meta SET value = 'trigram' WHERE name = 'words'",
)
SQLITE_DOWN = (
    "DROP TRIGGER IF EXISTS {p}parts_insert",
    "DROP TRIGGER IF EXISTS {p}parts_delete",
    "DROP TRIGGER IF EXISTS {p}parts_update",
    "DROP TABLE IF EXISTS {p}parts",
    "UPDATE {p}meta SET value = 'none' WHERE name = 'words'",
)


def upgrade() -> None:
    if has_trigram():
        run(sqlite=SQLITE)
    run(postgresql=("ALTER TABLE {p}file_metadata ADD COLUMN parts int[]",))
    if op.get_context().dialect.name == "postgresql":
        _fill(f"{op.get_context().opts['artstore_prefix']}file_metadata")
    run(
        postgresql=(
            "ALTER TABLE {p}file_metadata ALTER COLUMN parts SET NOT NULL",
            "CREATE INDEX {p}metadata_parts ON {p}file_metadata USING gin (parts)",
        )
    )


def downgrade() -> None:
    run(postgresql=("ALTER TABLE {p}file_metadata DROP COLUMN parts",), sqlite=SQLITE_DOWN)


def _fill(table: str) -> None:
    some = text(f"SELECT id, words FROM {table} WHERE id > :last ORDER BY id LIMIT {_BATCH}")
    change = text(f"UPDATE {table} SET parts = :parts WHERE id = :id")
    last = 0
    while rows := op.get_bind().execute(some, {"last": last}).all():
        op.get_bind().execute(change, [{"id": row.id, "parts": grams(row.words)} for row in rows])
        last = rows[-1].id
