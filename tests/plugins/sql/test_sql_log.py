"""The log in PostgreSQL, between processes that live, are paused past their lease, or are dead."""

from __future__ import annotations

import itertools
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
from support.programs import Program
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
    """Opens logs of one element, and closes them at the end."""

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
log.begin("update", by="node", file_id="ended", key="k/ended").commit()
intent = log.begin("upload", by="node", file_id="open", key="k/open")
print("written", flush=True)
if sys.argv[5:] == ["locked"]:
    with log.exclusive("recovery"):
        print("locked", flush=True)
        sys.stdin.readline()
sys.stdin.readline()
ends = time.monotonic() + (30 if sys.argv[5:] == ["fenced"] else 0)
while True:
    try:
        intent.sync()
    except Exception as e:
        print(type(e).__name__, flush=True)
        break
    if time.monotonic() > ends:
        print("not fenced", flush=True)
        break
intent.commit()
log.begin("upload", by="node", file_id="again", key="k/again").commit()
print("finished", flush=True)
sys.stdin.readline()
log.close()
"""


@pytest.fixture
def node(tmp_path: Path, postgres: Postgres, prefix: str) -> Iterator[Callable[..., Program]]:
    """Starts a node in a process of its own, with two ended intents and an open one."""
    with opening(Program) as start:

        def start_node(*arguments: object) -> Program:
            program = start(NODE, postgres.url(), prefix, tmp_path, LEASE, *arguments)
            assert program.read_line() == "written"
            return program

        yield start_node


def statuses(log: SqlLog) -> dict[str | None, str]:
    """Return the status of each transaction by its file id."""
    return {t.file_id: t.status for t in log.transactions()}


def abandoned(log: SqlLog) -> list[Any]:
    """Wait until the lease of another process ends, and return what that process left."""
    return until(lambda: list(log.abandoned()), "a lease to end")  # type: ignore[no-any-return]


def test_a_second_end_of_an_intent_has_no_effect(opened: Open) -> None:
    log = opened()
    intent = log.begin("upload", by="ivanov", file_id="1")
    intent.commit()
    intent.roll_back("too late")
    assert statuses(log) == {"1": "committed"}


def test_the_open_intents_of_an_idle_live_process_outlive_its_lease(opened: Open) -> None:
    one, two = opened(), opened()
    intent = one.begin("upload", by="ivanov", file_id="1", key="a/1")
    two.begin("upload", by="petrov", file_id="2", key="a/2")
    deadline = time.monotonic() + 3 * LEASE
    while time.monotonic() < deadline:
        assert list(two.abandoned()) == []
    intent.sync()
    intent.commit()
    assert statuses(two)["1"] == "committed"


def test_what_a_killed_process_left_is_recovered_by_another(
    opened: Open, node: Callable[..., Program]
) -> None:
    log, dead = opened(), node()
    dead.kill()
    (found,) = abandoned(log)
    assert [t.file_id for t in found.pending] == ["open"]
    assert [t.file_id for t in found.uncheckpointed] == ["ended"]
    found.release()
    # The process that recovers may die as well: then the next one finds it again.
    (again,) = opened().abandoned()
    again.close()
    (again,) = log.abandoned()
    again.end(again.pending[0], "rolled_back", "the process died")
    again.close()
    assert list(log.abandoned()) == []
    assert statuses(log) == {"done": "committed", "ended": "committed", "open": "rolled_back"}


def test_a_process_paused_past_its_lease_cannot_end_a_recovered_intent(
    opened: Open, node: Callable[..., Program]
) -> None:
    log, paused = opened(), node()
    paused.pause()
    (found,) = abandoned(log)
    found.end(found.pending[0], "rolled_back", "the process died")
    found.close()
    paused.resume()
    paused.send_line()
    assert paused.read_line() in ("Unavailable", "not fenced")  # it may not have noticed yet
    assert paused.read_line() == "finished"
    # It registered again under a new id.
    assert statuses(log) == {
        "done": "committed", "ended": "committed", "open": "rolled_back", "again": "committed",
    }  # fmt: skip
    assert list(log.abandoned()) == []


def test_a_fenced_process_cannot_sync_its_intent(opened: Open, node: Callable[..., Program]) -> None:
    log, paused = opened(), node("fenced")
    paused.pause()
    (found,) = abandoned(log)
    paused.resume()
    paused.send_line()
    assert paused.read_line() == "Unavailable"
    assert paused.read_line() == "finished"
    (found,) = log.abandoned()
    assert [t.file_id for t in found.pending] == ["open"]


def test_a_killed_process_releases_its_lock(opened: Open, node: Callable[..., Program]) -> None:
    log, holder = opened(), node("locked")
    assert holder.read_line() == "locked"
    entered = threading.Event()

    def enter() -> None:
        with log.exclusive("recovery"):
            entered.set()

    with log.exclusive("another"), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(enter)
        assert not entered.wait(2 * LEASE)
        holder.kill()
        waiting.result()


def test_a_process_paused_past_its_lease_loses_its_lock(opened: Open, node: Callable[..., Program]) -> None:
    log, holder = opened(), node("locked")
    assert holder.read_line() == "locked"
    holder.pause()
    with log.exclusive("recovery"):
        pass
    holder.resume()
    holder.send_line()
    holder.send_line()
    holder.read_line()
    assert holder.read_line() == "finished"


def test_all_nodes_together_run_one_job_at_a_time(opened: Open, tmp_path: Path) -> None:
    nodes = [Jobs(tmp_path / name, opened()) for name in ("one", "two")]
    finish = threading.Event()

    def wait(_: Job) -> None:
        assert finish.wait(60)

    first = nodes[0].start("check", by="ivanov", digests=False, work=wait)
    for _ in range(2):  # a refused start keeps no lock
        with pytest.raises(Conflict, match="one at a time"):
            nodes[1].start("rebuild", by="petrov", digests=False, work=wait)
    finish.set()
    until(lambda: nodes[0].get(first.id).status == "done", "the job to end")
    second = until(lambda: try_start(nodes[1], wait), "the lock to be free")
    until(lambda: nodes[1].get(second.id).status == "done", "the next to end")
    for jobs in nodes:
        jobs.close()


def try_start(jobs: Jobs, work: Callable[[Job], None]) -> Record | None:
    try:
        return jobs.start("rebuild", by="petrov", digests=False, work=work)
    except Conflict:
        return None


def test_a_keep_alive_on_a_released_lock_harms_no_other_lock(postgres: Postgres, opened: Open) -> None:
    log = opened()
    with log._locks._database.connection() as released:
        pass
    log._locks._keep_alive(released)
    keep_alives = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'artstore' AND query = 'SELECT 1'"
    assert postgres.ask(keep_alives) == []
    with log.exclusive("recovery"):
        until(lambda: postgres.ask(keep_alives), "a keep-alive of the holder")


def test_the_error_of_a_transaction_is_cut_at_500_characters(opened: Open) -> None:
    log = opened()
    log.begin("update", by="petrov", file_id="1").end_in_doubt("x" * 9999)
    assert [t.error for t in log.transactions()] == ["x" * 500]


def test_ended_transactions_older_than_keep_hours_are_removed(opened: Open) -> None:
    log = opened(keep_hours=0)
    log.begin("upload", by="ivanov", file_id="1").commit()
    log.begin("upload", by="ivanov", file_id="2")
    log.checkpoint(log.position())
    assert statuses(log) == {"2": "pending"}


def test_an_end_during_an_outage_is_written_after_it(tmp_path: Path, prefix: str, opened: Open) -> None:
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
        until(lambda: statuses(log) == {"1": "committed"}, "the end to be written")
        log.close()
    finally:
        server.close()


def test_the_error_for_a_wrong_password_does_not_show_it(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url().replace("hunter2", "hunter3")
    with pytest.raises(ConfigError) as caught:
        SqlLog(LogSettings(url=SecretStr(url)), make_context(tmp_path))
    assert caught.value.place == "wal.sql.url"
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("put_arrives", ["applied", "late"])
def test_a_retry_on_another_node_makes_no_second_file(
    tmp_path: Path,
    s3_server: s3.Seaweed,
    postgres: Postgres,
    prefix: str,
    put_arrives: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deciding put is in flight when its node dies, or loses its lock with a restart of PostgreSQL.

    No lease has ended yet, and no row records the put. Both uploads begin within one second.
    """
    proxy = HttpProxy(s3_server.port)
    shared = s3.environment(s3.settings(s3_server, s3_server.bucket())) | {
        "ELEMENT_ID": "se-01",
        "WAL": "sql",
    }
    for role in ("CACHE", "WAL"):
        shared |= {f"{role}__SQL__URL": postgres.url(), f"{role}__SQL__TABLE_PREFIX": prefix}
    address = {"BACKEND__S3__ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
    nodes = []
    for name, own in {"one": address, "two": {}}.items():
        servers.prepare(tmp_path / name)
        environment = {f"ARTSTORE_{n}": v for n, v in (shared | own).items()}
        nodes.append(open_node(load(home=tmp_path / name, environ=environment)))
    one, two = (node.kernel for node in nodes)
    chosen = "00000000-0000-4000-8000-0000000000aa"

    at = now()
    monkeypatch.setattr("artstore.kernel.now", lambda: at)

    def put(kernel: Kernel) -> tuple[Attr, bool]:
        session = kernel.begin(BY, filename="a.txt", file_id=chosen)
        session.write(b"data")
        return session.commit()

    try:
        proxy.catch(2, put_arrives, "PUT")  # the first is that of the data
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(put, one)
            assert proxy.arrived(30)
            assert proxy.caught
            held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            assert postgres.ask(held)
            attr, new = put(two)
            assert new is (put_arrives == "late")
            proxy.caught.release.set()
            if new:
                with pytest.raises(Unavailable, match="aborted"):
                    first.result()
            else:
                assert first.result() == (attr, True)
        two.delete(BY, chosen, lambda _: None)
        there = [e for d in two.parts.backend.list_directories() for e in two.parts.backend.list(d)]
        assert there == []
        # Node one rebuilds the cache, which may last long: a client that retries meanwhile must not wait for that.
        created: list[bool] = []

        def retry_meanwhile(*_: object) -> None:
            assert not two.index.backlog.is_complete()
            created.append(put(two)[1])

        monkeypatch.setattr("artstore.recovery.Recovery._refresh_entries", retry_meanwhile)
        one.parts.cache.clear()
        one.background.recover()
        monkeypatch.undo()
        assert created[0]
        assert two.index.backlog.is_complete()
        assert [found.file_id for found in two.search(Query()).items] == [chosen]
    finally:
        proxy.close()
        for node in nodes:
            node.close()
