"""What an element promises, over providers in memory and over those that are shipped."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from artstore import background, checkpoint, recovery, stamps
from artstore.attr import Attr
from artstore.backlog import Backlog
from artstore.element import RECORD, Element
from artstore.errors import (
    ArtstoreError,
    ConfigError,
    Conflict,
    Damaged,
    DigestMismatch,
    InvalidField,
    MalformedRequest,
    ModeNotAllowed,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StorageFull,
    TooLarge,
    Unavailable,
)
from artstore.host.identity import establish
from artstore.ids import FileId, Key, now
from artstore.kernel import Kernel
from artstore.ledger import Ledger
from artstore.limits import Limits
from artstore.locks import Locks
from artstore.modes import Mode, Operation
from artstore.observers import Event, Observers
from artstore.parts import Parts
from artstore.posix import OwnedFile
from artstore.spi import PIECE, Cache, Page, Query, RecoverableBackend, Recovered, SingleNode, Span
from artstore.testing import MemoryBackend, MemoryCache, make_context
from artstore.testing.memory_backend import MemoryStore, MemoryWriter
from artstore.upload import Session
from artstore_local import disk
from artstore_local.backend import LocalBackend
from artstore_local.staging import staged_name
from artstore_local.writer import LocalWriter
from artstore_naming.dated import DatedNaming
from artstore_sql.sqlite.cache import SqlCache
from artstore_wal.log import FileLog
from support.servers import until
from support.uploads import BY, content, upload

CHOSEN = FileId("00000000-0000-4000-8000-0000000000aa")


class FailingCache(MemoryCache):
    """A cache that does not answer while it is `down`."""

    down = False

    def _locked(self) -> threading.Lock:
        if self.down:
            raise Unavailable("The cache is down.")
        return super()._locked()


class Recorder(Observers):
    """Observers that receive every event at once."""

    def __init__(self, received: list[tuple[str, str]]) -> None:
        super().__init__()
        self._received = received

    def __bool__(self) -> bool:
        return True

    def deliver(self, event: Event) -> None:
        self._received.append((event.change, event.file_id))


@dataclass
class Ground:
    """Where elements are opened, again and again, over the same store."""

    home: Path
    kind: str
    memory: type[MemoryBackend] = MemoryBackend
    store: MemoryStore = field(default_factory=MemoryStore)
    open_ones: list[Kernel] = field(default_factory=list)
    received: list[tuple[str, str]] = field(default_factory=list)

    def open(self, *, cache: Cache | None = None, mode: Mode = Mode.EDIT, **limits: Any) -> Kernel:
        context = make_context(self.home)
        backend: RecoverableBackend
        if self.kind == "memory":
            backend = self.memory(store=self.store)
            cache = cache or MemoryCache()
        else:
            backend = LocalBackend(LocalBackend.Settings(), context)
            cache = cache or SqlCache(SqlCache.Settings(), context)
        locks = Locks(context.state / "locks")
        element = Element(backend, locks)
        establish(backend, locks, element_id="se-1", naming="dated", mode=mode, fallback_id="x", at=now())
        parts = Parts(
            backend=backend,
            cache=cache,
            naming=DatedNaming(DatedNaming.Settings(), context),
            log=FileLog(FileLog.Settings(keep_hours=1, max_size=1 << 20), context),
            coordination=SingleNode(),
            locks=locks,
            element=element,
            limits=Limits.model_validate({"min_free": 0} | limits),
        )
        backlog, ledger = Backlog(parts, context.state / "index-pending"), Ledger(context.state / "space")
        kernel = Kernel(parts, backlog, ledger, Recorder(self.received))
        self.open_ones.append(kernel)
        kernel.recover()
        return kernel

    def close(self) -> None:
        while self.open_ones:
            self.open_ones.pop().close()

    def reopen(self, **options: Any) -> Kernel:
        self.close()
        return self.open(**options)


@pytest.fixture(params=["memory", "shipped"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path / "home", request.param)
    yield ground
    ground.close()


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path / "home", "shipped")
    yield ground
    ground.close()


@pytest.fixture
def kernel(ground: Ground) -> Kernel:
    return ground.open()


def put(
    kernel: Kernel, data: bytes = b"data", name: str = "a.txt", file_id: str = CHOSEN
) -> tuple[Attr, bool]:
    session = kernel.begin(BY, filename=name, file_id=file_id)
    session.write(data)
    return session.commit()


def everything(kernel: Kernel) -> dict[str, Attr]:
    """What a search without conditions finds; it must be what the tree says."""
    found = {attr.file_id: attr for attr in kernel.search(Query(limit=10_000)).items}
    assert {i: kernel.attr(i) for i in found} == found
    return found


def entries(kernel: Kernel) -> list[tuple[bool, bool]]:
    return [
        (e.data, e.sidecar)
        for d in kernel.parts.backend.list_directories()
        for e in kernel.parts.backend.list(d)
    ]


def statuses(kernel: Kernel) -> list[tuple[str, str]]:
    """Operations and what became of them, oldest first."""
    found = kernel.transactions(status=None, limit=1000, before=None)
    return [(t.operation, t.status) for t in reversed(found)]


def change(**fields: Any) -> Callable[[Attr], dict[str, Any]]:
    return lambda _: fields


def anyway(_: Attr) -> None:
    """No condition."""


# --- upload ---


def test_an_upload_is_there_when_commit_returns(ground: Ground, kernel: Kernel) -> None:
    session = kernel.begin(BY, filename="отчёт.pdf", content_type="application/pdf")
    for piece in (b"one ", b"two ", b"three"):
        session.write(piece)
    attr, new = session.commit(description="d", tags=["x"], metadata={"a": [1]})
    assert new
    assert (attr.size, attr.revision, attr.content_type) == (13, 1, "application/pdf")
    assert (attr.uploaded_by, attr.uploaded_by_id, attr.uploaded_at) == ("ivanov", "42", attr.updated_at)
    assert kernel.attr(attr.file_id) == attr
    assert content(kernel, attr.file_id) == b"one two three"
    assert everything(kernel) == {attr.file_id: attr}
    assert kernel.parts.naming.directory_of(attr.file_id) == attr.storage_path
    assert statuses(kernel) == [("upload", "committed")]
    assert ground.received == [("upload", attr.file_id)]


def test_an_aborted_upload_leaves_nothing(ground: Ground, kernel: Kernel) -> None:
    session = kernel.begin(BY, filename="a")
    session.write(b"half")
    session.abort()
    session.abort()
    assert entries(kernel) == []
    assert everything(kernel) == {}
    assert statuses(kernel) == [("upload", "rolled_back")]
    assert ground.received == []


@pytest.mark.parametrize(("options", "fields", "error"), [
    ({}, {"sha256": ["0" * 64]}, DigestMismatch),
    ({"size": 5}, {}, MalformedRequest),
    ({"size": 3}, {}, MalformedRequest),
    ({}, {"tags": ["a\n"]}, InvalidField),
    ({}, {"tags": [""]}, InvalidField),
    ({}, {"metadata": {"x": "y" * 5000}}, InvalidField),
    ({}, {"metadata": {"x": float("nan")}}, InvalidField),
    ({}, {"description": "\ud800"}, InvalidField),
])  # fmt: skip
def test_a_refused_commit_leaves_nothing(
    kernel: Kernel, options: dict[str, Any], fields: dict[str, Any], error: type[ArtstoreError]
) -> None:
    session = kernel.begin(BY, filename="a", **options)
    session.write(b"data")
    with pytest.raises(error):
        session.commit(**fields)
    session.abort()
    assert entries(kernel) == []
    assert everything(kernel) == {}
    assert statuses(kernel) == [("upload", "rolled_back")]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "a\x00b", "a\nb", "", "...", "con", "\u202etxt", "x" * 256]
)
def test_a_hostile_name_is_refused_before_anything_is_done(kernel: Kernel, name: str) -> None:
    with pytest.raises(InvalidField) as refused:
        kernel.begin(BY, filename=name)
    assert refused.value.field == "filename"
    assert statuses(kernel) == []


def test_a_file_may_not_be_too_large(ground: Ground) -> None:
    kernel = ground.open(max_file_size=10)
    with pytest.raises(TooLarge):
        kernel.begin(BY, filename="a", size=11)
    session = kernel.begin(BY, filename="a")
    session.write(b"x" * 10)
    with pytest.raises(TooLarge):
        session.write(b"x")
    session.abort()
    assert entries(kernel) == []
    assert upload(kernel, b"x" * 10).size == 10


def test_a_writer_receives_pieces_of_at_most_one_mib(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    for writer in (MemoryWriter, LocalWriter):

        def write(self: Any, piece: Any, write: Any = writer.write) -> None:
            lengths.append(len(piece))
            write(self, piece)

        monkeypatch.setattr(writer, "write", write)
    kernel = ground.open()
    data = os.urandom(3 * PIECE + 5)
    assert content(kernel, upload(kernel, data).file_id) == data
    assert lengths == [PIECE, PIECE, PIECE, 5]


def test_a_full_element_refuses_uploads_and_still_reads_and_deletes(ground: Ground) -> None:
    kernel = ground.open(capacity=10)
    attr = upload(kernel, b"123456")
    with pytest.raises(StorageFull):
        kernel.begin(BY, filename="b", size=5)
    assert kernel.begin(BY, filename="b", size=4).abort() is None
    assert content(kernel, attr.file_id) == b"123456"
    kernel.delete(BY, attr.file_id, anyway)
    assert upload(kernel, b"1234567890").size == 10


def test_the_digest_that_was_announced_is_checked(kernel: Kernel) -> None:
    digest = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    assert upload(kernel, sha256=[digest, digest]).sha256 == digest


def test_many_uploads_at_once(kernel: Kernel) -> None:
    def some(n: int) -> list[Attr]:
        return [upload(kernel, b"%d-%d" % (n, i), "same name.txt") for i in range(15)]

    with ThreadPoolExecutor(8) as pool:
        made = [attr for attrs in pool.map(some, range(8)) for attr in attrs]
    assert everything(kernel) == {attr.file_id: attr for attr in made}
    assert set(entries(kernel)) == {(True, True)}
    assert len({attr.key for attr in made}) == 120


# --- chosen ids ---


def test_a_caller_sets_no_field_of_the_kernel(kernel: Kernel) -> None:
    attr = upload(kernel, b"data", tags=["t"], size=9, uploaded_by="root", storage_path="x", revision=7)
    assert (*attr.tags, attr.size, attr.uploaded_by, attr.revision) == ("t", 4, BY.name, 1)
    assert content(kernel, attr.file_id) == b"data"


def test_a_retry_of_a_chosen_id_is_the_same_file(ground: Ground, kernel: Kernel) -> None:
    first, new = put(kernel)
    assert new
    assert put(kernel) == (first, False)
    assert put(ground.reopen()) == (first, False)
    assert entries(ground.open_ones[0]) == [(True, True)]


@pytest.mark.parametrize("other", [{"data": b"other"}, {"name": "b.txt"}])
def test_a_chosen_id_in_use_is_a_conflict(kernel: Kernel, other: dict[str, Any]) -> None:
    first, _ = put(kernel)
    with pytest.raises(Conflict):
        put(kernel, **other)
    assert content(kernel, CHOSEN) == b"data"
    assert everything(kernel) == {CHOSEN: first}


def test_of_concurrent_uploads_of_one_id_one_is_stored(kernel: Kernel) -> None:
    barrier = threading.Barrier(6)

    def one(n: int) -> object:
        session = kernel.begin(BY, filename="a", file_id=CHOSEN)
        session.write(b"%d" % (n % 2))
        barrier.wait()
        try:
            return session.commit()
        except Conflict as e:
            return e

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(one, range(6)))
    made = [r for r in results if isinstance(r, tuple)]
    assert [new for _, new in made].count(True) == 1
    assert len(made) == 3, results
    assert len({attr.key for attr, _ in made}) == 1
    assert entries(kernel) == [(True, True)]
    assert list(everything(kernel)) == [CHOSEN]


def test_a_deleted_id_can_be_chosen_again_immediately(kernel: Kernel) -> None:
    for n in range(4):
        new = put(kernel, b"%d" % n)[1]
        assert new
        assert content(kernel, CHOSEN) == b"%d" % n
        kernel.delete(BY, CHOSEN, anyway)
        with pytest.raises(NotFound):
            kernel.attr(CHOSEN)
    assert not any(sidecar for _, sidecar in entries(kernel))


def test_a_retry_whose_file_is_deleted_meanwhile_is_a_conflict(kernel: Kernel) -> None:
    put(kernel)
    retry = kernel.begin(BY, filename="a.txt", file_id=CHOSEN)
    retry.write(b"data")
    kernel.delete(BY, CHOSEN, anyway)
    with pytest.raises(Conflict):
        retry.commit()
    assert everything(kernel) == {}


# --- read ---


def test_an_unknown_id_is_not_found(kernel: Kernel) -> None:
    upload(kernel)
    for file_id in (CHOSEN, "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4"):
        with pytest.raises(NotFound):
            kernel.attr(file_id)
        with pytest.raises(NotFound):
            kernel.download(file_id)
        with pytest.raises(NotFound):
            kernel.update(BY, file_id, change(description="x"))
        with pytest.raises(NotFound):
            kernel.delete(BY, file_id, anyway)


def test_a_download_goes_on_while_its_file_is_deleted(kernel: Kernel) -> None:
    data = b"x" * (3 << 20)
    attr = upload(kernel, data)
    download = kernel.download(attr.file_id)
    pieces = iter(download.pieces(Span(0, attr.size)))
    read = len(next(iter(pieces)))
    kernel.delete(BY, attr.file_id, anyway)
    assert read + sum(map(len, pieces)) == len(data)
    download.close()


def test_data_of_the_wrong_size_is_never_served(shipped: Ground) -> None:
    kernel = shipped.open()
    attr = upload(kernel)
    (shipped.home / "files" / attr.key).write_bytes(b"dat")
    with pytest.raises(Damaged):
        kernel.download(attr.file_id)
    (shipped.home / "files" / attr.key).unlink()
    with pytest.raises(Damaged):
        kernel.download(attr.file_id)
    assert kernel.attr(attr.file_id) == attr


def test_a_corrupt_index_entry_does_not_hide_the_file(shipped: Ground) -> None:
    cache = MemoryCache()
    kernel = shipped.open(cache=cache)
    attr = upload(kernel)
    for storage_path in ("../..", "no/such/place", "x" * 3000, "/etc"):
        cache.put([attr.model_copy(update={"storage_path": storage_path})])
        assert kernel.attr(attr.file_id) == attr


# --- update ---


def test_an_update_makes_the_next_revision(ground: Ground, kernel: Kernel) -> None:
    attr = upload(kernel, description="old", tags=["a"], metadata={"k": 1})
    new = kernel.update(BY, attr.file_id, change(description="new", metadata={"k": 2}))
    assert (new.revision, new.description, new.tags, new.metadata) == (2, "new", ("a",), {"k": 2})
    assert new.uploaded_at == attr.uploaded_at
    assert kernel.attr(attr.file_id) == new
    assert everything(kernel) == {attr.file_id: new}
    assert content(kernel, attr.file_id) == b"data"
    assert ("update", "committed") in statuses(kernel)
    assert ground.received[-1] == ("update", attr.file_id)


def test_an_update_that_changes_nothing_makes_no_revision(ground: Ground, kernel: Kernel) -> None:
    attr = upload(kernel, description="d", tags=["a"])
    before = kernel.parts.backend.read_sidecar(attr.key)
    assert kernel.update(BY, attr.file_id, change(description="d", tags=["a"])) == attr
    assert kernel.update(BY, attr.file_id, change()) == attr
    assert kernel.parts.backend.read_sidecar(attr.key) == before
    assert [op for op, _ in ground.received] == ["upload"]


def test_an_update_keeps_unknown_keys(kernel: Kernel) -> None:
    attr = upload(kernel)
    future = attr.model_copy(update={"from_version_9": {"x": [1, None]}})
    kernel.parts.backend.replace_sidecar(attr.key, future.encode(), if_match=attr.encode())
    new = kernel.update(BY, attr.file_id, change(description="new"))
    assert new.model_dump()["from_version_9"] == {"x": [1, None]}
    assert kernel.attr(attr.file_id) == new


def test_a_refused_update_changes_nothing(kernel: Kernel) -> None:
    attr = upload(kernel, description="old")

    def refuse(_: Attr) -> dict[str, Any]:
        raise PreconditionFailed("not what it was")

    for bad in (change(tags=["\n"]), change(metadata={"x": "y" * 5000}), refuse):
        with pytest.raises((InvalidField, PreconditionFailed)):
            kernel.update(BY, attr.file_id, bad)
    assert everything(kernel) == {attr.file_id: attr}


def test_no_update_is_lost(kernel: Kernel) -> None:
    attr = upload(kernel, metadata={"n": 0})

    def add(_: int) -> None:
        for _ in range(10):
            kernel.update(BY, attr.file_id, lambda a: {"metadata": {"n": a.metadata["n"] + 1}})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    new = kernel.attr(attr.file_id)
    assert (new.metadata, new.revision) == ({"n": 40}, 41)
    assert everything(kernel) == {attr.file_id: new}


# --- delete ---


def test_a_deleted_file_is_gone(ground: Ground, kernel: Kernel) -> None:
    attr, other = upload(kernel), upload(kernel)
    kernel.delete(BY, attr.file_id, anyway)
    with pytest.raises(NotFound):
        kernel.attr(attr.file_id)
    with pytest.raises(NotFound):
        kernel.delete(BY, attr.file_id, anyway)
    assert everything(kernel) == {other.file_id: other}
    assert entries(kernel) == [(True, True)]
    assert ("delete", "committed") in statuses(kernel)
    assert ground.received[-1] == ("delete", attr.file_id)
    kernel.background.flush()
    assert list(kernel.parts.backend.list_tombstones()) == []


def test_a_condition_may_refuse_a_deletion(kernel: Kernel) -> None:
    attr = upload(kernel)

    def refuse(there: Attr) -> None:
        assert there == attr
        raise PreconditionFailed("not what it was")

    with pytest.raises(PreconditionFailed):
        kernel.delete(BY, attr.file_id, refuse)
    assert everything(kernel) == {attr.file_id: attr}


def test_a_file_is_deleted_once(kernel: Kernel) -> None:
    attr = upload(kernel)

    def delete(_: int) -> str:
        try:
            kernel.delete(BY, attr.file_id, anyway)
        except NotFound:
            return "not found"
        return "deleted"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(delete, range(4))) == ["deleted"] + ["not found"] * 3


# --- without a cache ---


def test_everything_but_search_works_without_a_cache(ground: Ground) -> None:
    cache = FailingCache()
    kernel = ground.open(cache=cache)
    old, (chosen, _) = upload(kernel, b"old"), put(kernel)
    cache.down = True
    new = upload(kernel, b"new")
    also, made = put(kernel, b"also", file_id="00000000-0000-4000-8000-0000000000bb")
    assert made
    for attr, data in ((old, b"old"), (new, b"new"), (chosen, b"data"), (also, b"also")):
        assert kernel.attr(attr.file_id) == attr
        assert content(kernel, attr.file_id) == data
    assert put(kernel, b"also", file_id=also.file_id) == (also, False)
    changed = kernel.update(BY, old.file_id, change(description="x"))
    assert kernel.attr(old.file_id) == changed
    kernel.delete(BY, chosen.file_id, anyway)
    with pytest.raises(NotFound):
        kernel.attr(chosen.file_id)
    with pytest.raises(Unavailable):
        kernel.search(Query())
    with pytest.raises(Unavailable):
        kernel.background.drain()
    assert [status for _, status in statuses(kernel)].count("pending") == 4
    cache.down = False
    kernel.background.drain()
    assert everything(kernel) == {a.file_id: a for a in (changed, new, also)}
    assert {status for _, status in statuses(kernel)} == {"committed"}


def test_failed_index_writes_are_retried_soon_then_less_and_less_often(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "INTERVAL", 1e6)
    monkeypatch.setattr(background, "RETRY_MIN", 0.002)
    cache = FailingCache()
    kernel = ground.open(cache=cache)
    tries: list[float] = []
    drain = kernel.background.drain

    def counted() -> None:
        tries.append(time.monotonic())
        drain()

    monkeypatch.setattr(kernel.background, "drain", counted)
    kernel.start()
    for _ in range(2):
        tries.clear()
        cache.down = True
        known = {a.file_id: a for a in (upload(kernel), upload(kernel))}
        while len(tries) < 4:  # the backlog grows, and that makes no retry earlier
            known |= {a.file_id: a for a in (upload(kernel),)}
        pauses = [b - a for a, b in itertools.pairwise(tries)]
        assert all(pause >= 0.002 * 2**n for n, pause in enumerate(pauses, 1))
        cache.down = False
        until(kernel.index.backlog.is_complete, "the backlog to be empty")
        assert known.items() <= everything(kernel).items()
    assert {status for _, status in statuses(kernel)} == {"committed"}


def test_a_tombstone_stays_until_the_index_entry_is_removed(ground: Ground) -> None:
    cache = FailingCache()
    kernel = ground.open(cache=cache)
    attr = upload(kernel)
    cache.down = True
    kernel.delete(BY, attr.file_id, anyway)
    cache.down = False
    kernel.background.flush()
    assert list(kernel.parts.backend.list_tombstones()) == [attr.key]
    kernel.background.drain()
    kernel.background.flush()
    assert list(kernel.parts.backend.list_tombstones()) == []
    assert everything(kernel) == {}


def test_several_pending_changes_of_one_file_are_indexed_and_all_committed(ground: Ground) -> None:
    cache = FailingCache()
    kernel = ground.open(cache=cache)
    cache.down = True
    attr = upload(kernel)
    for n in range(3):
        attr = kernel.update(BY, attr.file_id, change(description=str(n)))
    cache.down = False
    kernel.background.drain()
    assert everything(kernel) == {attr.file_id: attr}
    assert {status for _, status in statuses(kernel)} == {"committed"}


def test_a_foreign_file_among_the_flags_is_logged_once_and_ignored(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = ground.open()
    attr = upload(kernel)
    flags = ground.home / "state" / "index-pending"
    (flags / "a directory").mkdir()
    (flags / "a link").symlink_to(flags)
    for name in ("notes.txt", "4711", "4711-0123456g"):
        (flags / name).write_text("theirs")
    for _ in range(2):
        kernel.background.recover()
    assert everything(kernel) == {attr.file_id: attr}  # and no search waits for them
    assert {(flags / name).read_text() for name in ("notes.txt", "4711", "4711-0123456g")} == {"theirs"}
    lines = [record.message for record in caplog.records if "is no file of artstore" in record.message]
    assert sorted(line.partition(" is no")[0] for line in lines) == [
        f"{flags}/{name}" for name in ("4711", "4711-0123456g", "a directory", "a link", "notes.txt")
    ]


def test_a_flag_that_another_process_takes_for_that_of_a_dead_one_is_set_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog, flags = ground.open().index.backlog, ground.home / "state" / "index-pending"
    flock, taken = fcntl.flock, ExitStack()

    def seize_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        (path,) = flags.iterdir()
        other = OwnedFile.seize(path)
        assert other is not None
        taken.callback(other.remove)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", seize_first)
    backlog.require_reindex()
    taken.close()
    assert len(list(flags.iterdir())) == 1
    backlog.finish_reindex()
    assert list(flags.iterdir()) == []


def test_a_start_on_a_full_disk_postpones_what_needs_space(
    shipped: Ground, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sidecar is in place and its data is staged: a power cut kept the later rename only."""
    kernel = shipped.open()
    attr, other = upload(kernel, b"late"), upload(kernel, b"other")
    shipped.close()
    files = shipped.home / "files"
    shard = files / ".artstore/staging/1-dead/0"
    shard.mkdir(parents=True)
    (files / attr.key).rename(shard / staged_name(attr.key))

    def full(*_: object) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    with monkeypatch.context() as patched:
        patched.setattr(disk, "_renameat2", full)
        kernel = shipped.open()
        assert "recovered once there is room: There is no space left for the staging area." in caplog.text
        assert everything(kernel) == {a.file_id: a for a in (attr, other)}
        assert content(kernel, other.file_id) == b"other"
        with pytest.raises(StorageFull):
            kernel.background.recover()
    assert not list((files / ".artstore/quarantine").rglob("*.txt*"))
    kernel.background.recover()
    assert content(kernel, attr.file_id) == b"late"
    assert everything(kernel) == {a.file_id: a for a in (attr, other)}
    assert not shard.parent.exists()


