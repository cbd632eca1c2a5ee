"""What the suite cannot ask of every cache: files, locks, processes, plans of SQLite."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import Connection, Select, create_engine, text

from artstore.errors import ConfigError, Conflict, NotFound, Unavailable
from artstore.host.boot import open_default
from artstore.spi import Context, Cursor, Query, Sort, Totals
from artstore.testing.attrs import make_attr
from artstore.testing.cache import SORTS, cursor_of, ids, pages
from artstore.testing.memory_cache import MemoryCache
from artstore_sql import migration
from artstore_sql.fts5 import has_trigram
from artstore_sql.provider import Sql
from artstore_sql.sqlite.cache import SqlCache
from artstore_sql.sqlite.conditions import conditions
from artstore_sql.sqlite.database import LONG_WAL, READERS, Sqlite
from artstore_sql.sqlite.file_system import file_system
from artstore_sql.sqlite.integrity import Integrity
from artstore_sql.sqlite.search import fewest, filter_by_ids, scan_in_order
from artstore_sql.tables import SCHEMA, Tables
from support.stores import opening

Open = Callable[..., SqlCache]


class WithoutTrigrams(SqlCache):
    trigram = False


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens caches on one file; all are closed in the end."""

    def make(kind: type[SqlCache] = SqlCache, **changes: Any) -> SqlCache:
        return kind(SqlCache.Settings(**changes), context(tmp_path))

    with opening(make) as open_it:
        yield open_it


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cache.db"


def context(home: Path) -> Context:
    return Context(home=home, files=home / "files", state=home / "state")


def raw(path: Path, *statements: str) -> list[Any]:
    """What a stranger finds, and does so that nobody notices."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found = [connection.execute(one).fetchall() for one in statements]
    Integrity(path).forget_stamp()
    return found


def broken(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.glob("*.broken-*") if not p.name.endswith("-wal"))


# --- processes ---

WORKER = """
import sys, threading
from pathlib import Path
from artstore.spi import Context, Query
from artstore.testing.attrs import make_attr
from artstore_sql import migration
from artstore_sql.sqlite.cache import SqlCache
from artstore_sql.sqlite.conditions import conditions

home, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
cache = SqlCache(SqlCache.Settings(timeout=60), Context(home=home, files=home / "files", state=home / "state"))

def work(thread):
    for n in range(25):
        attr = make_attr(file_id=f"0194567e-8c3a-7d21-{int(name):04x}-{thread:04x}{n:08x}", size=1,
                         uploaded_by=name, tags=(f"t{n}",))
        cache.put([attr])
        assert cache.search(Query(tags=(f"t{n}",), uploaded_by=name)).items
        if n % 5 == 0:
            cache.remove([attr.file_id])
        if n % 10 == 0:
            cache.flush()

threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print("done", cache.totals().files, flush=True)
sys.stdin.readline()
cache.close()
"""


def spawn(code: str, *args: object) -> subprocess.Popen[str]:
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_open_and_write_a_fresh_database_at_once(tmp_path: Path, path: Path, opened: Open) -> None:
    processes = [spawn(WORKER, tmp_path, n) for n in range(3)]
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            assert hear(process) == "ready"
        for process in processes:
            tell(process)
        for process in processes:
            assert hear(process).startswith("done")
        for process in processes:
            tell(process)
            assert process.wait() == 0
    assert not path.with_name("cache.db-wal").exists()
    assert opened().totals() == Totals(3 * 4 * 20, 3 * 4 * 20)
    assert raw(path, "PRAGMA integrity_check") == [[("ok",)]]
    assert broken(path) == []


def test_a_killed_writer_leaves_its_rows_and_no_lock(tmp_path: Path, path: Path, opened: Open) -> None:
    with spawn(WORKER, tmp_path, 1) as process:
        hear(process)
        tell(process)
        assert hear(process) == "done 80"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.with_name("cache.db-wal").stat().st_size > 0
    cache = opened()
    assert cache.totals().files == 80
    cache.put([make_attr()])
    assert broken(path) == []


HOLDER = """
import sys, time
from pathlib import Path
from artstore_sql.sqlite.locks import exclusive
with exclusive(Path(sys.argv[1]), time.monotonic() + 60):
    print("held", flush=True)
    sys.stdin.readline()
