"""A worker that is stopped for a while, and a store that lost the record of its element."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from support import servers
from support.audit import audit
from support.postgres import Postgres
from support.servers import ARTSTORE, Answer, Element, until

pytestmark = pytest.mark.slow

BODY = b"slow " * 300_000


def slow_upload(element: Element, answers: list[Answer]) -> tuple[threading.Event, threading.Thread]:
    """An upload of which half is sent before the event, and half after it."""
    go = threading.Event()

    def run() -> None:
        head = element.head("POST", "/api/v1/files?filename=slow.bin", [("Content-Length", str(len(BODY)))])
        with element.connect() as connection:
            connection.send(head + BODY[: len(BODY) - 1000])
            go.wait(60)
            connection.send(BODY[len(BODY) - 1000 :])
            answers.append(connection.answer("POST"))

    thread = threading.Thread(target=run)
    thread.start()
    return go, thread


def test_a_stopped_worker_is_not_dead(tmp_path: Path) -> None:
    """Its lock is held while it is stopped: nobody touches what is its own, and it goes on where it was."""
    with servers.serving("starlette", tmp_path / "home") as element:
        (worker,) = element.workers()
        answers: list[Answer] = []
        go, thread = slow_upload(element, answers)
        until(element.staged, "a staged upload")
        os.kill(worker, signal.SIGSTOP)
        staged = element.staged()
        # Others come, recover, and go.
        told = subprocess.run(
            [ARTSTORE, "recover", "--home", str(element.home)], capture_output=True, text=True, check=False
        )
        assert (told.returncode, told.stdout) == (0, "Recovered: nothing to do.\n"), told
        assert element.staged() == staged
        os.kill(worker, signal.SIGCONT)
        go.set()
        thread.join()
        assert answers[0].status == 201
        assert element.download(answers[0].json()["file_id"]).body == BODY
        element.stop()
        assert len(audit(element.home)) == 1


def test_a_worker_whose_staging_was_taken_away_fails_cleanly(tmp_path: Path) -> None:
    """On local disk nobody reaps what is held. Should it happen all the same, the writer must lose."""
    element = servers.start("starlette", tmp_path / "home")
    (worker,) = element.workers()
    try:
        kept = element.upload(b"kept")
        answers: list[Answer] = []
        go, thread = slow_upload(element, answers)
        until(element.staged, "a staged upload")
        os.kill(worker, signal.SIGSTOP)
        for owner in (element.home / "files/.artstore/staging").iterdir():
            shutil.rmtree(owner)
        os.kill(worker, signal.SIGCONT)
        go.set()
        thread.join()
        answers[0].problem(503, "unavailable")
        assert element.pending() == []
        assert [f["file_id"] for f in element.get("/api/v1/files").json()["items"]] == [kept["file_id"]]
        assert element.download(kept["file_id"]).body == b"kept"
        os.killpg(element.process.pid, signal.SIGKILL)
        element.process.wait(30)
        element = servers.start("starlette", element.home)
        assert [f["file_id"] for f in element.get("/api/v1/files").json()["items"]] == [kept["file_id"]]
        assert element.upload(b"again")["size"] == 5
        element.stop()
        assert len(audit(element.home)) == 2
    finally:
        element.process.kill()
        element.process.wait(30)


def test_a_worker_paused_past_its_lease_publishes_nothing(tmp_path: Path, postgres: Postgres) -> None:
    """Workers on a local store whose log is in PostgreSQL: there a lease ends, though the lock in the store is held."""
    settings = {
        "WAL": "sql",
        "WAL__SQL__LEASE": "2",
        "WAL__SQL__URL": postgres.url(),
        "WAL__SQL__TABLE_PREFIX": "paused_",
        "LIMITS__BODY_TIMEOUT": "600",  # on a busy machine the pause alone may last longer than a body may stand still
    }
    told = "SELECT status FROM paused_wal WHERE op = 'upload'"
    with servers.serving("starlette", tmp_path / "home", workers=2, settings=settings) as element:
        answers: list[Answer] = []
        go, thread = slow_upload(element, answers)
        until(element.staged, "a staged upload")
        (owner,) = {Path(path).parent.parent.name for path in element.staged()}
        worker = int(owner.partition("-")[0])
        os.kill(worker, signal.SIGSTOP)
        until(lambda: postgres.ask(told) == [("rolled_back",)], "the other to settle it", 60)
        os.kill(worker, signal.SIGCONT)
        go.set()
        thread.join()
        answers[0].problem(503, "unavailable")
        assert postgres.ask(told) == [("rolled_back",)]
        until(lambda: not element.staged(), "nothing staged")
        assert element.get("/api/v1/files").json()["items"] == []
        assert element.upload(b"again")["size"] == 5
        os.killpg(element.process.pid, signal.SIGTERM)
        element.process.wait(30)
        assert len(audit(element.home)) == 1


def test_a_store_that_lost_the_record_of_its_element_is_refused(tmp_path: Path) -> None:
    with servers.serving("starlette", tmp_path / "home") as element:
        element.upload(b"x")
        element.stop()
    record = element.home / "files/.artstore/element.json"
    known = record.read_bytes()
    record.unlink()
    told = subprocess.run([ARTSTORE, "recover", "--home", str(element.home)], capture_output=True, text=True)
    assert told.returncode == 78, told
    assert "element.json" in told.stderr
    assert "Traceback" not in told.stderr
    assert not record.exists()
    # Files alone, restored by a tool that leaves dotted names behind: the operator says whose they are.
    told = subprocess.run(
        [ARTSTORE, "recover", "--home", str(element.home)],
        env=os.environ | {"ARTSTORE_ELEMENT_ID": "se-again"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told
    assert b"se-again" in record.read_bytes() != known