def test_the_backlog_of_a_dead_process_is_written_at_the_next_start(ground: Ground) -> None:
    cache = FailingCache()
    kernel = ground.open(cache=cache)
    kept, gone = upload(kernel, b"kept"), upload(kernel, b"gone")
    cache.down = True
    kept = kernel.update(BY, kept.file_id, change(description="new"))
    kernel.delete(BY, gone.file_id, anyway)
    new = upload(kernel)
    ground.close()
    cache = FailingCache()  # it was in memory; a cache that was rebuilt must be as good
    kernel = ground.open(cache=cache)
    assert everything(kernel) == {a.file_id: a for a in (kept, new)}
    assert {status for _, status in statuses(kernel)} == {"committed"}


def test_the_log_keeps_an_update_in_doubt_until_its_entry_is_written(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FailingCache()
    kernel = ground.open(cache=cache)
    attr = upload(kernel)
    kernel.background.flush()
    swap = kernel.parts.backend.replace_sidecar

    def answer_lost(key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        swap(key, sidecar, if_match=if_match)
        raise Unavailable("No answer came.")

    with monkeypatch.context() as patch:
        patch.setattr(kernel.parts.backend, "replace_sidecar", answer_lost)
        cache.down = True
        with pytest.raises(Unavailable):
            kernel.update(BY, attr.file_id, change(description="new"))
    kernel.background.flush()
    ground.close()
    (left,) = FileLog(FileLog.Settings(keep_hours=1, max_size=1 << 20), make_context(ground.home)).abandoned()
    assert [(t.operation, t.status) for t in left.uncheckpointed][-1] == ("update", "failed")
    left.release()


# --- modes ---


def test_the_store_keeps_the_mode(ground: Ground) -> None:
    kernel = ground.open(mode=Mode.RW)
    attr = upload(kernel)
    with pytest.raises(ModeNotAllowed):
        kernel.delete(BY, attr.file_id, anyway)
    with pytest.raises(Conflict):
        kernel.transition(BY, Mode.AR, confirm=True, reason="")
    record = kernel.transition(BY, Mode.RO, confirm=False, reason="full")
    assert (record.mode, record.changed_by, record.reason) == (Mode.RO, "ivanov", "full")
    kernel = ground.reopen(mode=Mode.EDIT)
    assert kernel.parts.element.record() == record
    assert content(kernel, attr.file_id) == b"data"
    for refused in (
        lambda: upload(kernel),
        lambda: kernel.update(BY, attr.file_id, change(description="x")),
        lambda: kernel.delete(BY, attr.file_id, anyway),
    ):
        with pytest.raises(ModeNotAllowed):
            refused()
    kernel.transition(BY, Mode.AR, confirm=False, reason="")
    with pytest.raises(ModeNotAllowed):
        kernel.download(attr.file_id)
    assert kernel.attr(attr.file_id) == attr
    with pytest.raises(Conflict):
        kernel.transition(BY, Mode.RO, confirm=False, reason="")
    kernel.transition(BY, Mode.RO, confirm=True, reason="")
    assert sorted(s for op, s in statuses(kernel) if op == "mode") == ["committed"] * 3 + ["rolled_back"] * 2


def test_an_upload_that_began_before_a_transition_is_refused_at_its_commit(ground: Ground) -> None:
    kernel = ground.open(mode=Mode.RW)
    session = kernel.begin(BY, filename="a")
    session.write(b"data")
    kernel.transition(BY, Mode.RO, confirm=False, reason="")
    with pytest.raises(ModeNotAllowed):
        session.commit()
    assert entries(kernel) == []


def test_after_a_transition_nothing_changes(ground: Ground) -> None:
    kernel, other = ground.open(mode=Mode.RW), ground.open(mode=Mode.RW)
    refused: list[ModeNotAllowed] = []
    started = threading.Semaphore(0)

    def load(k: Kernel) -> None:
        n = 0
        while True:
            try:
                upload(k, b"%d" % n)
            except ModeNotAllowed as e:
                refused.append(e)
                return
            n += 1
            if n == 3:
                started.release()

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, k) for k in (kernel, other, kernel, other)]
        for _ in loads:
            assert started.acquire(timeout=30)
        kernel.transition(BY, Mode.RO, confirm=False, reason="")
        then = sorted(entries(kernel))
        for done in loads:
            done.result(30)
    assert sorted(entries(kernel)) == then
    assert set(then) == {(True, True)}
    assert len(refused) == 4