print("free", flush=True)
sys.stdin.readline()
"""


def test_a_neighbour_that_holds_the_lock_costs_the_deadline_and_no_more(path: Path, opened: Open) -> None:
    cache = opened(timeout=0.3)
    late, before, after = make_attr(), make_attr(), make_attr()
    cache.put([before])
    with spawn(HOLDER, path) as process:
        assert hear(process) == "held"
        for call in (lambda: cache.put([late]), cache.flush, cache.check, cache.clear):
            with pytest.raises(Unavailable):
                call()
        assert cache.search(Query()).items == [before]
        process.send_signal(signal.SIGKILL)
        process.wait()
    cache.put([after])
    assert cache.key(late.file_id) is None
    assert cache.totals().files == 2


def test_closing_waits_for_no_stuck_neighbour(path: Path, opened: Open) -> None:
    cache = opened(timeout=0.3)
    with spawn(HOLDER, path) as process:
        assert hear(process) == "held"
        with pytest.raises(Unavailable):
            cache.put([make_attr()])
        cache.close()
        tell(process)
        assert hear(process) == "free"
        tell(process)


def test_nothing_is_open_and_no_thread_runs_before_the_first_call(path: Path, opened: Open) -> None:
    threads = threading.active_count()
    cache = opened()
    held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert [name for name in held if name.startswith(str(path))] == [f"{path}.alive"]
    assert threading.active_count() == threads
    cache.put([make_attr()])
    assert threading.active_count() == threads + 1
    cache.close()
    assert threading.active_count() == threads


def test_the_offer_imports_nothing_heavy() -> None:
    code = "import sys, artstore_sql.plugin as p; print(p.artstore_caches()[0].target, 'sqlalchemy' in sys.modules)"
    with spawn(code) as process:
        assert hear(process) == "artstore_sql.provider:Sql False"


# --- broken, old and new files ---


def fill(cache: SqlCache, rows: int = 200) -> None:
    cache.put([make_attr(description=f"text {n} " * 20) for n in range(rows)])
    cache.set_generation("filled")
    cache.close()


def test_a_file_that_is_no_database_is_put_aside(
    path: Path, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all\n" * 500)
    cache = opened()
    assert cache.generation() is None
    cache.put([make_attr()])
    (aside,) = broken(path)
    assert aside.read_bytes().startswith(b"this is no database")
    assert "put aside" in caplog.text


def test_damage_is_looked_for_after_a_fall(path: Path, opened: Open) -> None:
    fill(opened())
    with open(path, "r+b") as file:
        for page in range(2, 30):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    # The trace of a fall: a WAL that nobody took along.
    path.with_name("cache.db-wal").write_bytes(b"\0" * 100)
    cache = opened()
    assert cache.generation() is None
    assert cache.totals() == Totals(0, 0)
    assert len(broken(path)) == 1


def rot(path: Path) -> None:
    """The disk forgets, and no file system notices."""
    before = path.stat()
    with open(path, "r+b") as file:
        for page in range(1, before.st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_damage_met_in_service_is_told_once_and_mended(path: Path, opened: Open) -> None:
    fill(opened())
    cache, neighbour = opened(), opened()
    rot(path)
    with pytest.raises(Unavailable):
        cache.search(Query())
    assert neighbour.generation() is None
    assert cache.generation() is None
    cache.put([make_attr()])
    assert neighbour.totals().files == 1
    assert len(broken(path)) == 1


def copied_over(path: Path, older: bytes) -> None:
    path.write_bytes(older)


def renamed_over(path: Path, older: bytes) -> None:
    path.with_name("older").write_bytes(older)
    path.with_name("older").rename(path)


def with_nothing_beside_it(path: Path, older: bytes) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    path.write_bytes(older)


def cut(path: Path, _older: bytes) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path, _older: bytes) -> None:
    os.truncate(path, 0)


def flipped(path: Path, _older: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"x")


def without_wal(path: Path, _older: bytes) -> None:
    path.with_name("cache.db-wal").unlink()


def without_shm(path: Path, _older: bytes) -> None:
    path.with_name("cache.db-shm").unlink()


def a_directory(path: Path, _older: bytes) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [
    copied_over,
    renamed_over,
    with_nothing_beside_it,
    cut,
    emptied,
    flipped,
    without_wal,
    without_shm,
    a_directory,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_somebody_else_changed_in_service_is_begun_anew(
    path: Path, opened: Open, change: Callable[[Path, bytes], None]
) -> None:
    fill(opened(), rows=20)
    older = path.read_bytes()
    cache, neighbour = opened(), opened()
    cache.put([make_attr(), make_attr()])
    assert neighbour.totals().files == 22
    change(path, older)
    for one in (cache, neighbour):
        try:
            assert one.generation() is None
        except Unavailable:
            assert one.generation() is None
    attr = make_attr()
    neighbour.put([attr])
    assert cache.search(Query()).items == [attr]
    assert len(broken(path)) == 1
    assert raw(path, "PRAGMA integrity_check") == [[("ok",)]]


def test_a_wal_that_is_cut_off_in_service_is_begun_anew(path: Path, opened: Open) -> None:
    fill(opened(), rows=20)
    cache, neighbour = opened(), opened()
    cache.put([make_attr()])
    os.truncate(path.with_name("cache.db-wal"), 0)
    for one in (cache, neighbour):
        with suppress(Unavailable):
            one.search(Query())  # what it has in memory it may still answer
        with suppress(Unavailable):
            one.search(Query(words=("absent",)))
    assert cache.generation() is None
    assert neighbour.generation() is None
    assert len(broken(path)) == 1


def test_a_check_writes(path: Path, opened: Open) -> None:
    """Or a cache that has no room would be called ready."""
    cache = opened()
    wal = path.with_name("cache.db-wal")
    before = wal.read_bytes() if wal.exists() else b""
    cache.check()
    cache.check()
    assert wal.read_bytes() != before
    assert len(raw(path, "SELECT value FROM meta WHERE name = 'checked'")[0]) == 1


@pytest.mark.parametrize("change", [c for c in CHANGES if c not in (without_wal, without_shm)])
@pytest.mark.parametrize("fell", [False, True])
def test_a_file_that_somebody_else_changed_while_stopped_is_begun_anew(
    tmp_path: Path, path: Path, opened: Open, change: Callable[[Path, bytes], None], fell: bool
) -> None:
    fill(opened(), rows=20)
    older = path.read_bytes()
    if fell:
        with spawn(WORKER, tmp_path, 1) as process:
            hear(process)
            tell(process)
            assert hear(process) == "done 100"
            process.send_signal(signal.SIGKILL)
            process.wait()
    elif change is with_nothing_beside_it:
        change = copied_over
    change(path, older)
    assert opened().generation() is None


def damage_one_page(path: Path) -> None:
    """Damage a page that no start needs, so that no stat shows it."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(before.st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("power_cut", [False, True])
