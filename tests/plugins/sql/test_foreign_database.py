"""What artstore did not make is left as it is, whoever named it: not a byte changes, and nothing is made beside it."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from artstore.errors import ConfigError, Unavailable
from artstore.spi import Context, Query, Totals
from artstore.testing.attrs import make_attr
from artstore_sql.settings import SqlSettings
from artstore_sql.sqlite.cache import SqlCache
from artstore_sql.sqlite.first_page import APPLICATION_ID, read_first_page
from support import servers
from support.stores import opening

Open = Callable[..., SqlCache]
Lay = Callable[[Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that `cache.sql.url` names, in a directory of somebody else."""
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs" / "notes.db"


@pytest.fixture
def opened(tmp_path: Path, path: Path) -> Iterator[Open]:
    def make(*, read_only: bool = False) -> SqlCache:
        home = tmp_path / "home"
        context = Context(home=home, files=home / "files", state=home / "state")
        url = SecretStr(f"sqlite:///{path}")
        return SqlCache(SqlSettings(url=url), replace(context, read_only=read_only))

    with opening(make) as open_it:
        yield open_it


def everything(directory: Path) -> dict[str, Any]:
    """The names below a directory; of a file its bytes and its times."""
    return {
        str(p.relative_to(directory)): (p.read_bytes(), p.stat().st_mtime_ns)
        if p.is_file()
        else p.stat().st_mode
        for p in directory.rglob("*")
    }


def database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def text(path: Path) -> None:
    path.write_text("Mitschrift\n" * 1000)


def short_text(path: Path) -> None:
    path.write_text("x")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(1 << 16))


def foreign_meta(path: Path) -> None:
    database(path, "CREATE TABLE meta (a)", "INSERT INTO meta VALUES (7)")


def foreign_files(path: Path) -> None:
    database(path, "CREATE TABLE files (id, name)", "INSERT INTO files VALUES (1, 'theirs')")


def foreign_alembic(path: Path) -> None:
    database(path, "CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('v1')")


def like_ours(path: Path) -> None:
    """Another program with names as ours."""
    facts = "INSERT INTO meta VALUES ('schema', '1'), ('words', 'none')"
    tables = ("files (id)", "tags (tag, file)", "totals (files, size)", "artstore_version (version_num)")
    database(path, "CREATE TABLE meta (name, value)", facts, *(f"CREATE TABLE {table}" for table in tables))


def of_another_program(path: Path) -> None:
    database(path, "PRAGMA application_id = 1196444487", "CREATE TABLE features (id)")


