"""A client that picked the id retries after its worker died: there is one file of that id, whoever answers."""

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
    """By two processes, as far as locks can tell."""
    with closing(open_default(home)) as one, closing(open_default(home)) as other:
        yield one.kernel, other.kernel


def command(home: Path, file_id: str, at: datetime, where: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", DIES, str(home), file_id, at.isoformat(), where]


def first_try(home: Path, file_id: str, at: datetime, where: str) -> None:
    """In a process of its own, which dies at `where`."""
    assert subprocess.run(command(home, file_id, at, where), check=False, timeout=60).returncode == 9


def retry(kernel: Kernel, file_id: str) -> Session:
    session = kernel.begin(BY, filename="a.txt", file_id=file_id)
    session.write(BODY)
    return session


def test_a_retry_finds_what_a_dead_worker_published(tmp_path: Path, clock: datetime) -> None:
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    with closing(open_default(home)) as node:
        first_try(home, file_id, clock, "row")
        attr, new = retry(node.kernel, file_id).commit()
        assert (attr.file_id, new) == (file_id, False)
        node.kernel.delete(BY, file_id, lambda _: None)
    assert audit(home) == {}


def test_a_retry_finds_it_while_the_index_takes_no_row(
    tmp_path: Path, clock: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour that was stopped while it wrote to the index holds it."""
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
        until(node.kernel.index.backlog.is_complete, "all rows are paid")
        with pytest.raises(NotFound):
            node.kernel.attr(file_id)
    assert audit(home) == {}


def test_a_retry_finds_what_could_not_be_withdrawn(
    tmp_path: Path, clock: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk failed twice: as it was to make the names durable, and as they were to go."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    fsync, unlink = os.fsync, os.unlink

    def broken(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(clock.strftime("%Y/%m/%d/%H")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    def stuck(path: str, **place: int) -> None:
        if path.startswith("a_ivanov"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **place)

    with closing(open_default(home)) as node:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            patched.setattr(os, "unlink", stuck)
            with pytest.raises(Unavailable):
                retry(node.kernel, file_id).commit()
        attr, new = retry(node.kernel, file_id).commit()
        assert (attr.file_id, new) == (file_id, False)
        node.kernel.delete(BY, file_id, lambda _: None)
    assert audit(home) == {}


def test_a_retry_finds_what_was_published_while_it_waited(tmp_path: Path, clock: datetime) -> None:
    """The first try lives when the second has all its bytes, and is killed then."""
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
    ("where", "settled_by"),
    [
        ("nothing staged", "a neighbour"),
        ("nothing staged", "the next one"),
        ("data staged", "a neighbour"),
        ("data in place", "a neighbour"),
    ],
)
def test_who_settles_the_first_try_takes_nothing_from_the_second(
    tmp_path: Path, clock: datetime, where: str, settled_by: str
) -> None:
    """Both began in one second."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    with opened(home) as (kernel, neighbour):
        first_try(home, file_id, clock, where)
        session = retry(kernel, file_id)
        if settled_by == "a neighbour":
            neighbour.background.recover()
        else:
            open_default(home).close()
        assert len(kernel.transactions(status="pending", limit=9, before=None)) == 1  # the second try
        attr, new = session.commit()
        assert (attr.file_id, new) == (file_id, True)
        for one in (kernel, neighbour):
            assert one.search(Query(sha256=attr.sha256)).items == [attr]
            download = one.download(file_id)
            assert b"".join(download.pieces(Span(0, attr.size))) == BODY
            download.close()
            one.background.recover()
        assert cli.main(["verify", "--digests", "--home", str(home)]) == 0
    assert list(audit(home)) == [file_id]
    assert open_intents(home) == []


def test_a_second_try_beside_the_first_has_a_name_of_its_own(tmp_path: Path, clock: datetime) -> None:
    file_id = str(uuid.uuid4())
    with opened(tmp_path / "home") as (kernel, neighbour):
        tries = [retry(one, file_id) for one in (kernel, neighbour, kernel, neighbour)]
        assert len(set(kernel.parts.backend.in_progress())) == len(tries)
        assert [session.commit()[1] for session in tries] == [True, False, False, False]
    assert list(audit(tmp_path / "home")) == [file_id]


def test_whose_intents_others_may_settle_publishes_nothing_any_more(tmp_path: Path, clock: datetime) -> None:
    """A process that is told to end while an upload is under way gives its part of the log out of its hands."""
    home, file_id = tmp_path / "home", str(uuid.uuid4())
    with closing(open_default(home)) as node:
        ending = open_default(home)
        session, release = retry(ending.kernel, file_id), ending.kernel.parts.log.close

        def settled() -> None:
            release()
            node.kernel.background.recover()
            with pytest.raises((ArtstoreError, OSError, RuntimeError)):
                session.commit()

        ending.kernel.parts.log.close = settled  # type: ignore[method-assign]
        ending.close()
        assert node.kernel.search(Query()).items == []
        retry(node.kernel, file_id).commit()
    assert list(audit(home)) == [file_id]
    assert open_intents(home) == []
