"""The log in PostgreSQL: what two processes tell each other by it, alive, paused and dead."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from artstore.attr import Attr
from artstore.errors import ConfigError, Conflict, Unavailable
from artstore.host.boot import open_node
from artstore.host.settings import load
from artstore.ids import now
from artstore.kernel import Kernel
from artstore.maintenance.jobs import Job, Jobs, Record
from artstore.spi import Query
from artstore.testing import make_context
from artstore_sql.postgres.log import LogSettings, SqlLog
from support import s3, servers
from support.postgres import Postgres
from support.proxies import HttpProxy
from support.servers import until
from support.stores import opening
from support.uploads import BY

PREFIXES = itertools.count()
LEASE = 1.0

Open = Callable[..., SqlLog]


@pytest.fixture
def prefix() -> str:
    return f"log_{next(PREFIXES):02}_"


@pytest.fixture
def opened(tmp_path: Path, postgres: Postgres, prefix: str) -> Iterator[Open]:
    """Opens logs of one element; all are closed in the end."""

    def make(**changes: Any) -> SqlLog:
        settings: dict[str, Any] = {"table_prefix": prefix, "lease": LEASE, "timeout": 30} | changes
        return SqlLog(LogSettings(url=SecretStr(postgres.url()), **settings), make_context(tmp_path))

    with opening(make) as open_it:
        yield open_it


NODE = """
import sys, time
from pathlib import Path
from pydantic import SecretStr
from artstore.testing import make_context
from artstore_sql.postgres.log import LogSettings, SqlLog

url, prefix, home, lease = sys.argv[1:5]
settings = LogSettings(url=SecretStr(url), table_prefix=prefix, lease=float(lease), timeout=30)
log = SqlLog(settings, make_context(Path(home)))
log.begin("upload", by="node", file_id="done", key="k/done").commit()
log.checkpoint(log.position())
log.begin("update", by="node", file_id="late", key="k/late").commit()
late = log.begin("upload", by="node", file_id="open", key="k/open")
print("written", flush=True)
if sys.argv[5:] == ["locked"]:
    with log.exclusive("recovery"):
        print("locked", flush=True)
        sys.stdin.readline()
sys.stdin.readline()
ends = time.monotonic() + (30 if sys.argv[5:] == ["fenced"] else 0)
while True:
    try:
        late.sync()
    except Exception as e:
        print(type(e).__name__, flush=True)
        break
    if time.monotonic() > ends:
        print("mine", flush=True)
        break
