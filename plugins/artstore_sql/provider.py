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
        if settings.url is None or not settings.url.get_secret_value().startswith("postgres"):
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
