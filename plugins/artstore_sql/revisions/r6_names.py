"""SQLite sorts many rows by name without reading them."""

from __future__ import annotations

from artstore_sql.revisions import run

revision = "r6"
down_revision = "r5"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(sqlite=("CREATE INDEX {p}files_names ON {p}files (id, original_filename)",))


def downgrade() -> None:
    run(sqlite=("DROP INDEX {p}files_names",))
