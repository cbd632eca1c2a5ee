"""The index of words in SQLite tells of words of one and two letters, too."""

from __future__ import annotations

from alembic import op

from artstore_sql.revisions import run

revision = "r5"
down_revision = "r4"
branch_labels = None
depends_on = None

_DROP = (
    "DROP TRIGGER {p}parts_insert",
    "DROP TRIGGER {p}parts_delete",
    "DROP TRIGGER {p}parts_update",
    "DROP TABLE {p}parts",
)
# U+FDD1 (64977) is in no text. With two of it at the end every letter of a text begins a trigram.
SQLITE = (
    *_DROP,
    """CREATE VIRTUAL TABLE {p}parts USING fts5(words, content='',
        tokenize='trigram case_sensitive 1', detail=none, columnsize=0)""",
    "CREATE VIRTUAL TABLE {p}trigrams USING fts5vocab({p}parts, instance)",
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
    "INSERT INTO {p}parts (rowid, words) SELECT id, words || char(64977, 64977) FROM {p}files",
)
SQLITE_DOWN = (
    *_DROP,
    "DROP TABLE {p}trigrams",
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
)


def upgrade() -> None:
    if _indexed():
        run(sqlite=SQLITE)


def downgrade() -> None:
    if _indexed():
        run(sqlite=SQLITE_DOWN)


def _indexed() -> bool:
    context = op.get_context()
    wanted = f"SELECT value FROM {context.opts['artstore_prefix']}meta WHERE name = 'words'"
    return context.dialect.name == "sqlite" and (
        op.get_bind().exec_driver_sql(wanted).scalar_one() == "trigram"
    )
