"""Moves the schema from one revision to another. Alembic is imported only when there is something to move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from artstore.errors import ConfigError

HEAD = "release1"
"""The revision that this version works with."""
DEVELOPMENT = {"r1", "r2", "r3", "r4", "r5", "r6", "v1"}
"""Revisions of the time before the first release. No step leads from them."""
_SCRIPTS = Path(__file__).with_name("revisions")


def version_table(prefix: str) -> str:
    """Return the name of the table that holds the revision: not Alembic's own, which another program may use."""
    return f"{prefix}artstore_version"


def current_revision(connection: Connection, prefix: str) -> str | None:
    """Return the revision of the tables, or None when there are none."""
    if not inspect(connection).has_table(version_table(prefix)):
        return _development_revision(connection, prefix)
    rows = connection.execute(text(f"SELECT version_num FROM {version_table(prefix)}"))
    found: str | None = rows.scalar_one_or_none()
    return found


def _development_revision(connection: Connection, prefix: str) -> str | None:
    """Return the revision of tables that a development version made: it used Alembic's own table."""
    tables, table = inspect(connection), f"{prefix}alembic_version"
    if not (tables.has_table(table) and tables.has_table(f"{prefix}meta")):
        return None
    if "version_num" not in (column["name"] for column in tables.get_columns(table)):
        return None
    there = connection.execute(text(f"SELECT version_num FROM {table}")).scalars().all()
    return next((str(one) for one in there if one in DEVELOPMENT), None)


def record_head(connection: Connection, prefix: str) -> None:
    """Record that the tables are of this version."""
    table = version_table(prefix)
    connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {table} (version_num VARCHAR(32) NOT NULL)")
    connection.exec_driver_sql(f"DELETE FROM {table}")
    connection.exec_driver_sql(f"INSERT INTO {table} VALUES ('{HEAD}')")


def move(connection: Connection, prefix: str, target: str) -> str | None:
    """Move the schema to `target` and return the revision then.

    `target`: a revision, `head`, `base`, or steps such as `-1` and `+1`. It runs in the transaction of `connection`.
    Raises `ConfigError` for a revision that does not exist.
    """
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    script = ScriptDirectory(str(_SCRIPTS), version_locations=[str(_SCRIPTS)])
    known = [one.revision for one in script.walk_revisions()]
    now = current_revision(connection, prefix)
    if now in DEVELOPMENT:
        raise made_in_development(str(now))
    if now is not None and now not in known:
        raise newer(now)
    down = (
        target == "base"
        or target.startswith("-")
        or (target in known and now in known and known.index(target) > known.index(now))
    )

    def steps(revision: Any, _context: Any) -> Any:
        if down:
            return script._downgrade_revs(target, revision)
        return script._upgrade_revs("heads" if target == "head" else target, revision)

    try:
        with EnvironmentContext(Config(), script, fn=steps) as environment:
            environment.configure(
                connection=connection, version_table=version_table(prefix), artstore_prefix=prefix
            )
            environment.run_migrations()
    except CommandError as e:
        raise ConfigError(
            f"There is no revision '{target}' to go to: {e}.",
            place="artstore db",
            cure=f"There is: base, {', '.join(reversed(known))}, head.",
        ) from None
    return current_revision(connection, prefix)


def newer(revision: str) -> ConfigError:
    """Return the error for tables of a later version."""
    return ConfigError(
        f"The cache was made by a newer artstore (revision {revision}, ours is {HEAD}).",
        place="cache.sql",
        cure="Install that version, or drop the tables of this element: the cache is rebuilt from the sidecars.",
    )


def made_in_development(revision: str) -> ConfigError:
    """Return the error for tables of a development version: their log may hold open intents, so nothing is rebuilt."""
    return ConfigError(
        f"The tables were made by a development version of artstore (revision {revision}).",
        place="cache.sql, wal.sql",
        cure="Run `artstore recover` with that version, stop all nodes, then drop the tables of this element: the "
        "cache is rebuilt from the sidecars.",
    )
