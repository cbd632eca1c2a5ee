"""An index of the parts of words."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from artstore_sql import schema
from artstore_sql.grams import grams
from artstore_sql.revisions import run

revision = "r2"
down_revision = "r1"
branch_labels = None
depends_on = None

_BATCH = 1000


def upgrade() -> None:
    if schema.has_trigram():
        run(sqlite=schema.index_words)
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
    run(postgresql=("ALTER TABLE {p}file_metadata DROP COLUMN parts",), sqlite=schema.unindex_words)


def _fill(table: str) -> None:
    some = text(f"SELECT id, words FROM {table} WHERE id > :last ORDER BY id LIMIT {_BATCH}")
    change = text(f"UPDATE {table} SET parts = :parts WHERE id = :id")
    last = 0
    while rows := op.get_bind().execute(some, {"last": last}).all():
        op.get_bind().execute(change, [{"id": row.id, "parts": grams(row.words)} for row in rows])
        last = rows[-1].id
