"""What the suite cannot ask of every cache: a server that stops, falls silent, crashes, and a schema that moves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import text

from artstore.errors import ConfigError, NotFound, Unavailable
from artstore.spi import Query, Totals
from artstore.testing import make_context
from artstore.testing.attrs import make_attr
from artstore.testing.cache import SORTS, ids
from artstore.testing.memory_cache import MemoryCache
from artstore_sql import migration
from artstore_sql.postgres.cache import CONNECTIONS, PostgresCache
from artstore_sql.postgres.search import FEW, WALK
from artstore_sql.settings import SqlSettings
from support.postgres import Postgres
from support.servers import until
from support.stores import opening

PREFIXES = itertools.count()
Open = Callable[..., PostgresCache]


@pytest.fixture
def prefix() -> str:
    return f"cache_{next(PREFIXES):02}_"


@pytest.fixture
def opened(tmp_path: Path, postgres: Postgres, prefix: str) -> Iterator[Open]:
    def make(*, read_only: bool = False, **changes: Any) -> PostgresCache:
        given: dict[str, Any] = {"url": postgres.url(), "table_prefix": prefix, "timeout": 30} | changes
        settings = SqlSettings(**given | {"url": SecretStr(given["url"])})
        return PostgresCache(settings, replace(make_context(tmp_path), read_only=read_only))

    with opening(make) as open_it:
        yield open_it


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A server of this module's own, to stop and to crash."""
    server = Postgres()
    yield server
    server.close()


def threads_and_connections(server: Postgres) -> tuple[int, int]:
    (count,) = server.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'artstore'")
    return threading.active_count(), int(str(count[0]))


# --- outages ---


def test_a_restart_fails_no_later_call(own: Postgres, opened: Open) -> None:
    cache = opened(url=own.url())
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda n: cache.put([make_attr(size=1)]), range(3 * CONNECTIONS)))
        for _ in range(3):
            own.stop()
            own.start()
            for done in [pool.submit(cache.put, [make_attr(size=1)]) for _ in range(CONNECTIONS)]:
                done.result()
    assert cache.totals().files == 6 * CONNECTIONS


def test_a_stopped_server_is_told_at_once_and_healing_needs_nobody(own: Postgres, opened: Open) -> None:
    cache = opened(url=own.url(), timeout=5)
    attr = make_attr()
    cache.put([attr])
    before = threading.active_count()
    own.stop()
    for call in (
        lambda: cache.search(Query()),
        lambda: cache.key("x"),
        cache.flush,
        cache.check,
        cache.totals,
    ):
        with pytest.raises(Unavailable):
            call()
    with pytest.raises(Unavailable):
        cache.put([make_attr()])
    own.start()
    assert cache.search(Query()).items == [attr]
    assert threading.active_count() == before


def test_a_silent_server_costs_the_deadline_and_no_more(own: Postgres, opened: Open) -> None:
    cache = opened(url=own.url(), timeout=1)
    cache.put([make_attr()])
    _, connections = threads_and_connections(own)
    own.pause()
    try:
        begun = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            calls = [pool.submit(cache.search, Query()) for _ in range(64)]
            for call in calls:
                assert isinstance(call.exception(), Unavailable)
        # One at a time waits its second; the others hear of it in a third of that.
        assert time.monotonic() - begun < 30
    finally:
        own.resume()
    until(lambda: _works(cache), "the cache to heal")
    cache.put([make_attr()])
    assert cache.totals().files == 2
    until(lambda: threads_and_connections(own)[1] <= CONNECTIONS, "old connections to go")
    assert connections <= CONNECTIONS


def _works(cache: PostgresCache) -> bool:
    try:
        cache.totals()
    except Unavailable:
        return False
    return True


def test_it_opens_before_its_server_does(own: Postgres, opened: Open) -> None:
    own.stop()
    cache = opened(url=own.url())
    with pytest.raises(Unavailable):
        cache.generation()
    own.start()
    assert cache.generation() is None
    cache.put([make_attr()])


