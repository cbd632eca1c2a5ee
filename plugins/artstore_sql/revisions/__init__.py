"""The schema, step by step: each module makes one revision out of the one before, and back. For Alembic."""

from __future__ import annotations

from alembic import op


def run(*, postgresql: tuple[str, ...] = (), sqlite: tuple[str, ...] = ()) -> None:
    """Run the statements of the database at hand; `{p}` in them is the prefix of its tables."""
    context = op.get_context()
    statements = postgresql if context.dialect.name == "postgresql" else sqlite
    for statement in statements:
        op.get_bind().exec_driver_sql(statement.replace("{p}", context.opts["artstore_prefix"]))