def test_the_whole_file_is_looked_through_after_a_power_cut_alone(
    tmp_path: Path, path: Path, opened: Open, power_cut: bool
) -> None:
    """A killed process leaves what it wrote, so a start after it need not read a file of any size."""
    fill(opened(), rows=500)
    with spawn(WORKER, tmp_path, 1) as process:
        hear(process)
        tell(process)
        assert hear(process).startswith("done")
        process.send_signal(signal.SIGKILL)
        process.wait()
    damage_one_page(path)
    if power_cut:
        path.with_name("cache.db.lock").write_text("another-boot ?")
    assert opened().generation() == (None if power_cut else "filled")
    assert len(broken(path)) == power_cut


NODE = """
import os, sys
from pathlib import Path
from artstore.host.boot import open_default
from support.uploads import BY, upload

kernel = open_default(Path(sys.argv[1])).kernel
for n in range(30):
    upload(kernel, b"x", f"{n}.txt")
kernel.begin(BY, filename="half.txt").write(b"half")
print("killed now", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_start_after_kill_9_neither_rebuilds_the_index_nor_reads_the_whole_cache(
    tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture, power_cut: bool
) -> None:
    """At a million files each of the two takes minutes. `bench/many_files.py` measures it."""
    open_default(tmp_path).close()
    with spawn(NODE, tmp_path) as process:
        assert hear(process) == "killed now"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.with_name("cache.db-wal").stat().st_size > 0
    inode = path.stat().st_ino
    if power_cut:
        path.with_name("cache.db.lock").write_text("another-boot ?")
    node = open_default(tmp_path)
    with closing(node):
        assert not node.report.rebuilt
        assert node.report.undone == 1
        assert node.kernel.index.totals().files == 30
    assert ("quick_check" in caplog.text) == power_cut
    assert path.stat().st_ino == inode
    assert broken(path) == []


def test_damage_after_a_power_cut_is_found_again_by_the_next_start(
    tmp_path: Path, path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the start that found it could not put the file aside."""
    monkeypatch.setattr("artstore_sql.sqlite.availability.PAUSE", 0.0)
    fill(opened(), rows=500)
    with spawn(WORKER, tmp_path, 1) as process:
        hear(process)
        tell(process)
        assert hear(process).startswith("done")
        process.send_signal(signal.SIGKILL)
        process.wait()
    damage_one_page(path)
    path.with_name("cache.db.lock").write_text("another-boot ?")

    def fail(_old: object, _new: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(Unavailable):
            opened().generation()
    assert opened().generation() is None
    assert len(broken(path)) == 1


def test_two_processes_that_meet_the_same_damage_replace_the_cache_once(path: Path, opened: Open) -> None:
    """A second replacement would make the element rebuild its index a second time."""
    fill(opened())
    first, second = opened(), opened()
    rot(path)
    for cache in (first, second):
        with pytest.raises(Unavailable), cache._database.reading() as connection:
            connection.execute(text("SELECT attr FROM files")).all()
    assert first.generation() is None
    first.put([make_attr()])
    assert second.totals().files == 1
    second.put([make_attr()])
    second.flush()
    assert first.totals().files == 2


@pytest.mark.parametrize("record", ["nonsense", "boot 1 2", "boot 1 2 x", "\0" * 100])
def test_a_cache_whose_record_cannot_be_read_is_replaced(path: Path, opened: Open, record: str) -> None:
    fill(opened())
    path.with_name("cache.db.lock").write_text(record)
    assert opened().generation() is None
    assert len(broken(path)) == 1


def test_what_neighbours_do_and_a_move_to_another_disk_are_no_change(
    tmp_path: Path, path: Path, opened: Open
) -> None:
    fill(opened())
    cache, neighbour = opened(), opened()
    for n in range(5):
        cache.put([make_attr()])
        cache.flush()
        neighbour.put([make_attr()])
        assert neighbour.generation() == cache.generation() == "filled", n
        neighbour.flush()
    cache.close()
    neighbour.put([make_attr()])
    neighbour.close()
    os.rename(path, tmp_path / "elsewhere")
    shutil.copy2(tmp_path / "elsewhere", path)
    assert opened().generation() == "filled"
    assert broken(path) == []


def test_a_cache_that_cannot_be_opened_at_start_is_opened_later(
    path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artstore_sql.sqlite.availability.PAUSE", 0.0)
    path.parent.mkdir()
    path.with_name("cache.db.lock").mkdir()
    with pytest.raises(Unavailable):
        opened().check()
    cache = opened()
    for call in (
        cache.check,
        cache.generation,
        lambda: cache.put([make_attr()]),
        lambda: cache.search(Query()),
        cache.flush,
    ):
        with pytest.raises(Unavailable):
            call()
    path.with_name("cache.db.lock").rmdir()
    cache.put([make_attr()])
    assert cache.totals().files == 1
    assert cache.generation() is None


def test_of_the_broken_ones_the_last_is_kept(path: Path, opened: Open) -> None:
    cache = opened()
    for _ in range(3):
        cache.put([make_attr()])
        path.with_name("cache.db.doubt").touch()
        assert cache.totals().files == 0
    assert len(broken(path)) == 1


def test_a_row_that_is_no_attr_is_told_and_mended(path: Path, opened: Open) -> None:
    cache = opened()
    cache.put([make_attr()])
    raw(path, """UPDATE files SET attr = '{"file_id": 1}'""")
    with pytest.raises(Unavailable):
        cache.search(Query())
    assert cache.generation() is None
    assert len(broken(path)) == 1


def test_a_neighbour_follows_to_the_new_file(path: Path, opened: Open) -> None:
    first = opened()
    first.put([make_attr()])
    path.with_name("cache.db.doubt").touch()
    second = opened()
    assert len(broken(path)) == 1
    assert first.totals() == second.totals() == Totals(0, 0)
    attr = make_attr()
    first.put([attr])
    assert second.search(Query()).items == [attr]
    # The connections to the old file were closed: that must not have taken the new WAL along.
    second.put([make_attr()])
    second.flush()
    assert path.with_name("cache.db-wal").exists()
    assert raw(path, "SELECT count(*) FROM files") == [[(2,)]]


def test_what_a_neighbour_cleared_is_written_again(path: Path, opened: Open) -> None:
    first, second = opened(), opened()
    for n in range(20):
        first.clear()
        assert second.search(Query()).items == []
        if n % 3:
            first.clear()
        attr = make_attr(tags=("t",))
        second.put([attr])
        assert first.search(Query(words=("report",), tags=("t",))).items == [attr]
    assert raw(path, "PRAGMA integrity_check") == [[("ok",)]]


def test_a_file_deleted_in_service_is_made_anew_without_a_mark(path: Path, opened: Open) -> None:
    cache = opened()
    cache.put([make_attr()])
    cache.set_generation("filled")
    for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
        path.with_name(name).unlink()
    with pytest.raises(Unavailable):
        cache.set_generation("still filled", if_match="filled")
    assert cache.generation() is None
    cache.put([make_attr()])
    assert opened().totals().files == 1


def test_a_stale_wal_beside_a_deleted_database_is_harmless(path: Path, opened: Open) -> None:
    cache = opened()
    cache.put([make_attr()])
    wal = path.with_name("cache.db-wal").read_bytes()
    cache.close()
    path.unlink()
    path.with_name("cache.db-wal").write_bytes(wal)
    assert opened().totals() == Totals(0, 0)


def test_a_failed_fsync_is_final(path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened()
    cache.put([make_attr()])

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Unavailable):
            cache.flush()
    with pytest.raises(Unavailable):
        cache.set_generation("cannot be kept", if_match="filled")
    assert cache.generation() is None
    cache.close()
    assert opened().generation() is None
    assert len(broken(path)) == 1


def test_a_newer_schema_is_left_alone(path: Path, opened: Open) -> None:
    fill(opened())
    raw(path, f"UPDATE meta SET value = '{SCHEMA + 1}' WHERE name = 'schema'")
    with pytest.raises(ConfigError) as caught:
        opened()
    assert "Delete it" in caught.value.cure
    assert raw(path, "SELECT count(*) FROM files") == [[(200,)]]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE meta SET value = '0' WHERE name = 'schema'",
        "UPDATE meta SET value = 'x' WHERE name = 'schema'",
        "DELETE FROM meta WHERE name = 'schema'",
        "DROP TABLE meta",
        "ALTER TABLE meta RENAME COLUMN value TO other",
    ],
)
def test_an_older_or_unknown_schema_is_begun_anew(path: Path, opened: Open, change: str) -> None:
    fill(opened())
    raw(path, change)
    cache = opened()
    assert cache.generation() is None
    assert cache.totals() == Totals(0, 0)
    attr = make_attr()
    cache.put([attr])
    assert cache.search(Query(words=("report",))).items == [attr]


