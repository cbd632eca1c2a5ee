"""From one revision of the schema to another. Alembic is imported only where there is something to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from artstore.errors import ConfigError

HEAD = "r6"
"""The revision this version works with."""
_SCRIPTS = Path(__file__).with_name("revisions")


def version_table(prefix: str) -> str:
    return f"{prefix}alembic_version"


def present(connection: Connection, prefix: str) -> str | None:
    """The revision of what is there, or None when nothing is."""
    if not inspect(connection).has_table(version_table(prefix)):
        return None
    rows = connection.execute(text(f"SELECT version_num FROM {version_table(prefix)}"))
    found: str | None = rows.scalar_one_or_none()
    return found


def mark(connection: Connection, prefix: str) -> None:
    """Note that what is there is of this version's making."""
    table = version_table(prefix)
    connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {table} (version_num VARCHAR(32) NOT NULL)")
    connection.exec_driver_sql(f"DELETE FROM {table}")
    connection.exec_driver_sql(f"INSERT INTO {table} VALUES ('{HEAD}')")


def move(connection: Connection, prefix: str, target: str) -> str | None:
    """Go to `target`: a revision, `head`, `base`, or steps such as `-1` and `+1`; where we are then.

    Within the transaction of `connection`. Raises `ConfigError` for a revision that does not exist.
    """
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    script = ScriptDirectory(str(_SCRIPTS), version_locations=[str(_SCRIPTS)])
    known = [one.revision for one in script.walk_revisions()]
    now = present(connection, prefix)
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
    return present(connection, prefix)


def newer(revision: str) -> ConfigError:
    return ConfigError(
        f"The cache was made by a newer artstore (revision {revision}, ours is {HEAD}).",
        place="cache.sql",
        cure="Install that version, or drop the tables of this element: they are filled anew from the sidecars.",
    )
