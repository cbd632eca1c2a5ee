"""A small file system filled again and again under load: reads and deletes go on, and it recovers by itself."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from artstore.spi import Context
from artstore_local.backend import LocalBackend
from support import servers
from support.audit import audit, open_intents
from support.long_runs import usual_or_long
from support.servers import Answer, Element, file_path, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CLIENTS = 6
ROUNDS = 2, 12
"""Times that the disk is full, in a usual and in a long run."""


@pytest.fixture(params=["tmpfs", "ext4"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Store and state on 16 MiB. On ext4 a name, a directory above all, takes room as well."""
    place = tmp_path / "small"
    place.mkdir()
    if request.param == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "artstore-test", str(place)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=1", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(mount, check=True)
    try:
        servers.prepare(place)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Client:
    """A client that uploads, reads and deletes files of its own, and remembers the answers."""

    def __init__(self, number: int) -> None:
        self.dice = random.Random(number)
        self.there: dict[str, str] = {}
        self.gone: set[str] = set()
        self.statuses: Counter[str] = Counter()

    def note(self, what: str, answer: Answer, done: int) -> bool:
        """Count an answer; return whether it was done. A refusal must be for lack of space."""
        self.statuses[f"{what} {answer.status}"] += 1
        if answer.status == done:
            return True
        answer.problem()
        assert answer.status in (503, 507), (what, answer)
        assert bool(answer.header("retry-after")) == (answer.status == 503), (what, answer)
        return False

    def upload(self, element: Element, size: int) -> int:
        body = self.dice.randbytes(size)
        answer = element.post(body, f"{self.dice.randrange(10**6)}.bin")
        if self.note("upload", answer, 201):
            self.there[answer.json()["file_id"]] = hashlib.sha256(body).hexdigest()
        return answer.status

    def read(self, element: Element, file_id: str) -> None:
        answer = element.download(file_id)
        assert answer.status == 200, answer
        assert hashlib.sha256(answer.body).hexdigest() == self.there[file_id]
        found = element.get(file_path(file_id))
        assert (found.status, found.json()["sha256"]) == (200, self.there[file_id])

    def delete(self, element: Element, file_id: str) -> None:
        answer = element.ask("DELETE", file_path(file_id))
        assert answer.status == 204, answer
        del self.there[file_id]
        self.gone.add(file_id)
        assert element.get(file_path(file_id)).status == 404

    def search(self, element: Element) -> None:
        page = element.get("/api/v1/files?limit=1000")
        if self.note("search", page, 200):
            found = {a["file_id"] for a in page.json()["items"]}
            assert self.there.keys() <= found
            assert not self.gone & found

    def some(self, most: int) -> list[str]:
        return self.dice.sample(sorted(self.there), min(most, len(self.there)))

    def fill(self, element: Element) -> None:
        """Upload files, large and small, until three small ones were refused; read files meanwhile."""
        refused = 0
        while refused < 3:
            size = 2_000 if refused else self.dice.choice((0, 3_000, 90_000, 700_000))
            refused += self.upload(element, size) == 507
            for file_id in self.some(1):
                self.read(element, file_id)
            if self.dice.random() < 0.1:
                self.search(element)

    def go_on(self, element: Element) -> None:
        """Do what must work on a full disk."""
        for file_id in self.some(3):
            self.read(element, file_id)
        self.search(element)
        for file_id in self.some(2):
            self.delete(element, file_id)

    def make_room(self, element: Element) -> None:
        for file_id in self.some(len(self.there) * 2 // 3):
            self.delete(element, file_id)


def fill_disk(home: Path) -> None:
    """Fill the disk, so that not even a name can be added."""
    with suppress(OSError), (home / "filler").open("ab", buffering=0) as filler:
        for size in (65536, 4096, 1024, 1):
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))
    with suppress(OSError):
        for _ in range(100):
            (home / f"directory-{secrets.token_hex(8)}").mkdir()


def test_staged_files_of_a_dead_process_are_removed_from_a_full_disk(home: Path) -> None:
    """There is no room for a staging directory of the process that recovers."""
    settings = LocalBackend.Settings(root=home / "files")
    backend = LocalBackend(settings, Context(home=home, files=home / "files", state=home / "state"))
    for n in range(8):
        backend.create(f"2026/11/22/10/kept-{n}.bin").publish(b"{}")
    backend.close()
    shards = [home / "files/.artstore/staging/1-dead" / str(n) for n in range(8)]
    for n, shard in enumerate(shards):
        shard.mkdir(parents=True)
        (shard / f"2026,11,22,10,,dead-{n}.bin").write_bytes(bytes(100_000))
        (shard / f"2026,11,22,10,,dead-{n}.bin.attr.json").write_bytes(b"{}")
    fill_disk(home)
    backend = LocalBackend(settings, Context(home=home, files=home / "files", state=home / "state"))
    assert len({(s.key, s.outcome) for s in backend.recover()}) == 8
    assert list(backend.in_progress()) == []
    assert not shards[0].parent.exists()
    assert all(e.data and e.sidecar for e in backend.list("2026/11/22/10"))
    backend.create("2026/11/22/10/new.bin").publish(b"{}")  # there is room for its staging directory now
    backend.close()