late.commit()
log.begin("upload", by="node", file_id="again", key="k/again").commit()
print("over", flush=True)
sys.stdin.readline()
log.close()
"""


class Node:
    """Another process, on a line of its own."""

    def __init__(self, *args: object) -> None:
        paths = os.pathsep.join(p for p in sys.path if p)
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE, *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def node(tmp_path: Path, postgres: Postgres, prefix: str) -> Iterator[Callable[..., Node]]:
    begun: list[Node] = []

    def begin(*args: object) -> Node:
        begun.append(Node(postgres.url(), prefix, tmp_path, LEASE, *args))
        assert begun[-1].hear() == "written"
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def told(log: SqlLog) -> dict[str | None, str]:
    return {t.file_id: t.status for t in log.transactions()}


def left(log: SqlLog) -> list[Any]:
    """What a dead process left, once its lease is over."""
    return until(lambda: list(log.abandoned()), "a lease to end")  # type: ignore[no-any-return]


def test_each_end_is_told(opened: Open) -> None:
    log = opened()
    log.begin("upload", by="ivanov", file_id="1", key="a/1").commit()
    log.begin("upload", by="ivanov", file_id="2", key="a/2").roll_back("the client went away")
    log.begin("update", by="petrov", file_id="3", key="a/3", revision=2).fail("x" * 9999)
    log.begin("mode", by="petrov", key="ro")
    assert told(log) == {"1": "committed", "2": "rolled_back", "3": "failed", None: "pending"}
    found = {t.file_id: t for t in log.transactions()}
    assert (found["1"].error, found["2"].error, found["3"].error) == (None, "the client went away", "x" * 500)
    assert (found["3"].operation, found["3"].by, found["3"].key) == ("update", "petrov", "a/3")
    assert found["1"].started <= str(found["1"].finished)
    assert [t.file_id for t in log.transactions(status="pending")] == [None]
    everything = [t.id for t in log.transactions()]
    assert everything == sorted(everything, reverse=True)
    assert [t.id for t in log.transactions(limit=2, before=everything[0])] == everything[1:3]


def test_a_second_end_changes_nothing(opened: Open) -> None:
    log = opened()
    intent = log.begin("upload", by="ivanov", file_id="1")
    intent.commit()
    intent.roll_back("too late")
    assert told(log) == {"1": "committed"}


def test_a_neighbour_that_lives_is_left_alone(opened: Open) -> None:
    one, two = opened(), opened()
    intent = one.begin("upload", by="ivanov", file_id="1", key="a/1")
    two.begin("upload", by="petrov", file_id="2", key="a/2")
    deadline = time.monotonic() + 3 * LEASE
    while time.monotonic() < deadline:
        assert list(two.abandoned()) == []
    intent.sync()
    intent.commit()
    assert told(two)["1"] == "committed"


def test_closing_leaves_to_others_at_once_what_is_open(opened: Open) -> None:
    one, two = opened(lease=3600), opened(lease=3600)
    one.begin("upload", by="ivanov", file_id="open", key="a/1")
    one.begin("upload", by="ivanov", file_id="done", key="a/2").commit()
    one.close()
    (found,) = two.abandoned()
    assert [t.file_id for t in found.pending] == ["open"]
    assert [t.file_id for t in found.uncheckpointed] == ["done"]


def test_closing_leaves_nothing_of_what_is_settled(opened: Open) -> None:
    one, two = opened(), opened()
    one.begin("upload", by="ivanov", file_id="done", key="a/2").commit()
    one.checkpoint(one.position())
    one.close()
    assert list(two.abandoned()) == []


def test_a_killed_process_is_settled_by_another(opened: Open, node: Callable[..., Node]) -> None:
    log, dead = opened(), node()
    dead.process.send_signal(signal.SIGKILL)
    (found,) = left(log)
    assert [t.file_id for t in found.pending] == ["open"]
    assert [t.file_id for t in found.uncheckpointed] == ["late"]
    found.release()
    # Whoever settles may die as well: then it is found again.
    (again,) = opened().abandoned()
    again.close()
    (again,) = log.abandoned()
    again.end(again.pending[0], "rolled_back", "the process died")
    again.close()
    assert list(log.abandoned()) == []
    assert told(log) == {"done": "committed", "late": "committed", "open": "rolled_back"}


def test_who_was_paused_past_the_lease_ends_nothing_of_what_was_settled(
    opened: Open, node: Callable[..., Node]
) -> None:
    log, paused = opened(), node()
    paused.process.send_signal(signal.SIGSTOP)
    (found,) = left(log)
    found.end(found.pending[0], "rolled_back", "the process died")
    found.close()
    paused.process.send_signal(signal.SIGCONT)
    paused.tell()
    assert paused.hear() in ("Unavailable", "mine")  # it may not have noticed yet
    assert paused.hear() == "over"
    # It came back as somebody else.
    assert told(log) == {
        "done": "committed", "late": "committed", "open": "rolled_back", "again": "committed",
    }  # fmt: skip
    assert list(log.abandoned()) == []


def test_a_fenced_process_notices(opened: Open, node: Callable[..., Node]) -> None:
    log, paused = opened(), node("fenced")
    paused.process.send_signal(signal.SIGSTOP)
    (found,) = left(log)
    paused.process.send_signal(signal.SIGCONT)
    paused.tell()
    assert paused.hear() == "Unavailable"
    assert paused.hear() == "over"
    (found,) = log.abandoned()
    assert [t.file_id for t in found.pending] == ["open"]


def test_locks_exclude_processes_and_end_with_them(opened: Open, node: Callable[..., Node]) -> None:
    log, holder = opened(), node("locked")
    assert holder.hear() == "locked"
    entered = threading.Event()

    def enter() -> None:
        with log.exclusive("recovery"):
            entered.set()

    with log.exclusive("another"), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(enter)
        assert not entered.wait(2 * LEASE)
        holder.process.send_signal(signal.SIGKILL)
        waiting.result()


def test_a_paused_holder_loses_its_lock(opened: Open, node: Callable[..., Node]) -> None:
    log, holder = opened(), node("locked")
    assert holder.hear() == "locked"
    holder.process.send_signal(signal.SIGSTOP)
    with log.exclusive("recovery"):
        pass
    holder.process.send_signal(signal.SIGCONT)
    holder.tell()
    holder.tell()
    holder.hear()
    assert holder.hear() == "over"


def test_one_job_at_a_time_on_all_nodes(opened: Open, tmp_path: Path) -> None:
    homes = [Jobs(tmp_path / name, opened()) for name in ("one", "two")]
    over = threading.Event()

    def wait(_: Job) -> None:
        assert over.wait(60)

    first = homes[0].start("check", by="ivanov", digests=False, work=wait)
    for _ in range(2):  # refused, it holds nothing
        with pytest.raises(Conflict, match="one at a time"):
            homes[1].start("rebuild", by="petrov", digests=False, work=wait)
    over.set()
    until(lambda: homes[0].get(first.id).status == "done", "the job to end")
    second = until(lambda: tried(homes[1], wait), "the lock to be free")
    until(lambda: homes[1].get(second.id).status == "done", "the next to end")
    for home in homes:
        home.close()


def tried(home: Jobs, work: Callable[[Job], None]) -> Record | None:
    try:
        return home.start("rebuild", by="petrov", digests=False, work=work)
    except Conflict:
        return None


def test_a_lock_given_back_while_it_is_kept_costs_no_other(postgres: Postgres, opened: Open) -> None:
    log = opened()
    with log._locks._database.connection() as given_back:
        pass
    log._locks._keep_alive(given_back)
    kept = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'artstore' AND query = 'SELECT 1'"
    assert postgres.ask(kept) == []
    with log.exclusive("recovery"):
        until(lambda: postgres.ask(kept), "the holder to show that it lives")


def test_threads_exclude_each_other(opened: Open) -> None:
    log, inside, most = opened(), 0, 0

    def enter(_: int) -> None:
        nonlocal inside, most
        with log.exclusive("file 1"):
            inside += 1
            most = max(most, inside)
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(40)))
    assert most == 1


def test_what_one_owes_all_know_until_it_is_paid(opened: Open) -> None:
    one, two = opened(lease=3600), opened(lease=3600)
    assert not two.any_dirty()
    one.set_dirty()
    marks = one.position()
    assert one.any_dirty()
    assert two.any_dirty()
    one.set_dirty()
    one.clear_dirty(marks)
    assert two.any_dirty()
    one.clear_dirty(one.position())
    assert not one.any_dirty()
    assert not two.any_dirty()
    two.clear_dirty(two.position())  # who has begun nothing owes nothing


def test_what_the_dead_owed_is_owed_until_it_is_settled(opened: Open) -> None:
    one, two = opened(lease=3600), opened(lease=3600)
    one.begin("upload", by="ivanov", file_id="1", key="a/1")
    one.set_dirty()
    one.close()
    (found,) = two.abandoned()
    found.close()  # something of it is still open
    assert two.any_dirty()
    found.end(found.pending[0], "committed")
    found.close()
    assert not two.any_dirty()


def test_old_transactions_go(opened: Open) -> None:
    log = opened(keep_hours=0)
    log.begin("upload", by="ivanov", file_id="1").commit()
    log.begin("upload", by="ivanov", file_id="2")
    log.checkpoint(log.position())
    assert told(log) == {"2": "pending"}


def test_an_end_that_cannot_be_said_is_said_later(tmp_path: Path, prefix: str, opened: Open) -> None:
    server = Postgres()
    try:
        settings = LogSettings(url=SecretStr(server.url()), table_prefix=prefix, lease=LEASE, timeout=1)
        log = SqlLog(settings, make_context(tmp_path))
        intent = log.begin("upload", by="ivanov", file_id="1")
        server.stop()
        intent.commit()
        for call in (log.check, lambda: log.begin("upload", by="ivanov"), log.transactions):
            with pytest.raises(Unavailable):
                call()
        server.start()
        until(lambda: told(log) == {"1": "committed"}, "the end to be said")
        log.close()
    finally:
        server.close()


def test_a_wrong_password_is_explained_without_being_shown(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url().replace("hunter2", "hunter3")
    with pytest.raises(ConfigError) as caught:
        SqlLog(LogSettings(url=SecretStr(url)), make_context(tmp_path))
    assert caught.value.place == "wal.sql.url"
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("state", ["applied", "late"])
def test_a_retry_on_another_node_makes_no_second_file(
    tmp_path: Path,
    s3_server: s3.Seaweed,
    postgres: Postgres,
    prefix: str,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The put that decides is on its way when its node dies, or loses its lock with a restart of PostgreSQL; no lease
    is over yet, and no row tells of it. Both begin in one second."""
    proxy = HttpProxy(s3_server.port)
    told = s3.environment(s3.settings(s3_server, s3_server.bucket())) | {"ELEMENT_ID": "se-01", "WAL": "sql"}
    for role in ("CACHE", "WAL"):
        told |= {f"{role}__SQL__URL": postgres.url(), f"{role}__SQL__TABLE_PREFIX": prefix}
    address = {"BACKEND__S3__ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
    nodes = []
    for name, more in {"one": address, "two": {}}.items():
        servers.prepare(tmp_path / name)
        given = {f"ARTSTORE_{n}": v for n, v in (told | more).items()}
        nodes.append(open_node(load(home=tmp_path / name, environ=given)))
    one, two = (node.kernel for node in nodes)
    chosen = "00000000-0000-4000-8000-0000000000aa"

    at = now()
    monkeypatch.setattr("artstore.kernel.now", lambda: at)

    def put(kernel: Kernel) -> tuple[Attr, bool]:
        session = kernel.begin(BY, filename="a.txt", file_id=chosen)
        session.write(b"data")
        return session.commit()

    try:
        proxy.catch(2, state, "PUT")  # the first is that of the data
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(put, one)
            assert proxy.arrived(30)
            assert proxy.caught
            held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            assert postgres.ask(held)
            attr, new = put(two)
            assert new is (state == "late")
            proxy.caught.release.set()
            if new:
                with pytest.raises(Unavailable, match="aborted"):
                    first.result()
            else:
                assert first.result() == (attr, True)
        two.delete(BY, chosen, lambda _: None)
        there = [e for d in two.parts.backend.list_directories() for e in two.parts.backend.list(d)]
        assert there == []
        # One fills the cache anew, which may take long: whoever tries again meanwhile must not wait for that.
        made: list[bool] = []

        def touch(*_: object) -> None:
            assert not two.index.backlog.is_complete()
            made.append(put(two)[1])

        monkeypatch.setattr("artstore.recovery.Recovery._refresh_entries", touch)
        one.parts.cache.clear()
        one.background.recover()
        monkeypatch.undo()
        assert made[0]
        assert two.index.backlog.is_complete()
        assert [found.file_id for found in two.search(Query()).items] == [chosen]
    finally:
        proxy.close()
        for node in nodes:
            node.close()