def test_what_was_put_survives_a_crash(own: Postgres, opened: Open) -> None:
    cache = opened(url=own.url())
    attr, gone = make_attr(), make_attr()
    cache.put([attr, gone])
    cache.set_generation("here")
    new = make_attr(file_id=attr.file_id, revision=2, description="changed")
    cache.put([new])
    cache.remove([gone.file_id])
    own.crash()
    own.start()
    assert cache.search(Query()).items == [new]
    assert cache.generation() == "here"
    for _ in range(50):
        cache.put([make_attr()])
    own.crash()
    own.start()
    assert cache.totals().files == 51


def test_closed_it_leaves_nothing_open(own: Postgres, opened: Open) -> None:
    _, before = threads_and_connections(own)
    cache = opened(url=own.url())
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda n: cache.put([make_attr()]), range(40)))
    cache.close()
    until(lambda: threads_and_connections(own)[1] <= before, "the connections to go")
    with pytest.raises(Unavailable, match="closed"):
        cache.totals()


# --- the schema ---


def move(cache: PostgresCache, prefix: str, target: str) -> str | None:
    return cache._database.write(lambda c: migration.move(c, prefix, target))


def test_down_and_up_again_on_data(postgres: Postgres, opened: Open, prefix: str) -> None:
    cache = opened()
    attrs = [make_attr(size=n, tags=(f"t{n % 3}",), description=f"договор {n}") for n in range(1200)]
    cache.put(attrs)
    cache.set_generation("kept")
    assert move(cache, prefix, "base") is None
    left = f"SELECT relname FROM pg_class WHERE relname LIKE '{prefix}%' AND relname NOT LIKE '%artstore_version%'"
    assert postgres.ask(left) == []
    assert move(cache, prefix, "head") == migration.HEAD
    assert opened().generation() is None


@pytest.mark.parametrize("revision", ["r1", "r6"])
def test_tables_of_a_development_version_are_refused_and_left_alone(
    postgres: Postgres, opened: Open, prefix: str, revision: str
) -> None:
    """Their log may hold open intents: nothing is rebuilt behind the operator's back."""
    opened().put([make_attr()])
    postgres.ask(f"UPDATE {prefix}artstore_version SET version_num = '{revision}'")
    with pytest.raises(ConfigError, match=f"development version .*{revision}"):
        opened()
    assert postgres.ask(f"SELECT count(*) FROM {prefix}file_metadata") == [(1,)]


@pytest.mark.parametrize("table", ["file_metadata", "totals", "meta", "wal", "wal_owners"])
def test_foreign_tables_are_refused_and_left_as_they_are(
    postgres: Postgres, opened: Open, prefix: str, table: str
) -> None:
    postgres.ask(f"CREATE TABLE {prefix}{table} AS SELECT 'theirs' AS name")
    before = postgres.ask(f"SELECT relname FROM pg_class WHERE relname LIKE '{prefix}%'")
    with pytest.raises(ConfigError, match="artstore did not make") as caught:
        opened()
    assert "table_prefix" in caught.value.place
    assert postgres.ask(f"SELECT * FROM {prefix}{table}") == [("theirs",)]
    assert postgres.ask(f"SELECT relname FROM pg_class WHERE relname LIKE '{prefix}%'") == before


@pytest.mark.parametrize(
    "made",
    [
        "AS SELECT 'v1' AS version_num",
        "AS SELECT unnest(ARRAY['4b1f', 'r77']) AS version_num",
        "(other int)",
    ],
)
def test_alembic_of_another_program_is_left_as_it_is(
    postgres: Postgres, opened: Open, prefix: str, made: str
) -> None:
    """Its table has the same name in every program that uses it."""
    theirs = f"{prefix}alembic_version"
    postgres.ask(f"CREATE TABLE {theirs} {made}")
    before = postgres.ask(f"SELECT * FROM {theirs}")
    cache = opened()
    cache.put([make_attr()])
    assert move(cache, prefix, "base") is None
    assert move(cache, prefix, "head") == migration.HEAD
    assert postgres.ask(f"SELECT * FROM {theirs}") == before


def test_a_function_of_another_program_is_left_as_it_is(
    postgres: Postgres, opened: Open, prefix: str
) -> None:
    made = f"CREATE FUNCTION {prefix}counted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    postgres.ask(made)
    source = f"SELECT prosrc FROM pg_proc WHERE proname = '{prefix}counted'"
    before = postgres.ask(source)
    cache = opened()
    cache.put([make_attr()])
    assert move(cache, prefix, "base") is None
    assert postgres.ask(source) == before


