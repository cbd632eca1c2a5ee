"""The cache suite, held against every cache of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from artstore.spi import Cache, Context
from artstore.testing import make_context
from artstore.testing.cache import CacheSuite
from artstore.testing.memory_cache import MemoryCache
from artstore_sql.cache import SqlCache, SqlSettings
from artstore_sql.postgres_cache import PostgresCache
from artstore_sql.provider import Sql
from postgres import Postgres


class TestMemoryCache(CacheSuite):
    @pytest.fixture
    def cache(self) -> Cache:
        return MemoryCache()

    @pytest.fixture
    def unplug(self, cache: Cache) -> Callable[[], None]:
        return cache.close


class TestSqlCache(CacheSuite):
    kind: type[SqlCache] = SqlCache
    settings: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Callable[[], SqlCache]]:
        caches: list[SqlCache] = []

        def open_it() -> SqlCache:
            context = Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")
            caches.append(self.kind(SqlCache.Settings(**self.settings, timeout=60), context))
            return caches[-1]

        yield open_it
        for cache in caches:
            cache.close()

    @pytest.fixture
    def cache(self, opened: Callable[[], SqlCache]) -> SqlCache:
        return opened()

    @pytest.fixture
    def reopen(self, cache: SqlCache, opened: Callable[[], SqlCache]) -> Callable[[], SqlCache]:
        def reopen() -> SqlCache:
            cache.close()
            return opened()

        return reopen


class WithoutTrigrams(SqlCache):
    """A SqlCache as it is where SQLite lacks FTS5."""

    trigram = False


class TestSqlCacheWithoutTrigrams(TestSqlCache):
    kind = WithoutTrigrams


class TestSqlCacheWithPrefix(TestSqlCache):
    settings: ClassVar[dict[str, Any]] = {"table_prefix": "se_01_", "url": "sqlite:///some dir/%41 é.db"}


class TestPostgresCache(CacheSuite):
    @pytest.fixture
    def opened(self, tmp_path: Path, postgres: Postgres) -> Iterator[Callable[[], PostgresCache]]:
        caches: list[PostgresCache] = []

        def open_it() -> PostgresCache:
            settings = SqlSettings(url=SecretStr(postgres.url()), table_prefix="storage_elem_01_", timeout=60)
            cache = Sql(settings, make_context(tmp_path))
            assert isinstance(cache, PostgresCache)
            caches.append(cache)
            return cache

        yield open_it
        for cache in caches:
            cache.close()

    @pytest.fixture
    def cache(self, opened: Callable[[], PostgresCache]) -> PostgresCache:
        cache = opened()
        cache.clear()  # making the tables for each test costs more than all the tests
        return cache

    @pytest.fixture
    def reopen(
        self, cache: PostgresCache, opened: Callable[[], PostgresCache]
    ) -> Callable[[], PostgresCache]:
        def reopen() -> PostgresCache:
            cache.close()
            return opened()

        return reopen
