"""The provider `sql`: the url selects the database."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import ClassVar

from pydantic import BaseModel

from artstore.errors import ConfigError, NotFound
from artstore.spi import Cache, Context
from artstore_sql.settings import SqlSettings
from artstore_sql.sqlite.cache import SqlCache


class Sql:
    """Makes a cache in SQLite, or in PostgreSQL where the url names one.

    The host reads `API`, `Settings` and `migrate` of the class that an offer names, then calls the class for the
    provider. Only the settings decide which of two classes that is, and PostgreSQL's imports a library that an element
    with SQLite need not have. So the call returns an object of another class: no `Sql` is ever made. mypy has no way
    to express that. A wrapper that forwards each method of `Cache` would be the alternative.
    """

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = SqlSettings

    def __new__(cls, settings: SqlSettings, context: Context) -> Cache:  # type: ignore[misc]
        if not _is_postgres(settings):
            return SqlCache(settings, context)
        try:
            from artstore_sql.postgres.cache import PostgresCache
        except ImportError as e:
            raise ConfigError(
                f"PostgreSQL needs a library that is not installed: {e}.",
                place="cache.sql.url",
                cure="pip install 'artstore[postgres]'",
            ) from e
        return PostgresCache(settings, context)

    @staticmethod
    def migrate(settings: SqlSettings, context: Context, target: str | None) -> str | None:
        if settings.url is None or not _is_postgres(settings):
            return _migrate_sqlite(settings, context, target)
        from artstore_sql.postgres.schema import migrate

        return migrate(settings.url, settings.timeout, settings.table_prefix, target)


def _is_postgres(settings: SqlSettings) -> bool:
    return settings.url is not None and settings.url.get_secret_value().startswith("postgres")


def _migrate_sqlite(settings: SqlSettings, context: Context, target: str | None) -> str | None:
    try:
        cache = SqlCache(settings, replace(context, read_only=target is None))
    except NotFound:
        return None
    with closing(cache):
        return cache.revision() if target is None else cache.migrate(target)
