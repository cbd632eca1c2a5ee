"""A database that is set back by seconds while processes use it has no generation any more, so it is rebuilt."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from artstore.spi import Cache
from artstore.testing import make_context
from artstore.testing.attrs import make_attr
from artstore_sql.provider import Sql
from artstore_sql.settings import SqlSettings
from artstore_sql.writes import Count, Writes
from support import servers
from support.postgres import Postgres
from support.servers import file_path, until
from support.stores import opening

PREFIXES = itertools.count()


class InSqlite:
    """A file, and a dump of it. It is restored by the backup API, as another program would do it."""

    def __init__(self, home: Path) -> None:
        self.settings = SqlSettings()
        self._path = home / "state" / "cache.db"
        self._dump = home / "dump.db"

    def dump(self) -> None:
        self._dump.unlink(missing_ok=True)
        self._copy(self._path, self._dump)

    def restore(self) -> None:
        self._copy(self._dump, self._path)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
            there.backup(here)


class InPostgres:
    """Tables, and a dump of them: copies."""

    def __init__(self, server: Postgres, prefix: str) -> None:
        self.settings = SqlSettings(url=SecretStr(server.url()), table_prefix=prefix, timeout=30)
        self._server = server
        self._prefix = prefix

    def dump(self) -> None:
        for name in ("file_metadata", "totals", "meta"):
            self._server.ask(f"DROP TABLE IF EXISTS dump_{self._prefix}{name}")
            self._server.ask(f"CREATE TABLE dump_{self._prefix}{name} AS SELECT * FROM {self._prefix}{name}")

    def restore(self) -> None:
        p = self._prefix
        tables = ("file_metadata", "totals", "meta")
        copies = (
            f"DELETE FROM {p}{name}; INSERT INTO {p}{name} SELECT * FROM dump_{p}{name};" for name in tables
        )
        trigger = f"ALTER TABLE {p}file_metadata {{}} TRIGGER USER;"
        self._server.ask(
            "BEGIN;" + trigger.format("DISABLE") + "".join(copies) + trigger.format("ENABLE") + "COMMIT"
        )


Database = InSqlite | InPostgres
Open = Callable[[], Cache]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return InSqlite(tmp_path)
    return InPostgres(request.getfixturevalue("postgres"), f"back_{next(PREFIXES):02}_")


@pytest.fixture
def opened(tmp_path: Path, database: Database) -> Iterator[Open]:
    with opening(lambda: Sql(database.settings, make_context(tmp_path))) as open_it:
        yield open_it


def test_a_cache_that_was_set_back_has_no_generation(database: Database, opened: Open) -> None:
    cache = opened()
    cache.put([make_attr()])
    cache.set_generation("now")
    database.dump()
    assert cache.generation() == "now"
    cache.put([make_attr()])
    assert cache.generation() == "now"
    database.restore()
    assert cache.generation() is None
    cache.clear()
    cache.set_generation("rebuilt")
    cache.put([make_attr()])
    assert cache.generation() == "rebuilt"


def test_a_removal_that_was_set_back_is_noticed(database: Database, opened: Open) -> None:
    cache, attr = opened(), make_attr()
    cache.put([attr])
    cache.set_generation("now")
    database.dump()
    cache.remove([attr.file_id])
    database.restore()
    assert cache.generation() is None


def test_writes_after_it_was_set_back_do_not_hide_that(database: Database, opened: Open) -> None:
    cache = opened()
    cache.set_generation("now")
    cache.put([make_attr()])
    database.dump()
    for _ in range(3):
        cache.put([make_attr()])
    database.restore()
    for _ in range(5):
        cache.put([make_attr()])
    assert cache.generation() is None


def test_one_that_was_set_back_to_before_its_first_write_is_noticed(database: Database, opened: Open) -> None:
    cache = opened()
    cache.set_generation("now")
    database.dump()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: cache.put([make_attr()]), range(30)))
    assert cache.generation() == "now"
    database.restore()
    assert cache.generation() is None


def test_what_other_processes_do_is_no_set_back(database: Database, opened: Open) -> None:
    first, second = opened(), opened()
    for n in range(6):
        first.put([make_attr()])
        second.put([make_attr()])
        if n % 2:
            first.clear()
        first.set_generation(f"{n}")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda cache: cache.put([make_attr()]), [first, second] * 6))
        assert first.generation() == second.generation() == opened().generation() == f"{n}"


def test_a_write_whose_outcome_is_unknown_is_not_counted_on() -> None:
    writes = Writes()
    with writes.name() as name:
        writes.confirm(Count(name, "b", 1))
    before = writes.committed()
    assert not writes.is_set_back(before, {"born": "b", name: "1"})
    writes.confirm(Count(name, "b", 4))  # two were committed whose answers were lost
    assert not writes.is_set_back(writes.committed(), {"born": "b", name: "4"})
    assert writes.is_set_back(writes.committed(), {"born": "b", name: "3"})


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_files_of_an_element_whose_cache_is_set_back_are_found(tmp_path: Path, adapter: str) -> None:
    home = tmp_path / "home"
    with servers.serving(adapter, home) as element:
        element.upload(b"old")
        database = InSqlite(home)
        database.dump()
        made = [element.upload(b"%d" % n, f"{n}.txt")["file_id"] for n in range(5)]
        database.restore()
        for file_id in made:
            assert element.get(file_path(file_id)).status == 200
        page = element.get("/api/v1/files")
        assert page.status == 503 or len(page.json()["items"]) == 6
        until(lambda: element.get("/api/v1/files").status == 200, "the list")
        assert len(element.get("/api/v1/files").json()["items"]) == 6