def moved(home: Path, target: str | None) -> str | None:
    return Sql.migrate(SqlCache.Settings(timeout=60), context(home), target)


def test_down_and_up_again_on_data(tmp_path: Path, path: Path, opened: Open) -> None:
    assert moved(tmp_path, None) is None
    cache = opened()
    attrs = [make_attr(size=n, tags=(f"t{n % 3}",), description=f"договор {n}") for n in range(300)]
    cache.put(attrs)
    cache.set_generation("kept")
    cache.close()
    assert moved(tmp_path, None) == migration.HEAD
    again = opened()
    assert again.generation() == "kept"
    assert again.search(Query(words=("ДОГОВОР 77",))).items == [attrs[77]]
    again.close()
    assert moved(tmp_path, "base") is None
    left = (
        "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%' AND name NOT LIKE '%artstore_version%'"
    )
    assert raw(path, left) == [[]]
    assert moved(tmp_path, "head") == migration.HEAD
    assert opened().generation() is None


@pytest.mark.parametrize("target", ["base", "-1", "head"])
def test_while_the_element_runs_its_schema_stays(
    tmp_path: Path, path: Path, opened: Open, target: str
) -> None:
    cache = opened()
    attr = make_attr()
    cache.put([attr])
    with pytest.raises(Conflict, match="running"):
        moved(tmp_path, target)
    assert moved(tmp_path, None) == migration.HEAD
    assert cache.search(Query()).items == [attr]
    cache.close()
    assert moved(tmp_path, "-1") is None