def in_a_wal(path: Path) -> None:
    """All of its tables are in the WAL: a program that used it was killed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (a)")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", path.with_name(f"copy{suffix}"))
    for suffix in ("", "-wal"):
        path.with_name(f"copy{suffix}").rename(f"{path}{suffix}")


def wal_alone(path: Path) -> None:
    """Its database was moved away for a moment."""
    in_a_wal(path)
    path.unlink()


def with_rows(path: Path) -> None:
    rows = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) SELECT i, hex(randomblob(20)) FROM n"
    database(path, "CREATE TABLE files (id, name)", f"INSERT INTO files {rows}")


def directory(path: Path) -> None:
    path.mkdir()


def full_directory(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("theirs")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def foreign_lock(path: Path) -> None:
    path.with_name("notes.db.lock").write_text("the lock of another program, with what it needs\n" * 9)


FOREIGN = [
    text, short_text, zeros, foreign_meta, foreign_files, foreign_alembic, like_ours, of_another_program, in_a_wal,
    wal_alone, with_rows, directory, full_directory, pipe, foreign_lock,
]  # fmt: skip


@pytest.mark.parametrize("lay", FOREIGN)
def test_a_foreign_file_is_refused_and_left_as_it_is(path: Path, opened: Open, lay: Lay) -> None:
    lay(path)
    before = everything(path.parent)
    for _ in range(2):
        with pytest.raises(ConfigError, match="not of artstore's making") as caught:
            opened()
        assert caught.value.place == "cache.sql.url"
        assert everything(path.parent) == before


@pytest.mark.parametrize("lay", [one for one in FOREIGN if one not in (wal_alone, foreign_lock)])
def test_a_command_that_reads_leaves_a_foreign_file_as_it_is(path: Path, opened: Open, lay: Lay) -> None:
    lay(path)
    before = everything(path.parent)
    with pytest.raises(ConfigError, match="not of artstore's making"):
        opened(read_only=True)
    assert everything(path.parent) == before


@pytest.mark.parametrize("lay", [text, foreign_files, full_directory])
def test_a_foreign_file_that_replaces_the_cache_in_service_is_left_as_it_is(
    path: Path, opened: Open, lay: Lay, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened()
    cache.put([make_attr()])
    os.rename(path, path.with_name("moved"))
    lay(path)
    theirs = everything(path) if path.is_dir() else path.read_bytes()
    for call in (lambda: cache.search(Query()), lambda: cache.put([make_attr()]), cache.check):
        with pytest.raises(Unavailable) as caught:
            call()
        assert str(path) not in caught.value.detail
    assert (everything(path) if path.is_dir() else path.read_bytes()) == theirs
    assert f"{path} is not of artstore's making" in caplog.text
    cache.close()
    assert (everything(path) if path.is_dir() else path.read_bytes()) == theirs


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_an_element_whose_cache_names_a_foreign_file_ends_with_78(
    tmp_path: Path, path: Path, adapter: str
) -> None:
    foreign_files(path)
    before = everything(path.parent)
    url = {"CACHE__SQL__URL": f"sqlite:///{path}"}
    run = servers.artstore(tmp_path / "home", "serve", "--adapter", adapter, settings=url)
    assert (run.returncode, "not of artstore's making" in run.stderr) == (78, True), run
    assert everything(path.parent) == before


# --- what is ours ---


def test_a_new_cache_has_the_id_from_its_first_transaction_on(path: Path, opened: Open) -> None:
    cache = opened()
    assert read_first_page(path).is_marked
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    cache.close()


def test_a_start_that_died_while_it_made_the_tables_is_no_obstacle(path: Path, opened: Open) -> None:
    database(path, "PRAGMA journal_mode = WAL")
    assert path.stat().st_size > 0
    opened().put([make_attr()])


def test_a_start_that_died_before_its_first_checkpoint_is_no_obstacle(path: Path, opened: Open) -> None:
    """The id is in the WAL alone."""
    killed = (
        "import os, sys, sqlite3; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA journal_mode = WAL'); c.execute('BEGIN');"
        "c.execute(f'PRAGMA application_id = {sys.argv[2]}');"
        "c.execute('CREATE TABLE meta (name, value)'); c.execute('COMMIT'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed, str(path), str(APPLICATION_ID)], check=True)
    assert path.read_bytes()[68:72] == bytes(4)
    cache = opened()
    cache.put([make_attr()])
    assert cache.totals().files == 1


def test_an_empty_file_is_filled(path: Path, opened: Open) -> None:
    path.touch()
    opened().put([make_attr()])


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def garbage_at_the_begin(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(4096))


def garbage_behind_the_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))


@pytest.mark.parametrize("damage", [cut, garbage_at_the_begin, garbage_behind_the_header])
def test_a_damaged_cache_of_ours_is_put_aside_and_replaced(path: Path, opened: Open, damage: Lay) -> None:
    cache = opened()
    cache.put([make_attr(size=n) for n in range(300)])
    cache.close()
    damage(path)
    damaged = path.read_bytes()
    assert opened().totals() == Totals(0, 0)
    (aside,) = path.parent.glob("notes.db.broken-*")
    assert aside.read_bytes() == damaged


@pytest.mark.parametrize("damage", [cut, garbage_behind_the_header])
def test_a_damaged_copy_of_a_cache_of_ours_is_put_aside_and_replaced(
    path: Path, opened: Open, damage: Lay
) -> None:
    """It was copied to another machine without what lies beside it."""
    opened().close()
    path.rename(path.with_name("kept"))
    for beside in path.parent.glob("notes.db*"):
        beside.unlink()
    shutil.copy(path.with_name("kept"), path)
    damage(path)
    assert opened().totals() == Totals(0, 0)
    assert len(list(path.parent.glob("notes.db.broken-*"))) == 1


def test_a_cache_of_an_early_version_is_put_aside_and_replaced(path: Path, opened: Open) -> None:
    """It has no id: that artstore closed it is recorded beside it."""
    cache = opened()
    cache.put([make_attr()])
    cache.close()
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(68)
        file.write(bytes(4))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert opened().totals() == Totals(0, 0)
    assert len(list(path.parent.glob("notes.db.broken-*"))) == 1


def test_of_what_lies_beside_the_cache_only_its_broken_ones_are_deleted(path: Path, opened: Open) -> None:
    beside = {
        "notes.db.broken-keep": "an operator's copy",
        "notes.db.broken-keep-wal": "and its WAL",
        "notes.db.broken-20250101T000000.000000Z": "a text with a name as ours",
        "notes.db.broken-20250101T000000.000000Z-wal": "and what lies beside it",
        "notes.db-journal.txt": "x",
        "notes.db.bak": "x",
        "other.db.broken-20250101T000000.000000Z": "of another cache",
    }
    for name, content in beside.items():
        path.with_name(name).write_text(content)
    cache = opened()
    for _ in range(3):
        cache.put([make_attr()])
        path.with_name("notes.db.doubt").touch()
        assert cache.totals().files == 0
    assert {name: path.with_name(name).read_text() for name in beside} == beside
    aside = [p for p in path.parent.glob("notes.db.broken-2*Z") if p.name not in beside]
    assert len(aside) == 1


# --- two elements ---


def test_a_second_element_that_names_the_same_file_is_refused(path: Path, opened: Open) -> None:
    first, attr = opened(), make_attr()
    first.claim("se-one")
    first.put([attr])
    first.set_generation("one")
    second = opened()
    with pytest.raises(ConfigError, match="belongs to element 'se-one', not to 'se-two'") as caught:
        second.claim("se-two")
    assert caught.value.cure
    assert first.search(Query()).items == [attr]
    assert first.generation() == "one"
    third = opened()
    third.claim("se-one")
    assert third.totals().files == 1


def test_a_cache_that_is_cleared_or_replaced_keeps_its_element(path: Path, opened: Open) -> None:
    first = opened()
    first.claim("se-one")
    first.clear()
    with pytest.raises(ConfigError, match="se-one"):
        opened().claim("se-two")
    path.with_name("notes.db.doubt").touch()
    assert first.totals().files == 0
    with pytest.raises(ConfigError, match="se-one"):
        opened().claim("se-two")


def test_a_claim_that_waits_for_a_locked_cache_is_made_before_its_first_use(
    path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("artstore_sql.sqlite.availability.PAUSE", 0.0)
    first = opened()
    first.claim("se-one")
    first.put([make_attr()])
    second = opened()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr("artstore_sql.sqlite.locks._open", fail)
        second.claim("se-two")
    for call in (second.totals, lambda: second.put([make_attr()]), second.clear):
        with pytest.raises(Unavailable):
            call()
    assert first.totals().files == 1
    assert "belongs to element 'se-one'" in caplog.text


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_a_second_element_that_names_the_same_file_ends_with_78(
    tmp_path: Path, path: Path, adapter: str
) -> None:
    url = {"CACHE__SQL__URL": f"sqlite:///{path}"}
    with servers.serving(adapter, tmp_path / "one", settings=url) as element:
        made = element.upload(b"first")
        run = servers.artstore(tmp_path / "two", "serve", "--adapter", adapter, settings=url)
        assert (run.returncode, "The cache belongs to element" in run.stderr) == (78, True), run
        assert [one["file_id"] for one in element.get("/api/v1/files").json()["items"]] == [made["file_id"]]