def test_tables_of_a_development_version_with_the_table_of_alembic_are_refused(
    postgres: Postgres, opened: Open, prefix: str
) -> None:
    opened().put([make_attr()])
    postgres.ask(f"ALTER TABLE {prefix}artstore_version RENAME TO {prefix}alembic_version")
    postgres.ask(f"UPDATE {prefix}alembic_version SET version_num = 'v1'")
    with pytest.raises(ConfigError, match=r"development version .*v1"):
        opened()
    assert postgres.ask(f"SELECT count(*) FROM {prefix}file_metadata") == [(1,)]


def test_the_revisions_end_where_the_code_begins(opened: Open, prefix: str) -> None:
    cache = opened()
    assert move(cache, prefix, "head") == migration.HEAD
    with pytest.raises(Unavailable, match="no revision 'r99'"):
        move(cache, prefix, "r99")


def test_a_newer_cache_is_refused_and_left_alone(postgres: Postgres, opened: Open, prefix: str) -> None:
    opened().put([make_attr()])
    postgres.ask(f"UPDATE {prefix}artstore_version SET version_num = 'r77'")
    with pytest.raises(ConfigError, match="newer artstore") as caught:
        opened()
    assert "rebuilt from the sidecars" in caught.value.cure
    assert postgres.ask(f"SELECT count(*) FROM {prefix}file_metadata") == [(1,)]


def test_nodes_that_start_at_once_make_the_tables_once(opened: Open) -> None:
    with ThreadPoolExecutor(6) as pool:
        caches = list(pool.map(lambda _: opened(), range(6)))
    for cache in caches:
        cache.put([make_attr()])
    assert caches[0].totals().files == 6


def test_dropped_tables_are_made_anew(postgres: Postgres, opened: Open, prefix: str) -> None:
    cache = opened()
    cache.put([make_attr()])
    cache.set_generation("old")
    postgres.ask(f"DROP TABLE {prefix}artstore_version, {prefix}file_metadata, {prefix}totals, {prefix}meta, "
                 f"{prefix}wal, {prefix}wal_owners")  # fmt: skip
    with pytest.raises(Unavailable):
        cache.generation()
    assert cache.generation() is None
    cache.put([make_attr()])
    assert cache.totals().files == 1


def test_what_is_only_looked_at_is_not_made(postgres: Postgres, opened: Open, prefix: str) -> None:
    with pytest.raises(NotFound):
        opened(read_only=True)
    assert postgres.ask(f"SELECT 1 FROM pg_class WHERE relname LIKE '{prefix}%'") == []
    opened().put([make_attr()])
    assert opened(read_only=True).totals().files == 1


# --- mistakes of an operator ---


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("/postgres", "/nowhere"), "no database 'nowhere'"),
        (("hunter2", "hunter3"), "refuses the password"),
        (("postgres:", "nobody:"), "refuses the password"),
        (("127.0.0.1", "no-such-host.invalid"), "no host 'no-such-host.invalid'"),
        (("/postgres", ""), "names no database"),
        (("/postgres", "/postgres?nosuch=1"), 'option "nosuch"\\.\n'),
        (("postgresql", "postgresql+asyncpg"), "not understood"),
    ],
)
def test_a_mistake_in_the_url_is_explained(
    postgres: Postgres, opened: Open, change: tuple[str, str], told: str
) -> None:
    head, _, tail = postgres.url().rpartition(change[0])
    with pytest.raises(ConfigError, match=told) as caught:
        opened(url=head + change[1] + tail)
    assert caught.value.place == "cache.sql.url"
    assert caught.value.cure
    assert "hunter" not in str(caught.value)


def test_a_user_without_rights_is_told(postgres: Postgres, opened: Open, prefix: str) -> None:
    postgres.ask(f"CREATE ROLE {prefix}guest LOGIN PASSWORD 'hunter2'")
    with pytest.raises(ConfigError, match="may not do this") as caught:
        opened(url=postgres.url(user=f"{prefix}guest"))
    assert "GRANT" in caught.value.cure


