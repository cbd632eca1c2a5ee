"""Faults of a cache: lost, cut, flipped, locked, full, read-only, older. The element serves, answers truly or with 503,
and repairs the cache, while it runs and when it starts, with one worker and with two."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.audit import audit, open_intents
from support.long_runs import usual_or_long
from support.servers import Element, file_path, until

Tried = Callable[[str], None]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LOCKED = 8.0, 30.0
"""Seconds for which another program locks the database, in a usual and in a long run; a call gives up after five."""
BOUND = 12.0
"""Seconds within which an upload is answered in every state of the cache."""
CHOSEN = "00000000-0000-4000-8000-00000000%04x"


@dataclass
class World:
    """An element, its cache on a file system of its own, and what a client knows of it."""

    home: Path
    workers: int
    element: Element | None = None
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    older: bytes = b""
    numbers: Iterator[int] = field(default_factory=itertools.count)
    refused: int = 0
    answered: int = 0
    slowest: float = 0.0
    """Seconds that a repair took at most."""

    @property
    def path(self) -> Path:
        return self.home.with_name("cache") / "cache.db"

    def __str__(self) -> str:
        searches = f"searches: {self.answered} answered, {self.refused} refused"
        return f"{self.workers} workers; {searches}; repaired within {self.slowest:.1f} s"

    def start(self) -> Element:
        url = {"CACHE__SQL__URL": f"sqlite:///{self.path}", "LIMITS__MIN_FREE": "0"}
        self.element = servers.start("starlette", self.home, workers=self.workers, settings=url)
        return self.element

    def end(self, with_signal: signal.Signals) -> None:
        assert self.element is not None
        os.killpg(self.element.process.pid, with_signal)
        self.element.process.wait(40)
        log = self.element.log.read_text()
        assert not re.findall(r"(?m)^.*(?:Traceback|artstore\.access \S+ \S+ \S+ 500 ).*$", log), log[-4000:]

    def change(self) -> None:
        """Upload twice, once under a chosen id, update and delete: all of that works, and in time."""
        element, number = self.element, next(self.numbers)
        assert element is not None
        for answer in (
            timed(lambda: element.post(b"%d" % number, f"файл {number}.txt")),
            timed(lambda: element.put(CHOSEN % number, b"chosen")),
        ):
            assert answer.status == 201, answer
            self.there[answer.json()["file_id"]] = answer.json()
        updated, deleted = list(self.there)[-3], list(self.there)[-4]
        answer = timed(lambda: element.patch(updated, {"description": str(number)}))
        assert answer.status == 200, answer
        self.there[updated] = answer.json()
        assert timed(lambda: element.ask("DELETE", file_path(deleted))).status == 204
        del self.there[deleted]
        self.gone.add(deleted)

    def look(self) -> None:
        """Read every file by its id; a search is complete or refused."""
        element = self.element
        assert element is not None
        for file_id, attr in self.there.items():
            found = element.get(file_path(file_id))
            assert (found.status, found.json()) == (200, attr)
        for file_id in (*list(self.there)[:2], *list(self.there)[-2:]):
            assert element.download(file_id).status == 200
        for file_id in self.gone:
            assert element.get(file_path(file_id)).status == 404
        self.search()

    def search(self) -> bool:
        assert self.element is not None
        page = self.element.get("/api/v1/files?limit=1000")
        if page.status == 200:
            assert {a["file_id"]: a for a in page.json()["items"]} == self.there
            self.answered += 1
            return True
        page.problem(503, "unavailable")
        assert page.header("retry-after")
        self.refused += 1
        return False

    def wait_repaired(self) -> None:
        """Wait until it is complete, ready, and nothing is pending, without an operator."""
        element = self.element
        assert element is not None
        began = time.monotonic()
        until(self.search, "a search that is answered", 200)
        until(lambda: element.get("/health/ready").status == 200, "ready", 200)
        until(lambda: not element.pending(), "nothing pending", 200)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.look()


def timed(ask: Callable[[], servers.Answer]) -> servers.Answer:
    began = time.monotonic()
    answer = ask()
    assert time.monotonic() - began < BOUND, answer
    return answer


def workers(usual: int) -> pytest.MarkDecorator:
    """Set how many processes serve; a long run tries the other number as well."""
    other = pytest.param(3 - usual, marks=pytest.mark.long)
    return pytest.mark.parametrize("world", [usual, other], indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "home", request.param)
    world.path.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "artstore-test", str(world.path.parent)]
    subprocess.run(mount, check=True)
    try:
        element = world.start()
        for n in range(8):
            made = element.upload(b"%d" % n, f"old {n}.txt")
            world.there[made["file_id"]] = made
        world.end(signal.SIGTERM)
        world.older = world.path.read_bytes()
        world.start()
        world.change()
        yield world
    finally:
        if world.element is not None and world.element.process.poll() is None:
            world.element.kill()
        subprocess.run(["umount", "--lazy", str(world.path.parent)], check=True)


def lost(world: World) -> None:
    for path in world.path.parent.iterdir():
        path.unlink()


def lost_alone(world: World) -> None:
    world.path.unlink()


def without_wal(world: World) -> None:
    world.path.with_name("cache.db-wal").unlink(missing_ok=True)


def without_shm(world: World) -> None:
    world.path.with_name("cache.db-shm").unlink(missing_ok=True)


def cut(world: World) -> None:
    os.truncate(world.path, world.path.stat().st_size // 3)


def wal_cut(world: World) -> None:
    wal = world.path.with_name("cache.db-wal")
    if wal.exists():
        os.truncate(wal, 0)


def flipped(world: World) -> None:
    """A byte in each page: no region is spared."""
    with open(world.path, "r+b") as file:
        for page in range(world.path.stat().st_size // 4096):
            file.seek(page * 4096 + page * 97 % 4096)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0x55]))


def copied_over(world: World) -> None:
    world.path.write_bytes(world.older)


def renamed_over(world: World) -> None:
    world.path.with_name("older").write_bytes(world.older)
    world.path.with_name("older").rename(world.path)


def a_directory(world: World) -> None:
    world.path.unlink()
    world.path.mkdir()


FAULTS = [
    lost,
    lost_alone,
    without_wal,
    without_shm,
    cut,
    wal_cut,
    flipped,
    copied_over,
    renamed_over,
    a_directory,
]


@workers(2)
def test_a_cache_that_breaks_while_it_serves_is_repaired(world: World, tried: Tried) -> None:
    for fault in FAULTS:
        world.change()
        fault(world)
        world.look()
        world.change()
        world.look()
        world.wait_repaired()
    tried(f"{len(FAULTS)} faults; {world}")
    at_rest(world)


@workers(1)
@usual_or_long("every", 3, 1)
def test_a_cache_that_broke_while_stopped_is_repaired(world: World, every: int, tried: Tried) -> None:
    ends = [signal.SIGTERM, signal.SIGKILL]
    starts = list(itertools.product(FAULTS, ends))[::every]
    for fault, end in starts:
        world.change()
        world.end(end)
        if world.path.is_file():
            fault(world)
        world.start()
        world.look()
        world.change()
        world.wait_repaired()
        world.older = (
            world.older if world.path.stat().st_size > len(world.older) * 2 else world.path.read_bytes()
        )
    tried(f"{len(starts)} starts; {world}")
    at_rest(world)


@workers(2)
@usual_or_long("locked", *LOCKED)
def test_files_are_served_while_another_program_locks_the_cache(
    world: World, locked: float, tried: Tried
) -> None:
    assert world.element is not None
    with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        rounds = 0
        while time.monotonic() - began < locked or not rounds:
            world.change()
            world.look()
            rounds += 1
        ready = world.element.get("/health/ready")
        assert (ready.status, list(ready.json()["checks"])) == (503, ["cache"])
        world.end(signal.SIGKILL)
        world.start()  # locked at start as well
        world.look()
        world.change()
        world.look()
        other.execute("ROLLBACK")
    world.wait_repaired()
    tried(f"locked: {rounds} rounds; {world}")
    at_rest(world)


@workers(1)
def test_files_are_served_while_the_cache_is_full_or_read_only(world: World, tried: Tried) -> None:
    assert world.element is not None
    filler = world.path.with_name("filler")

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError as e:
                assert e.errno == errno.ENOSPC  # noqa: PT017 - the loop ends by it

    def restart() -> None:
        world.end(signal.SIGKILL)
        world.start()
        world.look()

    for begin in (lambda: None, restart):
        fill()
        begin()
        for _ in range(6):
            world.change()
            world.look()
        filler.unlink()
        world.wait_repaired()
    world.end(signal.SIGKILL)
    mount = ["mount", "-o", "remount,ro", str(world.path.parent)]
    # Its workers may take a moment longer to die than the process that was waited for.
    until(lambda: subprocess.run(mount, check=False).returncode == 0, "no process writes to the cache")
    world.start()
    world.look()
    world.change()
    world.look()
    assert world.element.get("/health/ready").status == 503
    mount[2] = "remount,rw"
    subprocess.run(mount, check=True)
    world.wait_repaired()
    tried(f"full, read-only; {world}")
    at_rest(world)


def at_rest(world: World) -> None:
    world.end(signal.SIGTERM)
    assert audit(world.home) == {i: known(world.home, a) for i, a in world.there.items()}
    assert open_intents(world.home) == []
    shutil.rmtree(world.home / "state" / "wal")


def known(home: Path, attr: dict[str, Any]) -> Any:
    """The sidecar of an answer; fields that an answer does not show are its own."""
    found = next(s for i, s in audit(home).items() if i == attr["file_id"])
    assert {n: v for n, v in found.items() if n in attr} == attr
    return found
