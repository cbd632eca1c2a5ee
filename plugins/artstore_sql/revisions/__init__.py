"""The schema, step by step: each module makes one revision out of the one before, and back. For Alembic.

A step says in full what it does: what the code makes of an empty database today is no part of it.
"""

from __future__ import annotations

from alembic import op


def run(*, postgresql: tuple[str, ...] = (), sqlite: tuple[str, ...] = ()) -> None:
    """Do what the database at hand needs; `{p}` in statements is the prefix of its tables."""
    context = op.get_context()
    for statement in postgresql if context.dialect.name == "postgresql" else sqlite:
        op.get_bind().exec_driver_sql(statement.replace("{p}", context.opts["artstore_prefix"]))
