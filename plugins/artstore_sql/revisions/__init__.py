"""The schema, step by step: each module makes one revision out of the one before, and back. For Alembic."""

from __future__ import annotations

from collections.abc import Callable

from alembic import op
from sqlalchemy import Connection

from artstore_sql.tables import Tables


def run(
    *, postgresql: tuple[str, ...] = (), sqlite: Callable[[Connection, Tables], None] | None = None
) -> None:
    """Do what the database at hand needs; `{p}` in statements is the prefix of its tables."""
    context = op.get_context()
    prefix = context.opts["artstore_prefix"]
    if context.dialect.name == "postgresql":
        for statement in postgresql:
            op.get_bind().exec_driver_sql(statement.replace("{p}", prefix))
    elif sqlite is not None:
        sqlite(op.get_bind(), Tables(prefix))
