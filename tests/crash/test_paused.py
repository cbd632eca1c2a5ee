"""A worker that is paused for a while, and a store that lost the record of its element."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from support import servers
from support.audit import audit
from support.postgres import Postgres
from support.servers import Answer, Element, until

pytestmark = pytest.mark.slow

BODY = b"slow " * 300_000


def slow_upload(element: Element, answers: list[Answer]) -> tuple[threading.Event, threading.Thread]:
    """Begin an upload that sends its last bytes after the event; return the event and the thread of the client."""
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


def test_a_paused_worker_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its lock is held while it is paused. So recovery leaves its upload alone, and it goes on where it was."""
    with servers.serving("starlette", tmp_path / "home") as element:
        (worker,) = element.workers()
        answers: list[Answer] = []
        go, thread = slow_upload(element, answers)
        until(element.staged, "a staged upload")
        with servers.stopped(worker):
            staged = element.staged()
            run = servers.artstore(element.home, "recover")
            assert (run.returncode, run.stdout) == (0, "Recovered: nothing to do.\n"), run
            assert element.staged() == staged
        go.set()
        thread.join()
        assert answers[0].status == 201
        assert element.download(answers[0].json()["file_id"]).body == BODY
        element.stop()
        assert len(audit(element.home)) == 1


def test_an_upload_whose_staged_files_were_removed_fails_cleanly(tmp_path: Path) -> None:
    """On local disk recovery removes nothing that is locked. Should it happen all the same, the upload must fail."""
    element = servers.start("starlette", tmp_path / "home")
    (worker,) = element.workers()
    try:
        kept = element.upload(b"kept")
        answers: list[Answer] = []
        go, thread = slow_upload(element, answers)
        until(element.staged, "a staged upload")
        with servers.stopped(worker):
            for owner in (element.home / "files/.artstore/staging").iterdir():
                shutil.rmtree(owner)
        go.set()
        thread.join()
        answers[0].problem(503, "unavailable")
        assert element.pending() == []
        assert [f["file_id"] for f in element.get("/api/v1/files").json()["items"]] == [kept["file_id"]]
        assert element.download(kept["file_id"]).body == b"kept"
        element.kill()
        element = servers.start("starlette", element.home)
        assert [f["file_id"] for f in element.get("/api/v1/files").json()["items"]] == [kept["file_id"]]
        assert element.upload(b"again")["size"] == 5
        element.stop()
        assert len(audit(element.home)) == 2
    finally:
        element.kill()


def test_a_worker_paused_past_its_lease_publishes_nothing(tmp_path: Path, postgres: Postgres) -> None:
    """Where a local store has its log in PostgreSQL, a lease ends although the lock in the store is held."""
    settings = {
        "WAL": "sql",
        "WAL__SQL__LEASE": "2",
        "WAL__SQL__URL": postgres.url(),
        "WAL__SQL__TABLE_PREFIX": "paused_",
        "LIMITS__BODY_TIMEOUT": "600",  # on a busy machine the pause alone may last longer than the timeout of a body
    }
    statuses = "SELECT status FROM paused_wal WHERE op = 'upload'"
    with servers.serving("starlette", tmp_path / "home", workers=2, settings=settings) as element:
        answers: list[Answer] = []
        go, thread = slow_upload(element, answers)
        until(element.staged, "a staged upload")
        (owner,) = {Path(path).parent.parent.name for path in element.staged()}
        worker = int(owner.partition("-")[0])
        with servers.stopped(worker):
            until(lambda: postgres.ask(statuses) == [("rolled_back",)], "the other resolves the upload", 60)
        go.set()
        thread.join()
        answers[0].problem(503, "unavailable")
        assert postgres.ask(statuses) == [("rolled_back",)]
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
    run = servers.artstore(element.home, "recover")
    assert run.returncode == 78, run
    assert "element.json" in run.stderr
    assert "Traceback" not in run.stderr
    assert not record.exists()
    again = {"ELEMENT_ID": "se-again"}
    assert servers.artstore(element.home, "recover", settings=again).returncode == 78
    # The files were restored into a new home by a tool that leaves dotted names behind: the operator gives the id.
    shutil.rmtree(element.home / "state")
    run = servers.artstore(element.home, "recover", settings=again)
    assert run.returncode == 0, run
    assert b"se-again" in record.read_bytes() != known