def test_the_revisions_together_make_what_a_new_cache_is_made_of(
    tmp_path: Path, path: Path, opened: Open
) -> None:
    def made(of: Path) -> set[tuple[str, str]]:
        (rows,) = raw(of, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {(name, "".join(sql.split())) for name, sql in rows if name != "artstore_version"}

    opened().close()
    engine = create_engine(f"sqlite:///{tmp_path / 'steps.db'}")
    with engine.begin() as connection:
        assert migration.move(connection, "", "head") == migration.HEAD
    engine.dispose()
    assert made(tmp_path / "steps.db") == made(path)
    facts = (
        "SELECT * FROM meta WHERE name <> 'born' ORDER BY name",
        "SELECT * FROM totals",
        "SELECT * FROM artstore_version",
    )
    assert raw(path, *facts) == raw(tmp_path / "steps.db", *facts)


@pytest.mark.parametrize(
    "change", ["DROP TABLE artstore_version", "UPDATE artstore_version SET version_num = 'r6'"]
)
def test_a_cache_of_a_development_version_is_rebuilt(path: Path, opened: Open, change: str) -> None:
    fill(opened())
    raw(path, change)
    cache = opened()
    assert cache.generation() is None
    assert cache.totals() == Totals(0, 0)
    assert raw(path, "SELECT version_num FROM artstore_version") == [[(migration.HEAD,)]]


def test_a_newer_revision_is_refused(path: Path, opened: Open) -> None:
    fill(opened())
    raw(path, "UPDATE artstore_version SET version_num = 'r77'")
    with pytest.raises(ConfigError, match="newer artstore"):
        opened()
    assert raw(path, "SELECT count(*) FROM files") == [[(200,)]]


# --- words without FTS5 ---


def test_this_sqlite_has_trigrams_or_the_cache_does_without(path: Path, opened: Open) -> None:
    opened()
    assert raw(path, "SELECT value FROM meta WHERE name = 'words'") == [
        [("trigram" if has_trigram() else "none",)]
    ]


def test_a_cache_made_without_trigrams_goes_on_without(path: Path, opened: Open) -> None:
    fill(opened(WithoutTrigrams))
    cache = opened()
    assert cache.generation() == "filled"
    cache.put([make_attr(description="needle")])
    assert len(cache.search(Query(words=("EEDL",))).items) == 1
    cache.clear()
    assert cache.search(Query(words=("needle",))).items == []
    assert broken(path) == []


@pytest.mark.skipif(not has_trigram(), reason="this SQLite lacks FTS5")
def test_a_cache_with_trigrams_gives_way_where_there_are_none(path: Path, opened: Open) -> None:
    fill(opened())
    cache = opened(WithoutTrigrams)
    assert cache.generation() is None
    cache.put([make_attr()])
    assert len(broken(path)) == 1


ALPHABET = st.sampled_from('abcABCßıİIéE\u0301%_"*\\\0\n \ufdd0\ufdd1\ufffe合同я😀')
TEXTS = st.text(ALPHABET, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, max_size=6), words=st.lists(st.text(ALPHABET, max_size=5), max_size=3))
def test_words_mean_what_they_mean_in_memory(
    shared: tuple[SqlCache, MemoryCache], texts: list[str], words: list[str]
) -> None:
    # In these texts alone U+FDD0, U+FDD1 and NUL are the same to SqlCache.
    texts = [t.replace("\ufdd1", "\ufdd0").replace("\0", "\ufdd0") for t in texts]
    words = [w.replace("\ufdd1", "\ufdd0").replace("\0", "\ufdd0") for w in words]
    attrs = [make_attr(original_filename="-", description=t) for t in texts]
    query = Query(words=tuple(words), sort="size", descending=False)
    for cache in shared:
        cache.clear()
        cache.put(attrs)
    assert ids(shared[0].search(query).items) == ids(shared[1].search(query).items)


@pytest.fixture
def shared(opened: Open) -> tuple[SqlCache, MemoryCache]:
    return opened(), MemoryCache()


# --- rows, plans, limits ---


def test_one_refused_row_does_not_fail_its_neighbours(path: Path, opened: Open) -> None:
    cache = opened(timeout=60)
    raw(
        path,
        """CREATE TRIGGER refuse BEFORE INSERT ON files WHEN new.uploaded_by = 'bad'
           BEGIN SELECT RAISE(ABORT, 'refused'); END""",
    )
    attrs = [make_attr(uploaded_by="bad" if n % 8 == 0 else "good") for n in range(64)]

    def put(n: int) -> bool:
        try:
            cache.put([attrs[n]])
        except Unavailable:
            return False
        return True

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(put, range(64))) == [attr.uploaded_by == "good" for attr in attrs]
    assert cache.totals().files == 56


