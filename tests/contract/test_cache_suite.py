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
from artstore_sql.postgres.cache import PostgresCache
from artstore_sql.provider import Sql
from artstore_sql.settings import SqlSettings
from artstore_sql.sqlite.cache import SqlCache
from support.postgres import Postgres
from support.stores import opening


class TestMemoryCache(CacheSuite):
    @pytest.fixture
    def cache(self) -> Cache:
        return MemoryCache()

    @pytest.fixture
    def unplug(self, cache: Cache) -> Callable[[], None]:
        return cache.close


class Opened(CacheSuite):
    """The fixtures of the suite, out of `make`."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], Cache]:
        raise NotImplementedError

    @pytest.fixture
    def opened(self, make: Callable[[], Cache]) -> Iterator[Callable[[], Cache]]:
        with opening(make) as open_it:
            yield open_it

    @pytest.fixture
    def cache(self, opened: Callable[[], Cache]) -> Cache:
        return opened()

    @pytest.fixture
    def reopen(self, cache: Cache, opened: Callable[[], Cache]) -> Callable[[], Cache]:
        def reopen() -> Cache:
            cache.close()
            return opened()

        return reopen


class TestSqlCache(Opened):
    kind: type[SqlCache] = SqlCache
    settings: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], SqlCache]:
        context = Context(home=tmp_path, files=tmp_path / "files", state=tmp_path / "state")
        return lambda: self.kind(SqlCache.Settings(**self.settings, timeout=60), context)


class WithoutTrigrams(SqlCache):
    """A SqlCache as it is where SQLite lacks FTS5."""

    trigram = False


class TestSqlCacheWithoutTrigrams(TestSqlCache):
    kind = WithoutTrigrams


class TestSqlCacheWithPrefix(TestSqlCache):
    settings: ClassVar[dict[str, Any]] = {"table_prefix": "se_01_", "url": "sqlite:///some dir/%41 é.db"}


class TestPostgresCache(Opened):
    @pytest.fixture
    def make(self, tmp_path: Path, postgres: Postgres) -> Callable[[], Cache]:
        def make() -> Cache:
            settings = SqlSettings(url=SecretStr(postgres.url()), table_prefix="storage_elem_01_", timeout=60)
            cache = Sql(settings, make_context(tmp_path))
            assert isinstance(cache, PostgresCache)
            return cache

        return make

    @pytest.fixture
    def cache(self, opened: Callable[[], Cache]) -> Cache:
        cache = opened()
        cache.clear()  # making the tables for each test costs more than all the tests
        return cache
