"""A client that chose the id retries after its worker died: there is one file of that id, whichever process answers."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from artstore.errors import ArtstoreError, NotFound, Unavailable
from artstore.host.boot import open_default
from artstore.ids import now
from artstore.kernel import Kernel
from artstore.spi import SCOPES, Principal, Query, Span
from artstore.upload import Session
from artstore_cli import main as cli
from support.audit import audit, open_intents
from support.servers import until

BY = Principal(id="1", name="ivanov", scopes=SCOPES)
BODY = b"the same bytes"
DIES = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
import artstore.kernel
from artstore.host.boot import open_default
from artstore.spi import SCOPES, Principal

home, file_id, at, where = sys.argv[1:]
die = lambda *_, **__: os._exit(9)
artstore.kernel.now = lambda: datetime.fromisoformat(at)
node = open_default(Path(home))
if where == "nothing staged":
    node.kernel.parts.backend.create = die
if where == "row":
    node.kernel.index.write_entry = die
if where == "row, killed":
    node.kernel.index.write_entry = lambda *_, **__: (print("published", flush=True), signal.pause())
session = node.kernel.begin(Principal(id="1", name="ivanov", scopes=SCOPES), filename="a.txt", file_id=file_id)
session.write(b"the same bytes")
if where == "data in place":
    rename = os.rename
    os.rename = lambda old, new, **at: die() if new.endswith(".json") else rename(old, new, **at)
if where == "data staged":
    die()
session.commit()
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """Every upload begins in the same second."""
    at = now()
    monkeypatch.setattr("artstore.kernel.now", lambda: at)
    return at


@contextmanager
def opened(home: Path) -> Iterator[tuple[Kernel, Kernel]]:
    """Open a home twice, with locks that behave as those of two processes."""
    with closing(open_default(home)) as one, closing(open_default(home)) as other:
        yield one.kernel, other.kernel


def command(home: Path, file_id: str, at: datetime, where: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", DIES, str(home), file_id, at.isoformat(), where]


def first_try(home: Path, file_id: str, at: datetime, where: str) -> None:
    """Upload in another process, which dies at `where`."""
    assert subprocess.run(command(home, file_id, at, where), check=False, timeout=60).returncode == 9


def retry(kernel: Kernel, file_id: str) -> Session:
    session = kernel.begin(BY, filename="a.txt", file_id=file_id)
    session.write(BODY)
    return session


def test_a_retry_finds_the_file_that_a_dead_worker_published(tmp_path: Path, clock: datetime) -> None:
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    with closing(open_default(home)) as node:
        first_try(home, file_id, clock, "row")
        attr, new = retry(node.kernel, file_id).commit()
        assert (attr.file_id, new) == (file_id, False)
        node.kernel.delete(BY, file_id, lambda _: None)
    assert audit(home) == {}


def test_a_retry_finds_the_published_file_while_the_index_is_locked(
    tmp_path: Path, clock: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process was paused while it wrote to the index, and holds its lock."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    monkeypatch.setenv("ARTSTORE_CACHE__SQL__TIMEOUT", "0.5")
    with closing(open_default(home)) as node:
        first_try(home, file_id, clock, "row")
        session = retry(node.kernel, file_id)
        with (home / "state" / "cache.db.lock").open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            attr, new = session.commit()
            assert (attr.file_id, new) == (file_id, False)
            node.kernel.delete(BY, file_id, lambda _: None)
        until(node.kernel.index.backlog.is_complete, "the backlog is written")
        with pytest.raises(NotFound):
            node.kernel.attr(file_id)
    assert audit(home) == {}


def test_a_retry_finds_the_file_that_a_failed_upload_could_not_remove(
    tmp_path: Path, clock: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk failed twice: when the names were fsynced, and when they were removed."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    fsync, unlink = os.fsync, os.unlink

    def fail_fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(clock.strftime("%Y/%m/%d/%H")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    def fail_unlink(path: str, **place: int) -> None:
        if path.startswith("a_ivanov"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **place)

    with closing(open_default(home)) as node:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail_fsync)
            patched.setattr(os, "unlink", fail_unlink)
            with pytest.raises(Unavailable):
                retry(node.kernel, file_id).commit()
        attr, new = retry(node.kernel, file_id).commit()
        assert (attr.file_id, new) == (file_id, False)
        node.kernel.delete(BY, file_id, lambda _: None)
    assert audit(home) == {}


def test_a_retry_finds_the_file_that_was_published_while_it_waited(tmp_path: Path, clock: datetime) -> None:
    """The process of the first try is killed when the second try has all its bytes and waits for the lock."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    with closing(open_default(home)) as node, ThreadPoolExecutor(1) as pool:
        first = subprocess.Popen(command(home, file_id, clock, "row, killed"), stdout=subprocess.PIPE)
        with first:
            assert first.stdout is not None
            assert first.stdout.readline() == b"published\n"
            second = pool.submit(retry(node.kernel, file_id).commit)
            waits = re.compile(rf"-> FLOCK .* {os.getpid()} ")
            until(lambda: waits.search(Path("/proc/locks").read_text()), "the second waits for the first")
            first.kill()
        attr, new = second.result()
        assert (attr.file_id, new) == (file_id, False)
        node.kernel.delete(BY, file_id, lambda _: None)
        node.kernel.background.recover()
        with pytest.raises(NotFound):
            node.kernel.attr(file_id)
    assert audit(home) == {}