def plan(connection: Connection, rows: Select[tuple[str]]) -> str:
    sql = rows.compile(connection.engine, compile_kwargs={"literal_binds": True})
    return str(connection.execute(text(f"EXPLAIN QUERY PLAN {sql}".replace(":", r"\:"))).all())


def test_common_and_rare_conditions_find_the_same_rows(path: Path, opened: Open) -> None:
    cache, memory = opened(timeout=60), MemoryCache()
    attrs = [
        make_attr(
            description="common"
            + (" seldom" if n % 900 == 0 else "")
            + (" low" if n % 60 < 15 else "")
            + (" bottom" if n % 60 == 0 and n % 97 < 60 else ""),
            tags=("all", "some") if n % 1000 == 0 else ("all",),
            size=n % 97,
            original_filename=f"{n % 89:02}.txt",
            uploaded_by="rare" if n % 1500 == 0 else "most" if n % 5 else "some",
            uploaded_at=f"2025-01-11T15:30:{n % 60:02}.000Z",
        )
        for n in range(3000)
    ]
    cache.put(attrs)
    memory.put(attrs)
    looked_for: list[dict[str, Any]] = [
        {},
        {"words": ("common",)},
        {"words": ("seldom", "common")},
        {"words": ("om",)},
        {"words": ("low",)},
        {"words": ("bottom",)},
        {"words": ("w", "zz")},
        {"words": ("m", "lo"), "uploaded_by": "some"},
        {"tags": ("all",)},
        {"tags": ("all", "some")},
        {"uploaded_by": "most", "words": ("common",), "tags": ("all",), "min_size": 0},
        {"uploaded_by": "rare"},
        {"uploaded_by": "some", "max_size": 20},
        {"min_size": 0, "uploaded_after": "2025-01-11T15:30:00.000Z"},
        {"uploaded_after": "2025-01-11T15:30:10.000Z", "uploaded_before": "2025-01-11T15:30:40.000Z"},
        {"min_size": 3, "max_size": 3, "content_type": "application/pdf"},
        {"filename": "05.txt"},
        {"filename": "05.txt", "sha256": "0" * 64},
    ]
    database, tables = Sqlite(path, 60), Tables("")
    for condition in looked_for:
        for sort in SORTS:
            for descending, limit in ((True, 60), (False, 3)):
                query: dict[str, Any] = {"sort": sort, "descending": descending, "limit": limit, **condition}
                found = cache.search(Query(**query))
                wanted = memory.search(Query(**query))
                assert (ids(found.items), found.next) == (ids(wanted.items), wanted.next), query
                if found.next is None:
                    continue
                rest = Query(**query, after=found.next)
                assert ids(cache.search(rest).items) == ids(memory.search(rest).items), query
                must = list(conditions(tables, rest, indexed=has_trigram()))
                with database.reading() as connection:
                    for end in (None, Cursor(50 if sort == "size" else "2025", attrs[0].file_id)):
                        told = plan(connection, scan_in_order(tables, rest, must, rest.after, end))
                        assert f"files_{sort} (" in told, query
                        assert "TEMP B-TREE FOR" not in told, query
    database.close()