def test_a_repeated_transition_is_refused_only_when_the_mode_is_durable(
    shipped: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = shipped.open(mode=Mode.RW)
    real, directory = os.fsync, os.fspath(shipped.home / "files/.artstore")
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        if synced.count(directory) == 1 and synced[-1] == directory:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Unavailable):
        kernel.transition(BY, Mode.RO, confirm=False, reason="moved")
    found = kernel.parts.element.record()
    assert (found.mode, found.reason) == (Mode.RO, "moved")  # unless power fails now
    first = len(synced)
    with pytest.raises(Conflict, match="already"):
        kernel.transition(BY, Mode.RO, confirm=False, reason="again")
    record, name = synced[first:][-2:]
    assert (record.endswith("element.json"), name) == (True, directory)
    assert kernel.parts.element.record() == found
    assert statuses(kernel) == [("mode", "failed"), ("mode", "rolled_back")]


def test_a_repeated_transition_is_refused_only_when_forbidden_changes_are_over(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, other = ground.open(mode=Mode.RW), ground.open(mode=Mode.RW)
    real, asked = kernel.parts.locks._open, threading.Event()

    def refuse(name: str) -> int:
        if name == "element":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(name)

    def tell(name: str) -> int:
        if name == "element":
            asked.set()
        return real(name)

    with ThreadPoolExecutor(1) as pool:
        with other.parts.element.gate(Operation.UPDATE):
            monkeypatch.setattr(kernel.parts.locks, "_open", refuse)
            with pytest.raises(Unavailable):
                kernel.transition(BY, Mode.RO, confirm=False, reason="")
            monkeypatch.setattr(kernel.parts.locks, "_open", tell)
            again = pool.submit(kernel.transition, BY, Mode.RO, confirm=False, reason="")
            until(lambda: asked.is_set() or again.done(), "the second try to wait")
            assert not again.done()
        with pytest.raises(Conflict, match="already"):
            again.result(30)
    assert [status for op, status in statuses(kernel) if op == "mode"] == ["failed", "rolled_back"]


@pytest.mark.parametrize("before", [Mode.RO, Mode.RW])
def test_a_transition_to_a_mode_that_allows_changes_does_not_wait_for_them(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, before: Mode
) -> None:
    """Under load there is none: one change ends after the next has begun."""
    kernel, other = ground.open(mode=before), ground.open(mode=before)
    write_document = kernel.parts.backend.write_document
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:

        def put(*args: Any, **options: Any) -> None:
            write_document(*args, **options)
            stack.enter_context(other.parts.element.gate(Operation.UPLOAD))

        stack.enter_context(monkeypatch.context()).setattr(kernel.parts.backend, "write_document", put)
        step = pool.submit(kernel.transition, BY, Mode.RW, confirm=True, reason="")
        until(step.done, "the answer")
        if before is Mode.RO:
            assert step.result().mode is Mode.RW
        else:
            with pytest.raises(Conflict, match="already"):
                step.result()


def test_a_start_does_not_wait_for_changes_in_progress(ground: Ground) -> None:
    kernel = ground.open()
    with ThreadPoolExecutor(1) as pool, kernel.parts.element.gate(Operation.UPLOAD):
        start = pool.submit(ground.open)
        until(start.done, "the start")
        assert start.result().parts.element.record() == kernel.parts.element.record()


def test_another_elements_store_is_refused(ground: Ground) -> None:
    kernel = ground.open()
    for element_id, naming in (("se-2", "dated"), ("se-1", "other")):
        with pytest.raises(ConfigError):
            establish(
                kernel.parts.backend,
                kernel.parts.locks,
                element_id=element_id,
                naming=naming,
                mode=Mode.EDIT,
                fallback_id="x",
                at=now(),
            )


def test_a_store_that_is_replaced_while_it_is_served_proves_nothing(ground: Ground) -> None:
    kernel = ground.open()
    attr, _ = put(kernel)
    backend = kernel.parts.backend
    document = backend.read_document(RECORD)
    assert document is not None
    other = document.replace(b'"reason": "', b'"store_id": "another", "reason": "')
    for present in (other, b"torn"):
        backend.write_document(RECORD, present)
        for step in (
            kernel.parts.element.record,
            lambda: kernel.search(Query()),
            kernel.usage,
            lambda: kernel.attr(attr.file_id[:-1] + "f"),
            lambda: kernel.download(attr.file_id),
            lambda: put(kernel, file_id=attr.file_id[:-1] + "f"),
            lambda: kernel.delete(BY, attr.file_id, anyway),
            kernel.background.recover,
            kernel.background.drain,
            kernel.background.resolve_in_doubt,
        ):
            with pytest.raises(Unavailable):
                step()
    backend.write_document(RECORD, document)
    assert everything(kernel) == {attr.file_id: attr}


def test_a_clock_before_the_checkpoint_is_refused(ground: Ground) -> None:
    kernel = ground.open()
    future = b'{"at": "2999-01-01T00:00:00.000Z", "directory": "2999/01/01/00", "generations": ["x"]}'
    kernel.parts.backend.write_document(checkpoint.CHECKPOINT, future)
    with pytest.raises(ConfigError, match="clock"):
        kernel.recover()


# --- the tree is the truth ---


def fill(kernel: Kernel) -> dict[str, Attr]:
    """A few files with a past; what a search must find."""
    files = [upload(kernel, b"%d" % n, f"файл {n}.txt", tags=[str(n)], metadata={"n": n}) for n in range(6)]
    files[1] = kernel.update(BY, files[1].file_id, change(description="changed"))
    kernel.delete(BY, files.pop().file_id, anyway)
    files.append(put(kernel)[0])
    return {attr.file_id: attr for attr in files}


@pytest.mark.parametrize("lost", ["state/cache*", "state/wal", "state", "state/locks"])
def test_a_lost_state_directory_is_rebuilt_from_the_store(shipped: Ground, lost: str) -> None:
    files = fill(shipped.open())
    shipped.close()
    for path in shipped.home.glob(lost):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kernel = shipped.open()
    assert everything(kernel) == files
    assert kernel.parts.element.record().element_id == "se-1"


def test_copying_the_files_is_backup_and_restore(shipped: Ground, tmp_path: Path) -> None:
    kernel = shipped.open(mode=Mode.EDIT)
    files = fill(kernel)
    # While it serves, as a backup would.
    shutil.copytree(shipped.home / "files", tmp_path / "other" / "files")
    restored = Ground(tmp_path / "other", "shipped")
    kernel = restored.open()
    assert everything(kernel) == files
    assert content(kernel, CHOSEN) == b"data"
    assert kernel.parts.element.record().element_id == "se-1"
    restored.close()


def test_a_cache_of_an_unknown_generation_is_rebuilt(ground: Ground) -> None:
    cache = MemoryCache()
    kernel = ground.open(cache=cache)
    files = fill(kernel)
    stamp = cache.generation()
    assert stamp is not None
    ghost = next(iter(files.values())).model_copy(
        update={"file_id": CHOSEN[:-1] + "f", "storage_path": "2001/01/01/01"}
    )
    cache.put([ghost])
    cache.set_generation("another store's")
    report = kernel.recover()
    assert report.rebuilt
    assert everything(kernel) == files
    assert cache.generation() not in (None, stamp, "another store's")


def test_an_older_copy_of_the_cache_is_rebuilt(shipped: Ground) -> None:
    kernel = shipped.open()
    files = [upload(kernel, b"%d" % n) for n in range(3)]
    shipped.close()
    database = shipped.home / "state" / "cache.db"
    older = database.read_bytes()
    kernel = shipped.open()
    kernel.delete(BY, files[0].file_id, anyway)
    files[1] = kernel.update(BY, files[1].file_id, change(description="newer"))
    new = upload(kernel)
    shipped.close()
    for path in database.parent.glob("cache.db*"):
        path.unlink()
    database.write_bytes(older)
    assert everything(shipped.open()) == {a.file_id: a for a in (files[1], files[2], new)}


def test_no_file_is_missed_while_the_cache_is_rebuilt(ground: Ground) -> None:
    class Watched(MemoryCache):
        seen: ClassVar[list[bool]] = []

        def put(self, attrs: Sequence[Attr]) -> None:
            if watching:
                self.seen.append(all(kernel.attr(i) == attr for i, attr in files.items()))
            super().put(attrs)

    watching = False
    cache = Watched()
    kernel = ground.open(cache=cache)
    files = {attr.file_id: attr for attr in (upload(kernel, b"%d" % n) for n in range(4))}
    cache.set_generation("another store's")
    watching = True
    other = ground.open(cache=cache)
    assert cache.seen
    assert all(cache.seen)
    watching = False
    assert everything(other) == files
    assert kernel.index.backlog.is_complete()


def test_recovery_is_idempotent(ground: Ground) -> None:
    kernel = ground.open()
    fill(kernel)
    assert str(kernel.recover()) in ("1 deleted", "nothing to do")
    assert str(kernel.recover()) == "nothing to do"


def test_a_broken_pair_goes_to_quarantine_and_a_foreign_file_stays(shipped: Ground) -> None:
    kernel = shipped.open()
    attr, other = upload(kernel), upload(kernel)
    shipped.close()
    place = shipped.home / "files" / attr.key
    place.unlink()
    (place.parent / "notes.txt").write_bytes(b"foreign")
    (place.parent / "sub").mkdir()
    assert everything(shipped.open()) == {other.file_id: other}
    assert (place.parent / "notes.txt").read_bytes() == b"foreign"
    kept = shipped.home / "files" / ".artstore" / "quarantine" / f"{attr.key}.attr.json"
    assert kept.read_bytes() == attr.encode()


def test_a_deletion_in_progress_is_not_quarantined(ground: Ground) -> None:
    kernel = ground.open()
    attr = upload(kernel)
    kernel.parts.backend.delete(
        attr.key, if_match=kernel.parts.backend.read_sidecar(attr.key)
    )  # and its data next
    run = recovery.Recovery(kernel.parts, kernel.index, kernel.observers, sole_writer=lambda: True)
    run._reconcile_directory(attr.storage_path, sole_writer=True)
    assert run.report.quarantined == 0
    assert [(e.key, e.data) for e in kernel.parts.backend.list(attr.storage_path)] == [(attr.key, True)]


def test_a_second_process_that_starts_leaves_live_uploads_alone(ground: Ground) -> None:
    cache = MemoryCache() if ground.kind == "memory" else None
    kernel = ground.open(cache=cache)
    session = kernel.begin(BY, filename="a")
    session.write(b"data")
    done = upload(kernel)
    other = ground.open(cache=cache)
    other.background.recover()
    attr, _ = session.commit()
    assert everything(kernel) == everything(other) == {a.file_id: a for a in (done, attr)}


def test_a_dead_process_is_recovered_while_another_serves(ground: Ground) -> None:
    cache = MemoryCache() if ground.kind == "memory" else None
    kernel, dying = ground.open(cache=cache), ground.open(cache=cache)
    attr = upload(kernel)
    session: Session = dying.begin(BY, filename="half")
    session.write(b"half")
    # As death does: locks go, nothing is tidied up.
    ground.open_ones.remove(dying)
    for segment, _ in dying.parts.log.position():
        segment.release()
    dying.parts.backend.close()
    dying.parts.element.close()
    report = kernel.background.recover()
    assert report.undone == 1
    assert {s for op, s in statuses(kernel)} == {"committed", "rolled_back"}
    assert everything(kernel) == {attr.file_id: attr}
    assert str(kernel.background.recover()) == "nothing to do"
    session.abort()
    if dying.parts.cache is not kernel.parts.cache:
        dying.parts.cache.close()


class QuarantiningBackend(MemoryBackend):
    """A backend that moves an unfinished publication to quarantine, as a broken disk makes necessary."""

    def recover(self) -> Iterator[Recovered]:
        for recovered in super().recover():
            self.quarantine(recovered.key)
            yield Recovered(key=recovered.key, outcome="quarantined")


def test_recovery_reports_what_it_quarantined_apart_from_what_it_undid(tmp_path: Path) -> None:
    ground, cache = Ground(tmp_path / "home", "memory", memory=QuarantiningBackend), MemoryCache()
    kernel, dying = ground.open(cache=cache), ground.open(cache=cache)
    dying.begin(BY, filename="half").write(b"half")
    dying.parts.backend.close()
    dying.parts.log.close()
    report = kernel.background.recover()
    assert (report.undone, report.quarantined) == (0, 1)
    ground.close()


def test_pages_follow_each_other(kernel: Kernel) -> None:
    for n in range(5):
        upload(kernel, b"x" * n)
    page: Page = kernel.search(Query(sort="size", descending=False, limit=3))
    rest = kernel.search(Query(sort="size", descending=False, limit=3, after=page.next))
    items: Sequence[Attr] = [*page.items, *rest.items]
    assert [a.size for a in items] == [0, 1, 2, 3, 4]
    assert rest.next is None


class VolatileCache(MemoryCache):
    """A cache that knows what a power cut would take from it; `first` is called once, before the next row is put."""

    def __init__(self) -> None:
        super().__init__()
        self.unflushed: set[str] = set()
        self.first: Callable[[], None] | None = None

    def put(self, attrs: Sequence[Attr]) -> None:
        first, self.first = self.first, None
        if first is not None:
            first()
        super().put(attrs)
        self.unflushed |= {attr.file_id for attr in attrs}

    def flush(self) -> None:
        super().flush()
        self.unflushed.clear()

    def set_generation(self, stamp: str, *, if_match: str | None = None) -> None:
        super().set_generation(stamp, if_match=if_match)
        self.unflushed.clear()


def test_a_flush_during_a_change_does_not_checkpoint_its_entry(ground: Ground) -> None:
    cache = VolatileCache()
    kernel = ground.open(cache=cache)
    attr = upload(kernel)
    kernel.background.flush()
    cache.first = kernel.background.flush
    kernel.update(BY, attr.file_id, change(description="new"))
    kernel.background.flush()
    assert not cache.unflushed, "the log says that it is durable"


def test_an_entry_written_from_the_backlog_is_flushed(ground: Ground) -> None:
    cache = VolatileCache()
    kernel = ground.open(cache=cache)
    attr = upload(kernel)

    def fail() -> None:
        raise Unavailable("The cache is down.")

    cache.first = fail
    kernel.update(BY, attr.file_id, change(description="new"))
    kernel.background.flush()
    kernel.background.drain()
    assert kernel.index.backlog.is_complete()
    assert cache.unflushed
    kernel.background.flush()
    assert not cache.unflushed, "the log says that it is durable"


class SilentWriter(MemoryWriter):
    """A writer whose answer is lost, after it published or before."""

    published = True

    def publish(self, sidecar: bytes) -> None:
        if self.published:
            super().publish(sidecar)
        self.abort()
        raise OutcomeUnknown("The store does not answer.")


@pytest.mark.parametrize("published", [True, False])
def test_a_retry_resolves_an_upload_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    """Or two files would have one id, and the second would outlive the deletion of the first."""
    ground = Ground(tmp_path, "memory")
    kernel = ground.open()
    with monkeypatch.context() as patched:
        patched.setattr(SilentWriter, "published", published)
        patched.setattr(MemoryBackend, "create", lambda backend, key: SilentWriter(backend, key))
        with pytest.raises(OutcomeUnknown):
            put(kernel)
    with pytest.raises(Unavailable):
        kernel.search(Query())
    attr, new = put(kernel)
    assert new is not published
    kernel.background.resolve_in_doubt()
    kernel.background.drain()
    assert kernel.search(Query()).items == [attr]
    assert [entry for entry in entries(kernel) if entry == (True, True)] == [(True, True)]
    assert sorted(statuses(kernel)) == [
        ("upload", "committed"),
        *[("upload", "rolled_back")] * (not published),
    ]
    kernel.delete(BY, attr.file_id, anyway)
    assert entries(kernel) == []
    with pytest.raises(NotFound):
        kernel.attr(attr.file_id)
    ground.close()


class SharedBackend(MemoryBackend):
    """One to which a request of a dead process may still be on its way."""

    capabilities = replace(MemoryBackend.capabilities, shared=True)


class DelayedWriter(MemoryWriter):
    """A writer whose request to publish stays on its way."""

    arrive: Callable[[], None]

    def publish(self, sidecar: bytes) -> None:
        DelayedWriter.arrive = lambda: MemoryWriter.publish(self, sidecar)
        self.abort = lambda: None  # type: ignore[method-assign]
        raise OutcomeUnknown("The store does not answer.")


@pytest.mark.parametrize("arrives", ["before", "after"])
def test_a_retry_in_another_process_resolves_an_upload_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrives: str
) -> None:
    ground = Ground(tmp_path, "memory", memory=SharedBackend)
    cache = MemoryCache()
    kernel, other = ground.open(cache=cache), ground.open(cache=cache)
    with monkeypatch.context() as patched:
        patched.setattr(MemoryBackend, "create", lambda backend, key: DelayedWriter(backend, key))
        with pytest.raises(OutcomeUnknown):
            put(kernel)
    if arrives == "before":
        DelayedWriter.arrive()
    attr, new = put(other)
    assert new is (arrives == "after")
    if new:
        with pytest.raises(Unavailable):
            DelayedWriter.arrive()
    kernel.background.resolve_in_doubt()
    kernel.background.drain()
    assert everything(kernel) == everything(other) == {CHOSEN: attr}
    assert entries(kernel) == [(True, True)]
    other.delete(BY, CHOSEN, anyway)
    assert everything(kernel) == {}
    ground.close()


