"""Which of the nodes that share a log owe rows to the cache."""

from __future__ import annotations

from artstore_sql.revisions import run

revision = "r4"
down_revision = "r3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(postgresql=("ALTER TABLE {p}wal_owners ADD COLUMN owes bigint NOT NULL DEFAULT 0",))


def downgrade() -> None:
    run(postgresql=("ALTER TABLE {p}wal_owners DROP COLUMN owes",))