@pytest.mark.parametrize(
    ("where", "recovered_by"),
    [
        ("nothing staged", "another process"),
        ("nothing staged", "the next start"),
        ("data staged", "another process"),
        ("data in place", "another process"),
    ],
)
def test_recovery_of_the_first_try_removes_nothing_of_the_second(
    tmp_path: Path, clock: datetime, where: str, recovered_by: str
) -> None:
    """Both began in the same second, so that they would have the same name."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    with opened(home) as (kernel, other):
        first_try(home, file_id, clock, where)
        session = retry(kernel, file_id)
        if recovered_by == "another process":
            other.background.recover()
        else:
            open_default(home).close()
        assert len(kernel.transactions(status="pending", limit=9, before=None)) == 1  # the second try
        attr, new = session.commit()
        assert (attr.file_id, new) == (file_id, True)
        for one in (kernel, other):
            assert one.search(Query(sha256=attr.sha256)).items == [attr]
            download = one.download(file_id)
            assert b"".join(download.pieces(Span(0, attr.size))) == BODY
            download.close()
            one.background.recover()
        assert cli.main(["verify", "--digests", "--home", str(home)]) == 0
    assert list(audit(home)) == [file_id]
    assert open_intents(home) == []


def test_two_tries_at_once_are_staged_under_different_names(tmp_path: Path, clock: datetime) -> None:
    file_id = str(uuid.uuid4())
    with opened(tmp_path / "home") as (kernel, other):
        tries = [retry(one, file_id) for one in (kernel, other, kernel, other)]
        assert len(set(kernel.parts.backend.in_progress())) == len(tries)
        assert [session.commit()[1] for session in tries] == [True, False, False, False]
    assert list(audit(tmp_path / "home")) == [file_id]


def test_a_process_that_closed_its_log_publishes_nothing(tmp_path: Path, clock: datetime) -> None:
    """A process that ends while an upload is in progress closes its log. Other processes then roll the upload back."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    with closing(open_default(home)) as node:
        ending = open_default(home)
        session, release = retry(ending.kernel, file_id), ending.kernel.parts.log.close

        def close_and_recover() -> None:
            release()
            node.kernel.background.recover()
            with pytest.raises((ArtstoreError, OSError, RuntimeError)):
                session.commit()

        ending.kernel.parts.log.close = close_and_recover  # type: ignore[method-assign]
        ending.close()
        assert node.kernel.search(Query()).items == []
        retry(node.kernel, file_id).commit()
    assert list(audit(home)) == [file_id]
    assert open_intents(home) == []