def test_a_late_index_entry_does_not_hide_a_file_that_was_uploaded_again(kernel: Kernel) -> None:
    """A rebuild has read a sidecar; before its row is there the file is deleted, and its id used again elsewhere."""
    put(kernel)
    old = kernel.update(BY, CHOSEN, change(description="old"))
    for _ in range(2):
        kernel.delete(BY, CHOSEN, anyway)
        kernel.index.put_entries([old], sole_writer=False)  # deleted, and nothing else
        assert everything(kernel) == {}
        new, _ = put(kernel, b"new")
        assert new.key != old.key
        kernel.index.put_entries([old], sole_writer=False)
        assert everything(kernel) == {CHOSEN: new}
    assert kernel.index.backlog.is_complete()


@pytest.mark.parametrize("operation", ["update", "upload"])
def test_a_stopped_process_that_holds_a_lock_does_not_block_others(
    shipped: Ground, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    for module in ("reservation", "index"):
        monkeypatch.setattr(f"artstore.{module}.LOCK_TIMEOUT", 0.05)
    kernel = shipped.open()
    attr = upload(kernel)
    kernel.parts.log.begin(operation, by="x", file_id=attr.file_id, key=attr.key, revision=2).sync()
    for segment, _ in kernel.parts.log.position():
        segment.release()
    locks = Locks(shipped.home / "state" / "locks")
    with locks.file(attr.file_id) if operation == "update" else locks.exclusive("names"):
        other = shipped.open()
        assert not other.index.backlog.is_complete()
        assert other.attr(attr.file_id) == attr
        with pytest.raises(Unavailable, match="makes no progress"):
            other.background.recover()
    other.background.recover()
    assert other.index.backlog.is_complete()
    assert everything(other) == {attr.file_id: attr}


@pytest.mark.parametrize("operation", ["update", "delete"])
@pytest.mark.parametrize("spoilt", [None, b"{" * 5000, b"[]"])
def test_a_late_request_of_a_rolled_back_change_fails(
    tmp_path: Path, operation: str, spoilt: bytes | None
) -> None:
    ground = Ground(tmp_path / "home", "memory", memory=SharedBackend)
    dying, cache = ground.open(), MemoryCache()
    attr = upload(dying)
    dying.parts.log.begin(
        operation, by="x", file_id=attr.file_id, key=attr.key, revision=2 * (operation == "update")
    )
    seen = dying.parts.backend.read_sidecar(attr.key)
    ground.open_ones.remove(dying)
    for segment, _ in dying.parts.log.position():
        segment.release()
    dying.parts.element.close()
    if spoilt is not None:
        ground.store.sidecars[attr.key].content = spoilt
    kernel = ground.open(cache=cache)
    late: dict[str, Callable[[], None]] = {
        "update": lambda: dying.parts.backend.replace_sidecar(attr.key, b"{}", if_match=seen),
        "delete": lambda: dying.parts.backend.delete(attr.key, if_match=seen),
    }
    with pytest.raises(PreconditionFailed):
        late[operation]()
    assert (operation, "rolled_back") in statuses(kernel)
    assert everything(kernel) == ({} if spoilt else {attr.file_id: attr})
    ground.close()


class LateCache(MemoryCache):
    """A cache at which the next row arrives late."""

    meanwhile: Callable[[], None] | None = None

    def put(self, attrs: Sequence[Attr]) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        super().put(attrs)


def test_a_late_index_entry_of_a_file_deleted_on_another_node_is_removed(tmp_path: Path) -> None:
    cache = LateCache()
    ground = Ground(tmp_path / "one", "memory", memory=SharedBackend)
    elsewhere = Ground(tmp_path / "two", "memory", memory=SharedBackend, store=ground.store)
    one, two = ground.open(cache=cache), elsewhere.open(cache=cache)
    attr = upload(one)
    cache.meanwhile = lambda: two.delete(BY, attr.file_id, anyway)
    assert one.update(BY, attr.file_id, change(description="new")).revision == 2
    assert not one.index.backlog.is_complete()
    one.background.drain()
    assert everything(one) == everything(two) == {}
    assert ("update", "committed") in statuses(one)
    again = upload(one)
    one.index.backlog.enqueue(again.file_id, again.key, None)
    cache.meanwhile = lambda: two.delete(BY, again.file_id, anyway)
    one.background.drain()
    assert everything(one) == everything(two) == {}
    ground.close()
    elsewhere.close()


# --- stamps ---


def test_a_slow_upload_is_newer_than_what_was_uploaded_meanwhile(kernel: Kernel) -> None:
    slow = kernel.begin(BY, filename="slow.txt")
    slow.write(b"half")
    quick = upload(kernel, name="quick.txt")
    while now() <= datetime.fromisoformat(quick.uploaded_at):
        pass  # the same millisecond
    attr = slow.commit()[0]
    assert attr.uploaded_at == attr.updated_at > quick.uploaded_at
    assert kernel.attr(attr.file_id) == attr
    assert kernel.search(Query(uploaded_after=quick.uploaded_at)).items == [attr]


def test_stamps_never_decrease_when_the_clock_is_set_back(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = upload(kernel)
    monkeypatch.setattr(stamps, "now", lambda: now() - timedelta(minutes=2))
    second = upload(kernel)
    assert second.uploaded_at >= first.uploaded_at
    changed = kernel.update(BY, first.file_id, change(description="new"))
    assert changed.updated_at >= first.updated_at
    assert changed.uploaded_at == first.uploaded_at


def test_a_clock_that_was_set_back_far_is_followed_but_no_file_grows_younger(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = upload(kernel)
    monkeypatch.setattr(stamps, "now", lambda: now() - timedelta(hours=1))
    second = upload(kernel)
    assert second.uploaded_at < first.uploaded_at
    assert "the clock of this machine was set back" in caplog.text
    assert kernel.update(BY, first.file_id, change(description="new")).updated_at >= first.updated_at


def test_stamps_of_many_threads_are_ordered() -> None:
    clock = stamps.Clock()
    order: list[str] = []
    lock = threading.Lock()

    def stamp(_: int) -> None:
        for _ in range(200):
            with lock:
                order.append(clock.stamp().at)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stamp, range(8)))
    assert order == sorted(order)


@pytest.mark.parametrize("operation", ["upload", "update"])
def test_a_change_that_took_long_to_reach_the_store_is_stamped_again(
    ground: Ground, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    old = upload(kernel, name="old.txt")
    moments = iter([0.0, 31.0, 31.0])  # the stamp is taken, is too old by now, is taken anew
    monkeypatch.setattr(stamps, "time", SimpleNamespace(monotonic=lambda: next(moments, 32.0)))
    times = iter(now() + timedelta(seconds=n) for n in (1, 40))
    monkeypatch.setattr(stamps, "now", lambda: next(times))
    if operation == "upload":
        attr = upload(kernel)
        assert attr.uploaded_at == attr.updated_at
    else:
        attr = kernel.update(BY, old.file_id, change(description="new"))
        assert attr.uploaded_at == old.uploaded_at
    assert datetime.fromisoformat(attr.updated_at) > now() + timedelta(seconds=30)
    monkeypatch.undo()
    assert everything(kernel)[attr.file_id] == attr
    assert everything(ground.reopen(cache=MemoryCache()))[attr.file_id] == attr


def test_a_change_whose_second_stamp_fails_is_indexed_as_its_sidecar_says(
    ground: Ground, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 31.0])
    monkeypatch.setattr(stamps, "time", SimpleNamespace(monotonic=lambda: next(moments, 32.0)))

    def fail(*_: object, **__: object) -> None:
        raise Unavailable("The store does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(kernel.parts.backend, "replace_sidecar", fail)
        attr = upload(kernel)
    kernel.background.drain()
    assert kernel.index.backlog.is_complete()
    assert everything(kernel) == {attr.file_id: attr}