@pytest.mark.parametrize("home", ["ext4"], indirect=True)
def test_a_process_without_a_staging_directory_counts_as_a_writer(home: Path) -> None:
    context = Context(home=home, files=home / "files", state=home / "state")
    settings = LocalBackend.Settings(root=home / "files")
    LocalBackend(settings, context).close()
    fill_disk(home)
    other = LocalBackend(settings, context)
    assert [p.name for p in (home / "files/.artstore/staging").iterdir() if p.is_dir()] == []
    (home / "filler").unlink()
    backend = LocalBackend(settings, context)
    assert not backend.is_sole_writer()
    assert not other.is_sole_writer()
    other.close()
    assert backend.is_sole_writer()
    backend.close()


CACHES = """
import os, sys
from pathlib import Path
from artstore.errors import Unavailable
from artstore.spi import Context
from artstore_sql.sqlite.cache import SqlCache

home = Path(sys.argv[1])

def report(call):
    try:
        call()
        print("done", flush=True)
    except Unavailable as e:
        print(e.detail, flush=True)

def serve():
    cache = SqlCache(SqlCache.Settings(), Context(home=home, files=home / "files", state=home / "state"))
    report(cache.totals)
    while sys.stdin.readline() == "write\\n":
        report(lambda: cache.set_generation(os.urandom(8).hex()))
    cache.close()

while sys.stdin.readline():
    child = os.fork()
    if not child:
        serve()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def caches(home: Path) -> Iterator[Callable[[str], str]]:
    """Yield a function that sends `begin`, `write` or `end` to a cache, each cache in a process of its own, and returns
    the answer."""
    arguments = [sys.executable, "-c", CACHES, str(home)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def send(command: str) -> str:
            assert process.stdin
            assert process.stdout
            print(command, file=process.stdin, flush=True)
            return process.stdout.readline().strip()

        yield send
    assert process.returncode == 0


def leave_free(home: Path, size: int) -> None:
    """Fill the disk but for `size` bytes."""
    fill_disk(home)
    filler = home / "filler"
    os.truncate(filler, filler.stat().st_size - size)


def empty(home: Path) -> None:
    (home / "filler").unlink()
    for path in home.glob("directory-*"):
        path.rmdir()


@pytest.mark.parametrize("home", ["ext4"], indirect=True)
def test_a_cache_on_a_full_disk_raises_and_its_process_lives(
    home: Path, tried: Callable[[str], None]
) -> None:
    """SQLite maps the index of its WAL into memory: a page without a block would be SIGBUS."""
    answers: Counter[str] = Counter()
    with caches(home) as send:
        for room in (8 << 20, 0, 8192, 10240, 131072, 300000):
            leave_free(home, room)
            answers[f"open: {send('begin')}"] += 1
            empty(home)
            if not room:
                until(lambda: send("write") == "done", "the cache is in use")
            assert send("end") == "0"
        for room in (0, 5120, 6144, 8192, 12288):  # taken by its WAL, and then by the index
            assert send("begin") == "done"
            leave_free(home, room)
            answers[f"write: {send('write')}"] += 1
            empty(home)
            assert send("write") == "done"
            assert send("end") == "0"
    full = "The cache does not answer: database or disk is full."
    nothing_left = "The cache does not answer: No space left on device."
    assert answers.keys() == {"open: done", f"open: {nothing_left}", "write: done", f"write: {full}"}
    tried(", ".join(f"{times} {what}" for what, times in sorted(answers.items())))


@usual_or_long("last", *ROUNDS)
@pytest.mark.parametrize(("home", "first"), [("tmpfs", 0), ("ext4", 1)], indirect=["home"])
def test_an_element_recovers_each_time_its_disk_is_full(
    home: Path, first: int, last: int, tried: Callable[[str], None]
) -> None:
    settings = {"LIMITS__MIN_FREE": "0"}
    clients = [Client(n) for n in range(CLIENTS)]
    pool = ThreadPoolExecutor(CLIENTS)

    def for_all(what: Callable[[Client, Element], None], element: Element) -> None:
        for done in [pool.submit(what, client, element) for client in clients]:
            done.result()

    def recovers(element: Element) -> None:
        until(lambda: clients[0].upload(element, 50_000) == 201, "an upload is taken again")
        until(lambda: element.get("/api/v1/files").status == 200, "a search is answered again")
        for_all(Client.search, element)

    def start() -> Element:
        return servers.start("starlette", home, workers=2, settings=settings)

    element = start()
    try:
        for number in range(first, last):
            for_all(Client.fill, element)
            fill_disk(home)
            for_all(Client.go_on, element)
            if number == 1:
                # The space that the deletions freed is filled as well, so that it starts without any.
                for_all(Client.fill, element)
                element.kill()
                fill_disk(home)
                element = start()
                for_all(Client.go_on, element)
            for path in home.glob("directory-*"):
                path.rmdir()
            (home / "filler").unlink()
            for_all(Client.make_room, element)
            recovers(element)
        # Each worker writes at its next upload the ends that had no room in the log.
        until(
            lambda: clients[0].upload(element, 50_000) == 201 and not element.pending(), "nothing is pending"
        )
    finally:
        pool.shutdown()
        with suppress(ProcessLookupError):
            os.killpg(element.process.pid, signal.SIGTERM)
        element.process.wait(30)
    for log in home.parent.glob("*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()[-4000:]
    found = audit(home)
    assert {i: a["sha256"] for i, a in found.items()} == {i: h for c in clients for i, h in c.there.items()}
    assert open_intents(home) == []
    statuses = sum((client.statuses for client in clients), Counter())
    assert statuses["upload 507"] >= CLIENTS * (last - first)
    tried(", ".join(f"{what}: {times}" for what, times in sorted(statuses.items())))
