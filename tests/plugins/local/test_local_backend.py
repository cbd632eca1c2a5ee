"""What a local disk has of its own: links, strange files, full and failing disks, staging of dead and live owners."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import ConfigError, Conflict, Damaged, NotFound, StorageFull, Unavailable
from artstore.posix import OwnedFile
from artstore.spi import Context
from artstore.testing import make_context
from artstore.testing.backend import DATA, HOUR, KEY, SIDECAR, entries, get, key, put
from artstore_local import disk
from artstore_local.backend import LocalBackend
from artstore_local.staging import staged_key, staged_name
from support.stores import opening

Open = Callable[..., LocalBackend]

OWNER = """
import sys
from pathlib import Path
from artstore.testing import make_context
from artstore_local.backend import LocalBackend
backend = LocalBackend(LocalBackend.Settings(), make_context(Path(sys.argv[1])))
writer = backend.create(sys.argv[2])
writer.write(b"the data")
print("staged", flush=True)
sys.stdin.readline()
writer.publish(b'{"the": "sidecar"}')
print("published", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    def make(home: Path = tmp_path) -> LocalBackend:
        return LocalBackend(LocalBackend.Settings(), make_context(home))

    with opening(make) as open_it:
        yield open_it


@pytest.fixture
def backend(open_: Open) -> LocalBackend:
    return open_()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory outside of the store, which no link may lead to."""
    path = tmp_path / "outside"
    (path / "11" / "15").mkdir(parents=True)
    (path / "secret").write_bytes(b"secret")
    return path


def beside(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR_SUFFIX)


def staged(files: Path) -> list[str]:
    """Return the names of all staged files, of all processes."""
    place = files / ".artstore" / "staging"
    return sorted(p.name for p in place.rglob("*") if p.is_file() and p.name != "lock")


# --- links and strange files ---


def test_a_link_in_place_of_data_is_not_followed(backend: LocalBackend, files: Path, outside: Path) -> None:
    put(backend)
    (files / KEY).unlink()
    (files / KEY).symlink_to(outside / "secret")
    with pytest.raises(Damaged):
        backend.read(KEY)
    backend.delete(KEY, if_match=SIDECAR)
    backend.delete_data(KEY)
    assert entries(backend) == {}
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_link_in_place_of_a_sidecar_is_not_followed(
    backend: LocalBackend, files: Path, outside: Path
) -> None:
    put(backend)
    beside(files / KEY).unlink()
    beside(files / KEY).symlink_to(outside / "secret")
    for call in (
        lambda: backend.read_sidecar(KEY),
        lambda: backend.replace_sidecar(KEY, b"{}", if_match=b"secret"),
        lambda: backend.delete(KEY, if_match=SIDECAR),
    ):
        with pytest.raises(Damaged):
            call()
    backend.quarantine(KEY)
    assert entries(backend) == {}
    assert (outside / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("level", ["2025", "2025/01", "2025/01/11", "2025/01/11/15"])
def test_a_link_in_place_of_a_directory_is_not_followed(
    backend: LocalBackend, files: Path, outside: Path, level: str
) -> None:
    put(backend)
    elsewhere = outside / "moved"
    (files / level).rename(elsewhere)
    (files / level).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    for call in (
        lambda: backend.read(KEY),
        lambda: backend.read_sidecar(KEY),
        lambda: backend.delete(KEY, if_match=SIDECAR),
        lambda: backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR),
        lambda: backend.delete_data(KEY),
        lambda: backend.quarantine(KEY),
        lambda: list(backend.list(HOUR)),
        lambda: put(backend, key(1)),
    ):
        with pytest.raises((Damaged, NotFound, Unavailable)):
            call()
    assert HOUR not in list(backend.list_directories())
    assert sorted(elsewhere.rglob("*")) == before
    assert staged(files) == []


@pytest.mark.parametrize("make", [
    os.mkfifo, os.mkdir, lambda path: os.symlink("/no/such/place", path), lambda path: os.symlink(path, path),
])  # fmt: skip
def test_something_other_than_a_plain_file_in_its_place_is_damaged(
    backend: LocalBackend, files: Path, make: Callable[[Path], None]
) -> None:
    put(backend)
    for path, call in ((files / KEY, backend.read), (beside(files / KEY), backend.read_sidecar)):
        path.unlink()
        make(path)
        with pytest.raises(Damaged):
            call(KEY)
    with pytest.raises(Conflict):
        put(backend)


def test_a_file_in_place_of_a_directory_is_damaged(backend: LocalBackend, files: Path) -> None:
    (files / "2025").write_bytes(b"")
    for call in (lambda: backend.read(KEY), lambda: backend.read_sidecar(KEY), lambda: put(backend)):
        with pytest.raises(Damaged):
            call()
    assert list(backend.list_directories()) == []
    assert staged(files) == []


# --- directories that go away ---


def test_a_directory_removed_between_two_uploads_is_made_again(backend: LocalBackend, files: Path) -> None:
    put(backend)
    shutil.rmtree(files / "2025")
    try:
        put(backend, key(1))
    except Unavailable:  # noticed too late for this upload
        assert staged(files) == []
        put(backend, key(1))
    assert entries(backend) == {key(1): (True, True)}


def test_a_directory_removed_during_an_upload_fails_that_one_only(backend: LocalBackend, files: Path) -> None:
    writer = backend.create(KEY)
    writer.write(DATA)
    shutil.rmtree(files / "2025")
    with pytest.raises(Unavailable):
        writer.publish(SIDECAR)
    assert staged(files) == []
    put(backend)
    assert get(backend) == DATA


def test_a_tree_restored_while_the_store_is_open_is_read_as_it_is(
    backend: LocalBackend, files: Path, tmp_path: Path
) -> None:
    put(backend)
    shutil.copytree(files / "2025", tmp_path / "copy")
    shutil.rmtree(files / "2025")
    with pytest.raises(NotFound):
        backend.read(KEY)
    (tmp_path / "copy").rename(files / "2025")
    assert get(backend) == DATA


# --- dead processes ---


def leave(files: Path, *states: str) -> Path:
    """Make the staging directory of a dead process that had brought KEY into these states, and return it."""
    shard = files / ".artstore" / "staging" / "1-dead" / "3"
    shard.mkdir(parents=True)
    (shard.parent / "lock").touch()
    here, there = shard / staged_name(KEY), files / KEY
    there.parent.mkdir(parents=True, exist_ok=True)
    places = {
        "data staged": here, "sidecar staged": beside(here), "data in place": there,
        "sidecar in place": beside(there), "update staged": beside(shard / f"~update~{here.name}"),
    }  # fmt: skip
    for state in states:
        places[state].write_bytes(SIDECAR if "data" not in state else DATA)
    return shard.parent


@pytest.mark.parametrize(("states", "outcome", "whole"), [
    (["data staged"], "undone", False),
    (["data staged", "sidecar staged"], "undone", False),
    (["sidecar staged"], "undone", False),
    (["data in place", "sidecar staged"], "undone", False),
    (["data staged", "sidecar in place"], "finished", True),
    (["data in place", "sidecar in place"], None, True),
    (["data in place", "sidecar in place", "update staged"], "undone", True),
    (["data in place", "sidecar in place", "data staged"], "finished", True),
    (["data in place", "sidecar in place", "data staged", "sidecar staged"], "undone", True),
    ([], None, False),
])  # fmt: skip
def test_an_upload_of_a_dead_process_is_finished_or_undone(
    backend: LocalBackend, files: Path, states: list[str], outcome: str | None, whole: bool
) -> None:
    owner = leave(files, *states)
    recovered = list(backend.recover())
    assert [(s.key, s.outcome) for s in recovered] == ([(KEY, outcome)] if outcome else [])
    assert not owner.exists()
    assert staged(files) == []
    assert entries(backend) == ({KEY: (True, True)} if whole else {})
    if whole:
        assert (get(backend), backend.read_sidecar(KEY)) == (DATA, SIDECAR)
    assert list(backend.recover()) == []
    assert backend.is_sole_writer()


@pytest.mark.parametrize("half", ["data", "sidecar"])
def test_resolve_moves_half_a_file_that_a_power_cut_left_to_quarantine(
    backend: LocalBackend, files: Path, half: str
) -> None:
    leave(files, f"{half} in place")
    list(backend.recover())
    assert not backend.resolve(KEY)
    assert entries(backend) == {}
    assert [p.name for p in (files / ".artstore" / "quarantine").rglob("report*")] == [
        KEY.rpartition("/")[2] + ("" if half == "data" else SIDECAR_SUFFIX)
    ]
    assert not backend.resolve(KEY)


def test_recovery_undoes_what_a_dead_recovering_process_left_half_done(
    backend: LocalBackend, files: Path
) -> None:
    owner = leave(files, "data staged", "sidecar staged")
    reaper = owner.with_name("2-reaper") / "0"
    reaper.mkdir(parents=True)
    token = beside(owner / "3" / staged_name(KEY))
    token.rename(reaper / token.name)
    assert {s.outcome for s in backend.recover()} == {"undone"}
    assert staged(files) == []
    assert entries(backend) == {}


def test_recovery_leaves_the_data_of_a_live_upload_of_the_same_key(
    backend: LocalBackend, files: Path
) -> None:
    leave(files, "data staged", "sidecar staged")
    # Between its two renames a live process has its data in place and its token not yet.
    (files / KEY).write_bytes(b"a live one's")
    assert [s.outcome for s in backend.recover()] == ["undone"]
    assert (files / KEY).read_bytes() == b"a live one's"
    assert staged(files) == []


def test_foreign_files_in_a_staging_directory_do_not_stop_recovery(
    backend: LocalBackend, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = leave(files, "data staged", "sidecar staged")
    (owner / "3" / "a directory").mkdir()
    (owner / "3" / "foreign.txt").touch()
    (owner / "3" / "..,,x").touch()
    (owner / "notes").touch()
    (owner.parent / "file").touch()
    (owner.parent / "link").symlink_to(owner)
    with caplog.at_level(logging.WARNING):
        assert [s.key for s in backend.recover()] == [KEY]
    assert entries(backend) == {}
    assert "not ours" in caplog.text
    assert list(backend.recover()) == []


def test_recovery_removes_an_owner_directory_without_a_lock(open_: Open, files: Path) -> None:
    backend = open_()
    newborn = files / ".artstore" / "staging" / "9-newborn"
    newborn.mkdir()
    assert list(backend.recover()) == []
    assert not newborn.exists()


@pytest.mark.parametrize("ended", [True, False])
def test_a_process_makes_another_directory_when_recovery_takes_its_new_one(
    open_: Open, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Recovery comes between the new directory and its lock."""
    create, taken = OwnedFile.create, []

    def late(path: Path, mode: int = 0o640) -> OwnedFile:
        if not taken:
            taken.append(OwnedFile.acquire(path))
            if ended:
                taken[0].close()
                assert list(backend.recover()) == []
        return create(path, mode)

    monkeypatch.setattr(OwnedFile, "create", late)
    other = open_()
    assert other._staging.owner != taken[0].path.parent.name
    put(other)
    taken[0].close()
    assert list(backend.recover()) == []
    assert [p.name for p in backend._staging.other_owners()] == [other._staging.owner]


@pytest.mark.parametrize("name", ["2025/01/11/15/a.txt", "a, b,,c/d,/e,,f", "100%/~update~/x~y", "ü/%2C/%"])
def test_a_staged_name_carries_its_key(name: str) -> None:
    assert staged_key(staged_name(name)) == name
    assert staged_key(staged_name(name) + SIDECAR_SUFFIX) == name
    assert "/" not in staged_name(name)


# --- live processes ---


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has staged KEY."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OWNER, str(tmp_path), KEY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        yield process
        process.kill()


def go_on(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_recovery_never_touches_a_live_process(
    backend: LocalBackend, files: Path, owner: subprocess.Popen[str]
) -> None:
    for stop in (signal.SIGCONT, signal.SIGSTOP):
        owner.send_signal(stop)
        assert list(backend.recover()) == []
        assert not backend.is_sole_writer()
        assert len(staged(files)) == 1
    owner.send_signal(signal.SIGCONT)
    assert go_on(owner) == "published\n"
    assert get(backend) == DATA
    assert backend.read_sidecar(KEY) == SIDECAR


def test_recovery_undoes_the_upload_of_a_killed_process(
    backend: LocalBackend, files: Path, owner: subprocess.Popen[str]
) -> None:
    owner.kill()
    owner.wait()
    assert [(s.key, s.outcome) for s in backend.recover()] == [(KEY, "undone")]
    assert staged(files) == []
    assert backend.is_sole_writer()
    put(backend)


def test_a_file_that_a_killed_process_published_stays(
    backend: LocalBackend, owner: subprocess.Popen[str]
) -> None:
    assert go_on(owner) == "published\n"
    owner.kill()
    owner.wait()
    assert list(backend.recover()) == []
    assert get(backend) == DATA


# --- a full disk ---


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A home on a file system of 1 MiB."""
    home = tmp_path / "small"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "artstore-test", str(home)], check=True)
    try:
        yield home
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def fill(path: Path) -> None:
    """Fill the volume to the last page: then there is not even space for a name."""
    with path.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError as e:
            assert e.errno == errno.ENOSPC  # noqa: PT017 - the loop ends by it


def test_a_full_disk_refuses_uploads_keeps_files_and_deletes_them(small: Path, open_: Open) -> None:
    backend = open_(small)

    def fits(n: int) -> bool:
        writer = backend.create(key(n))
        try:
            writer.write(bytes(30_000))
            writer.publish(SIDECAR)
        except StorageFull:
            return False
        finally:
            writer.abort()
        return True

    written = [key(n) for n in itertools.takewhile(fits, range(100))]
    assert 10 < len(written) < 100
    assert staged(small / "files") == []
    fill(small / "filler")
    for _ in range(3):
        with pytest.raises(StorageFull):
            put(backend, key(1000))
        with pytest.raises(StorageFull):
            backend.replace_sidecar(written[0], b'{"new": 1}', if_match=SIDECAR)
        with pytest.raises(StorageFull):
            backend.write_document("element.json", b"{}" * 100)
    assert staged(small / "files") == []
    backend.check(writing=True)
    backend.check(writing=False)
    assert backend.free_bytes() == 0
    assert entries(backend) == dict.fromkeys(written, (True, True))
    for k in written:
        assert get(backend, k) == bytes(30_000)
        assert backend.read_sidecar(k) == SIDECAR
        backend.delete(k, if_match=SIDECAR)
        backend.delete_data(k)
        backend.purge(k)
    assert entries(backend) == {}
    put(backend, key(1001))
    backend.close()


# --- a failing disk ---


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """`failing(n, code)`: the n-th fsync from now on fails."""
    real = os.fsync
    left: list[tuple[int, int]] = []

    def fsync(fd: int) -> None:
        if left:
            n, code = left.pop()
            if n == 1:
                raise OSError(code, os.strerror(code))
            left.append((n - 1, code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda n, code: left.append((n, code))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_fsync_that_fails_fails_the_upload(
    backend: LocalBackend, files: Path, failing: Callable[[int, int], None], n: int
) -> None:
    put(backend, key(1))
    writer = backend.create(KEY)
    writer.write(DATA)
    failing(n, errno.EIO)
    with pytest.raises(Unavailable):
        writer.publish(SIDECAR)
    assert staged(files) == []
    assert entries(backend) == {key(1): (True, True)}
    put(backend)
    assert get(backend) == DATA


def test_two_failed_fsyncs_close_the_store_for_writing(
    open_: Open, backend: LocalBackend, failing: Callable[[int, int], None]
) -> None:
    put(backend)
    backend.check(writing=True)
    for n in range(2):
        failing(1, errno.EIO)
        with pytest.raises(Unavailable):
            put(backend, key(n))
    for call in (
        lambda: put(backend, key(9)),
        lambda: backend.replace_sidecar(KEY, b"{}", if_match=SIDECAR),
        lambda: backend.delete(KEY, if_match=SIDECAR),
        lambda: backend.write_document("element.json", b"{}"),
        lambda: backend.check(writing=True),
    ):
        with pytest.raises(Unavailable, match="until a restart"):
            call()
    backend.check(writing=False)
    assert (get(backend), backend.read_sidecar(KEY)) == (DATA, SIDECAR)
    put(open_(), key(9))  # a restart


def test_one_erofs_closes_the_store_for_writing(
    backend: LocalBackend, failing: Callable[[int, int], None]
) -> None:
    failing(1, errno.EROFS)
    with pytest.raises(Unavailable):
        put(backend)
    with pytest.raises(Unavailable, match="until a restart"):
        put(backend)


def test_a_full_disk_does_not_close_the_store_for_writing(
    backend: LocalBackend, failing: Callable[[int, int], None]
) -> None:
    for n in range(3):
        failing(1, errno.ENOSPC)
        with pytest.raises(StorageFull):
            put(backend, key(n))
    put(backend)


def test_a_file_system_without_rename_noreplace_never_replaces_data(
    backend: LocalBackend, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_renameat2", None)
    put(backend)
    late = backend.create(key(1))
    (files / key(1)).write_bytes(b"taken")
    with pytest.raises(Conflict):
        late.publish(SIDECAR)
    assert (files / key(1)).read_bytes() == b"taken"
    assert get(backend) == DATA
    assert staged(files) == []


def test_a_backend_may_be_closed_twice(backend: LocalBackend) -> None:
    backend.close()
    backend.close()


def test_a_clean_end_leaves_no_staging(backend: LocalBackend, files: Path) -> None:
    put(backend)
    backend.close()
    assert list((files / ".artstore" / "staging").iterdir()) == []


def test_when_the_leader_of_a_batch_fails_no_upload_of_it_is_acknowledged(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that waits for a leader must not take an unforeseen failure of the leader for success."""
    gathered, ask = threading.Event(), backend._committer._waiting
    real, calls = os.fsync, itertools.count()

    def fsync(fd: int) -> None:
        if threading.current_thread().name.startswith("fsync"):
            return real(fd)
        if next(calls) == 0:  # the first leader waits until all others have queued up behind it
            assert gathered.wait(30)
            return real(fd)
        raise RuntimeError("unforeseen")

    writers = [backend.create(key(n)) for n in range(8)]
    monkeypatch.setattr(disk.os, "fsync", fsync)

    def publish(n: int) -> str:
        try:
            writers[n].publish(SIDECAR)
        except (RuntimeError, Unavailable) as e:
            return type(e).__name__
        return "published"

    with ThreadPoolExecutor(8, "upload") as pool:
        results = [pool.submit(publish, n) for n in range(8)]
        until = time.monotonic() + 30
        while len(ask) < 7:
            assert time.monotonic() < until
        gathered.set()
        ends = [r.result() for r in results]
    monkeypatch.undo()
    assert "published" not in ends
    assert "Unavailable" in ends
    assert not [e for e in backend.list(HOUR) if e.sidecar]


# --- read-only ---


def test_an_upload_that_cannot_be_looked_for_is_not_taken_for_none(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = backend.create(KEY)
    assert list(backend.in_progress(KEY)) == [KEY]

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", fail)
        with pytest.raises(Unavailable):
            list(backend.in_progress(KEY))
    writer.abort()


def contents(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return everything below `root`, with inode, time and bytes."""
    found = {}
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        found[str(path)] = (seen.st_ino, seen.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def open_read_only(home: Path) -> LocalBackend:
    context = Context(home=home, files=home / "files", state=home / "state", read_only=True)
    return LocalBackend(LocalBackend.Settings(), context)


def test_a_read_only_backend_changes_nothing(tmp_path: Path, open_: Open) -> None:
    backend = open_()
    put(backend, key(1))
    put(backend, key(2))
    backend.delete(key(2), if_match=SIDECAR)
    writer = backend.create(key(3))
    backend.write_document("element.json", b"{}")
    before = contents(tmp_path)
    reader = open_read_only(tmp_path)
    assert entries(reader) == {key(1): (True, True), key(2): (True, False)}
    assert (list(reader.list_tombstones()), list(reader.in_progress())) == ([key(2)], [key(3)])
    assert (reader.read_document("element.json"), reader.read_sidecar(key(1)), get(reader, key(1))) == (
        b"{}",
        SIDECAR,
        DATA,
    )
    reader.close()
    assert contents(tmp_path) == before
    writer.publish(SIDECAR)


def test_a_read_only_backend_opens_a_copy_without_empty_directories(
    tmp_path: Path, files: Path, backend: LocalBackend
) -> None:
    put(backend)
    backend.close()
    shutil.rmtree(files / ".artstore")
    reader = open_read_only(tmp_path)
    assert list(reader.list_directories()) == [HOUR]
    assert (
        reader.read_document("element.json"),
        list(reader.list_tombstones()),
        list(reader.in_progress()),
    ) == (
        None,
        [],
        [],
    )
    reader.close()
    with pytest.raises(ConfigError, match="cannot be used"):
        open_read_only(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_store_that_cannot_be_opened_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """A worker tries again and again, and would run out of descriptors."""
    context = make_context(tmp_path)
    (context.files / ".artstore/reserve").mkdir(parents=True)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigError, match="cannot be used"):
        LocalBackend(LocalBackend.Settings(), context)
    assert os.listdir("/proc/self/fd") == before


def test_names_in_the_root_are_listed_as_foreign(backend: LocalBackend, files: Path) -> None:
    (files / "README").write_text("not ours")
    (files / "2025").symlink_to("/etc")
    (files / "empty").mkdir()
    assert sorted(entry.key for entry in backend.list("")) == ["2025", "README"]
    assert list(backend.list_directories()) == []


@pytest.mark.parametrize("suffix", ["", SIDECAR_SUFFIX])
def test_a_directory_in_place_of_data_or_sidecar_counts_as_it(
    backend: LocalBackend, files: Path, suffix: str
) -> None:
    put(backend)
    (files / (KEY + suffix)).unlink()
    (files / (KEY + suffix)).mkdir()
    (files / HOUR / "subdirectory").mkdir()
    assert entries(backend) == {KEY: (True, True)}
    with pytest.raises(Damaged):
        backend.read_sidecar(KEY) if suffix else backend.read(KEY)
    backend.quarantine(KEY)
    assert entries(backend) == {}


UNREADABLE = """
import os, sys
from artstore_local.fsync import Syncer
from artstore_local.tree import Tree
tree = Tree(sys.argv[1], Syncer())
if os.getuid() == 0:
    os.setuid(65534)
for directory in tree.list_directories(""):
    print(directory)
    list(tree.list(directory))
"""


def test_a_directory_that_cannot_be_read_is_not_taken_for_empty(backend: LocalBackend, files: Path) -> None:
    put(backend)
    (files / "lost+found").mkdir(mode=0)

    def walk() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", UNREADABLE, str(files)], capture_output=True, text=True, check=False
        )

    for directory in (files / "2025", *(files / "2025").rglob("*")):
        directory.chmod(0o755)
    (files / "2025" / "01" / "11" / "15").chmod(0o755)
    assert walk().stdout == f"{HOUR}\n"
    (files / HOUR).chmod(0)
    ended = walk()
    (files / HOUR).chmod(0o755)
    assert (ended.returncode, ended.stdout) == (1, f"{HOUR}\n")
    assert f"PermissionError: [Errno 13] Permission denied: '{HOUR[-2:]}'" in ended.stderr