@pytest.mark.parametrize("wrong", ["a" * 60, 'a"b', "a'b", "a b", "a;b", "Ü", "1a"])
def test_a_prefix_that_cannot_be_is_refused(opened: Open, wrong: str) -> None:
    with pytest.raises(ValidationError, match="must be a-z"):
        opened(table_prefix=wrong)


def test_the_longest_prefix_fits(postgres: Postgres, opened: Open) -> None:
    long = "p" * 40
    opened(table_prefix=long).put([make_attr(tags=("t",))])
    (names,) = zip(*postgres.ask(f"SELECT relname FROM pg_class WHERE relname LIKE '{long}%'"), strict=True)
    assert f"{long}file_metadata" in names
    assert f"{long}wal" in names


def test_no_prefix_is_none(postgres: Postgres, opened: Open) -> None:
    postgres.ask("CREATE DATABASE alone")
    cache = opened(url=postgres.url("alone"), table_prefix="")
    cache.put([make_attr(size=7)])
    cache.put([make_attr(size=8)])
    assert cache.totals() == Totals(2, 15)
    assert move(cache, "", "base") is None
    assert (
        postgres.ask("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace", "alone") == []
    )
    assert move(cache, "", "head") == migration.HEAD


def test_two_prefixes_share_a_database(opened: Open) -> None:
    one, two = opened(table_prefix="se_a_"), opened(table_prefix="se_b_")
    attr = make_attr()
    one.put([attr])
    one.set_generation("one")
    assert two.totals() == Totals(0, 0)
    assert two.generation() is None
    two.clear()
    assert one.search(Query(words=("report",))).items == [attr]


# --- many rows ---


@pytest.mark.parametrize("few", [FEW, 10])
def test_common_and_rare_conditions_find_the_same_rows(
    opened: Open, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artstore_sql.postgres.search.FEW", few)
    cache, memory = opened(), MemoryCache()
    attrs = [
        make_attr(
            description="common"
            + (" seldom" if n % 900 == 0 else "")
            + (" now and then" if n % 40 == 0 else ""),
            tags=("all", "some") if n % 1000 == 0 else ("all",),
            size=n % 97,
            original_filename=f"{n % 89}.txt",
            uploaded_by="rare" if n % 1500 == 0 else "most",
            uploaded_at=f"2025-01-11T15:30:{n % 60:02}.000Z",
        )
        for n in range(WALK * 3)
    ]
    cache.put(attrs)
    memory.put(attrs)
    conditions: list[dict[str, Any]] = [
        {}, {"words": ("common",)}, {"words": ("seldom", "common")}, {"words": ("om",)}, {"words": ("then",)},
        {"words": ("then", "and")}, {"words": ("common", "seldom", "absent")},
        {"tags": ("all", "some")}, {"uploaded_by": "rare"}, {"min_size": 3, "max_size": 3},
        {"uploaded_by": "most", "words": ("common",), "tags": ("all",), "min_size": 0},
        {"filename": "5.txt", "sha256": "0" * 64}, {"uploaded_after": "2025-01-11T15:30:20.000Z"},
    ]  # fmt: skip
    for condition in conditions:
        for sort in SORTS:
            for descending in (True, False):
                query: dict[str, Any] = {"sort": sort, "descending": descending, "limit": 60} | condition
                found, wanted = cache.search(Query(**query)), memory.search(Query(**query))
                assert (ids(found.items), found.next) == (ids(wanted.items), wanted.next), query
                if found.next is not None:
                    rest = Query(**query, after=found.next)
                    assert ids(cache.search(rest).items) == ids(memory.search(rest).items), query


def test_nodes_that_write_the_same_rows_do_not_wait_in_a_circle(opened: Open) -> None:
    caches = [opened() for _ in range(3)]
    attrs = [make_attr(size=1) for _ in range(300)]

    def write(n: int) -> None:
        caches[n % 3].put(attrs if n % 2 else attrs[::-1])
        caches[n % 3].remove(ids(attrs[n::7]))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(24)))
    caches[0].put(attrs)
    assert caches[1].totals() == Totals(300, 300)


def test_a_statement_without_end_is_ended(opened: Open) -> None:
    cache = opened(timeout=0.5)
    with pytest.raises(Unavailable, match=r"did not answer|does not answer"):
        cache._database.read(lambda c: c.execute(text("SELECT pg_sleep(60)")))
    cache.put([make_attr()])
