"""The cache suite, held against every cache of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from artstore.spi import Cache, Context
from artstore.testing.cache import CacheSuite
from artstore.testing.memory_cache import MemoryCache
from artstore_sql.cache import SqlCache


class TestMemoryCache(CacheSuite):
    @pytest.fixture
    def cache(self) -> Cache:
        return MemoryCache()


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