@pytest.mark.parametrize("share", [0.01, 0.03, 0.06, 0.5])
@pytest.mark.parametrize("where", ["first", "last", "everywhere"])
def test_where_in_the_order_the_rows_lie_makes_no_difference(opened: Open, where: str, share: float) -> None:
    """Few or many, near or far: each way to search is taken by one of these."""
    cache, rows = opened(timeout=60), 2000
    some = int(rows * share)
    chosen = {
        "first": range(some),
        "last": range(rows - some, rows),
        "everywhere": range(0, rows, rows // some),
    }
    names = [f"{n:04} {'it' if n in chosen[where] else 'is'}" for n in range(rows)]
    attrs = [make_attr(original_filename=name, size=n // 7) for n, name in enumerate(names)]
    cache.put(attrs)
    for words in (("it",), ("it", "0"), (" it", "i")):
        wanted = [a for a in attrs if all(word in a.original_filename for word in words)]
        for sort in ("original_filename", "size"):
            for at, limit in ((0, 2), (0, 40), (len(wanted) // 2, 2), (len(wanted) // 2, 40)):
                after = cursor_of(wanted[at], sort)
                query = Query(words=words, sort=sort, descending=False, limit=limit, after=after)
                assert cache.search(query).items == wanted[at + 1 : at + 1 + limit], query


def test_equal_names_follow_each_other_by_id_on_every_page(opened: Open) -> None:
    cache = opened(timeout=60)
    some = [make_attr(original_filename=f"{n // 7:02}", description="needle") for n in range(120)]
    between = [make_attr(original_filename=f"{n % 18:02} 1") for n in range(2100)]
    cache.put(random.Random(5).sample(some, 120) + between)
    for descending in (True, False):
        wanted = sorted(some, key=lambda a: (a.original_filename, a.file_id), reverse=descending)
        for limit in (1, 3, 5):
            query = Query(words=("needle",), sort="original_filename", descending=descending, limit=limit)
            found, after = [], None
            while len(found) < len(wanted):
                page = cache.search(replace(query, after=after))
                found += page.items
                after = page.next
                assert found == wanted[: len(found)], (query, after)
            assert after is None


@pytest.mark.parametrize("sort", SORTS)
def test_a_narrow_search_starts_from_the_few(path: Path, opened: Open, sort: Sort) -> None:
    opened().put([make_attr(tags=("t",), description="needle") for _ in range(20)])
    database, tables = Sqlite(path, 60), Tables("")
    assert fewest(1_000_000, Query(limit=100)) == 10_000
    for condition in (
        {"tags": ("t",)},
        {"words": ("needle",)},
        {"words": ("ne",)},
        {"uploaded_by": "ivanov"},
    ):
        after = Cursor(5 if sort == "size" else "2025", make_attr().file_id)
        query = Query(sort=sort, after=after, **condition)
        must = list(conditions(tables, query, indexed=has_trigram()))
        with database.reading() as connection:
            told = plan(connection, filter_by_ids(tables, query, must, "[1, 2]"))
        assert "SEARCH files USING INTEGER PRIMARY KEY" in told
    database.close()


@pytest.mark.skipif(not has_trigram(), reason="this SQLite lacks FTS5")
def test_a_word_of_any_length_that_occurs_nowhere_is_known_by_the_index(path: Path, opened: Open) -> None:
    cache = opened()
    cache.put([make_attr(original_filename="ab", description="", tags=("cd", "e"))])
    cache.put([make_attr(original_filename="fg")])
    database, tables = Sqlite(path, 60), Tables("")

    def known(word: str) -> int:
        must = conditions(tables, Query(words=(word,)), indexed=True)
        (ids_,) = [one.ids for one in must if one.ids is not None]
        with database.reading() as connection:
            return len({row.doc for row in connection.execute(ids_)})

    for word, rows in {
        "a": 1,
        "ab": 1,
        "b": 1,
        "cd": 1,
        "e": 1,
        "d": 1,
        "bc": 0,
        "z": 0,
        "ba": 0,
        "g": 1,
    }.items():
        assert known(word) == rows, word
    cache.put([make_attr(original_filename="g")])
    assert known("g") == 2
    database.close()


def test_the_wal_stays_short_without_a_flush(path: Path, opened: Open) -> None:
    cache = opened(timeout=60)
    written = 0
    for _ in range(8):
        cache.put([make_attr(description="filler " * 100, sha256=os.urandom(32).hex()) for _ in range(1000)])
        written += path.with_name("cache.db-wal").stat().st_size
    assert written > 2 * LONG_WAL
    assert path.with_name("cache.db-wal").stat().st_size <= 3 * LONG_WAL
    assert len(pages(cache, limit=1000)) == 8000


def test_too_many_readers_wait_no_longer_than_the_deadline(path: Path, opened: Open) -> None:
    opened().put([make_attr()])
    database = Sqlite(path, 0.1)
    with ExitStack() as stack:
        for _ in range(READERS):
            stack.enter_context(database.reading())
        with pytest.raises(Unavailable), database.reading():
            pass
    with database.reading():
        pass
    database.close()


def test_a_statement_without_end_is_ended(path: Path, opened: Open) -> None:
    opened().put([make_attr()])
    database = Sqlite(path, 0.1)
    endless = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    with pytest.raises(Unavailable, match=r"did not answer within 0\.1 s"), database.reading() as connection:
        connection.execute(text(endless))
    with database.reading() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    database.close()


def test_a_closed_cache_says_so(opened: Open) -> None:
    cache = opened()
    cache.close()
    for call in (lambda: cache.put([make_attr()]), lambda: cache.search(Query()), cache.flush, cache.check):
        with pytest.raises(Unavailable, match="closed"):
            call()


def test_close_writes_what_is_queued(path: Path, opened: Open) -> None:
    cache = opened(timeout=60)
    lock = os.open(path.with_name("cache.db.lock"), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with ThreadPoolExecutor(9) as pool:
        puts = [pool.submit(cache.put, [make_attr()]) for _ in range(8)]
        while len(cache._writer._queue) < 8:
            time.sleep(0)
        closing_it = pool.submit(cache.close)
        os.close(lock)
        for done in (*puts, closing_it):
            done.result()
    assert opened().totals().files == 8


# --- settings ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"table_prefix": "Upper_"}, {"table_prefix": "1a"}, {"table_prefix": "a" * 41}, {"table_prefix": "a-b"},
        {"table_prefix": "a;"}, {"table_prefix": "é"}, {"table_prefix": "a\n"}, {"timeout": 0},
        {"timeout": "x"}, {"no_such_key": 1},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SqlCache.Settings(**wrong)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://artstore:hunter2@db/artstore", "mysql://a:hunter2@b/c", "hunter2", "", "sqlite://",
        "sqlite:///:memory:", "sqlite:///x.db?mode=hunter2", "sqlite+aiosqlite:///x.db",
        "sqlite+hunter2:///x.db", "sqlite://host/x.db", "sqlite:///file:hunter2.db",
    ],
)  # fmt: skip
def test_a_wrong_url_is_explained_without_being_shown(opened: Open, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(url=url)
    assert caught.value.cure
    assert caught.value.place == "cache.sql.url"
    assert "hunter2" not in str(caught.value)


def test_two_prefixes_share_a_file(opened: Open) -> None:
    one, two = opened(table_prefix="a_"), opened(table_prefix="b_")
    attr = make_attr()
    one.put([attr])
    one.set_generation("one")
    assert two.totals() == Totals(0, 0)
    assert two.generation() is None
    two.clear()
    assert one.search(Query(words=("report",))).items == [attr]


MOUNTS = """/dev/vda / ext4 rw 0 0
server:/x /mnt nfs4 rw 0 0
/dev/vdb /mnt/local xfs rw 0 0
//smb/y /media/with\\040space cifs rw 0 0
tmpfs /over tmpfs rw 0 0
server:/z /over nfs rw 0 0
short
"""


@pytest.mark.parametrize(
    ("where", "type_"),
    [
        ("/a/b", "ext4"), ("/mnt/a", "nfs4"), ("/mntx", "ext4"), ("/mnt/local/a", "xfs"),
        ("/media/with space/a", "cifs"), ("/over/a", "nfs"),
    ],
)  # fmt: skip
def test_the_file_system_of_a_path(where: str, type_: str) -> None:
    assert file_system(Path(where), MOUNTS) == type_


def test_a_network_file_system_is_refused(
    tmp_path: Path, path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The file system of the test plays the part.
    monkeypatch.setattr("artstore_sql.sqlite.cache.UNSAFE", frozenset({file_system(tmp_path.resolve())}))
    with pytest.raises(ConfigError, match="would be damaged"):
        opened()
    assert not path.exists()


def test_a_path_that_cannot_be_is_explained(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        opened(url="sqlite:///file/cache.db")


@pytest.mark.parametrize(
    "change",
    ["size = 7", "storage_filename = 'other'", "words = 'x'", "revision = 9", "attr = '{}'",
     "uploaded_at = '2020-01-01T00:00:00.000Z'", "attr = replace(attr, '\"ivanov\"', '\"petrov\"')"],
)  # fmt: skip
def test_a_row_that_contradicts_itself_is_told(opened: Open, path: Path, change: str) -> None:
    cache, attr = opened(), make_attr()
    cache.put([attr])
    raw(path, f"UPDATE files SET {change}")
    assert list(cache.entries_in(attr.storage_path)) == [(attr.file_id, None)]
    cache.put([attr])
    assert list(cache.entries_in(attr.storage_path)) == [
        (attr.file_id, attr if "revision" not in change else None)
    ]


def test_directories_cost_what_there_are_not_how_many_files(opened: Open, path: Path) -> None:
    opened().put([make_attr()])
    plan = raw(path, "EXPLAIN QUERY PLAN SELECT min(storage_path) FROM files WHERE storage_path > 'x'")
    assert "SEARCH files USING COVERING INDEX files_storage_path" in str(plan)
    plan = raw(
        path, "EXPLAIN QUERY PLAN SELECT * FROM files WHERE storage_path = 'x' AND id > 5 ORDER BY id LIMIT 9"
    )
    assert "files_storage_path (storage_path=? AND rowid>?)" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


def looking(home: Path) -> SqlCache:
    return SqlCache(SqlCache.Settings(), Context(home=home, files=home, state=home / "state", read_only=True))


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def test_looking_leaves_everything_as_it_was(opened: Open, path: Path, tmp_path: Path) -> None:
    attr, later = make_attr(), make_attr(storage_path="2025/01/11/16")
    cache = opened()
    cache.put([attr])
    cache.close()
    before = contents(path.parent)
    looker = looking(tmp_path)
    assert dict(looker.entries_in(attr.storage_path)) == {attr.file_id: attr}
    assert contents(path.parent) == before
    served = opened()
    served.put([later])  # an element that starts meanwhile is seen, too
    assert list(looker.list_directories()) == [attr.storage_path, later.storage_path]
    assert looker.totals() == Totals(2, 24)
    looker.close()
    served.put([make_attr()])
    assert served.totals().files == 3


def test_looking_at_what_a_fallen_process_left(opened: Open, path: Path, tmp_path: Path) -> None:
    cache, attr = opened(), make_attr()
    cache.put([attr])
    state = tmp_path / "fallen" / "state"
    shutil.copytree(path.parent, state)
    (state / "cache.db-shm").unlink()
    before = contents(state)
    assert before["cache.db-wal"]
    looker = looking(tmp_path / "fallen")
    assert dict(looker.entries_in(attr.storage_path)) == {attr.file_id: attr}
    looker.close()
    after = contents(state)
    del after["cache.db-shm"]
    assert after == before


def test_looking_at_no_cache_or_a_useless_one(opened: Open, path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        looking(tmp_path)
    assert not path.exists()
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(Unavailable):
        looking(tmp_path)
    assert contents(path.parent) == {"cache.db": b"nonsense" * 1000}
    path.unlink()
    opened().close()
    raw(path, "UPDATE meta SET value = '999' WHERE name = 'schema'")
    with pytest.raises(Unavailable, match="999"):
        looking(tmp_path)
