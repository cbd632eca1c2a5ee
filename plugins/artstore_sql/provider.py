"""The provider `sql`: the url says which database."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from artstore.errors import ConfigError
from artstore.spi import Cache, Context
from artstore_sql.cache import SqlCache, SqlSettings


class Sql:
    """A cache in SQLite, or in PostgreSQL where the url names one."""

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = SqlSettings

    def __new__(cls, settings: SqlSettings, context: Context) -> Cache:  # type: ignore[misc]
        if not _is_postgres(settings):
            return SqlCache(settings, context)
        try:
            from artstore_sql.postgres_cache import PostgresCache
        except ImportError as e:
            raise ConfigError(
                f"PostgreSQL needs a library that is not there: {e}.",
                place="cache.sql.url",
                cure="pip install 'artstore[postgres]'",
            ) from e
        return PostgresCache(settings, context)

    @staticmethod
    def migrate(settings: SqlSettings, context: Context, target: str | None) -> str | None:
        if settings.url is None or not _is_postgres(settings):
            raise ConfigError(
                "A cache in SQLite that does not fit is begun anew by itself.",
                place="cache.sql.url",
                cure="There is nothing to do; to force it, stop the element and delete the file.",
            )
        from artstore_sql.opened import migrate

        return migrate(settings.url, settings.timeout, settings.table_prefix, target)


def _is_postgres(settings: SqlSettings) -> bool:
    return settings.url is not None and settings.url.get_secret_value().startswith("postgres")
