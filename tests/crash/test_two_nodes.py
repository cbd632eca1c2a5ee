"""Two nodes on one S3 store and one PostgreSQL: what one takes the other gives, whichever of them dies."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import s3
import servers
from between import TcpProxy
from postgres import Postgres
from servers import Element, file_path, until

PREFIXES = itertools.count()
LEASE = 2
LOST = (OSError, http.client.HTTPException)

Start = Callable[..., Element]


@pytest.fixture
def bucket(s3_server: Any) -> str:
    name: str = s3_server.bucket()
    return name


@pytest.fixture
def start(tmp_path: Path, s3_server: Any, bucket: str, postgres: Postgres) -> Iterator[Start]:
    """Starts a node; the nodes of one test share store, cache and log."""
    begun: list[Element] = []
    prefix = f"nodes_{next(PREFIXES):02}_"
    shared: dict[str, str] = {
        "ELEMENT_ID": "se-01", "BACKEND": "s3", "WAL": "sql", "WAL__SQL__LEASE": str(LEASE),
        "WAL__SQL__URL": postgres.url(), "WAL__SQL__TABLE_PREFIX": prefix,
        "CACHE__SQL__URL": postgres.url(), "CACHE__SQL__TABLE_PREFIX": prefix,
    }  # fmt: skip
    shared |= {f"BACKEND__S3__{k.upper()}": str(v) for k, v in s3.settings(s3_server, bucket).items()}

    def begin(name: str, **more: str) -> Element:
        begun.append(servers.start("starlette", tmp_path / name, settings=shared | more))
        return begun[-1]

    try:
        yield begin
        for element in begun:
            if element.process.poll() is None:
                element.stop()
    finally:
        for element in begun:
            if element.process.poll() is None:
                kill(element)


def kill(element: Element) -> None:
    os.killpg(element.process.pid, signal.SIGKILL)
    element.process.wait()


def listed(element: Element) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = element.get(f"/api/v1/files?limit=1000{cursor}").json()
        found |= {attr["file_id"]: attr for attr in page["items"]}
        if not page.get("next_cursor"):
            return found
        cursor = f"&cursor={page['next_cursor']}"


def keys(server: Any, bucket: str) -> set[str]:
    """What lies in the tree of the store."""
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = {one["Key"] for page in pages for one in page.get("Contents", [])}
    return {key for key in found if not key.startswith(".artstore/")}


def act_as_one(one: Element, two: Element) -> None:
    made = one.upload(b"data", "отчёт_07.txt")
    assert two.download(made["file_id"]).body == b"data"
    assert listed(two)[made["file_id"]] == made
    assert two.get("/api/v1/files?q=%D1%87%D1%91%D1%82_07").json()["items"] == [made]
    changed = two.patch(made["file_id"], {"description": "new"}).json()
    assert one.get(file_path(made["file_id"])).json() == changed
    assert one.ask("DELETE", file_path(made["file_id"])).status == 204
    assert two.get(file_path(made["file_id"])).status == 404
    assert made["file_id"] not in listed(two)
    for n in range(4):
        file_id = f"00000000-0000-4000-8000-{n:012x}"
        with ThreadPoolExecutor(2) as pool:
            puts = [pool.submit(e.put, file_id, e.home.name.encode(), "x.txt") for e in (one, two)]
            answers = [put.result() for put in puts]
        assert sorted(a.status for a in answers) == [201, 409]
        won = one if answers[0].status == 201 else two
        assert one.download(file_id).body == two.download(file_id).body == won.home.name.encode()
    assert len(listed(one)) == 4


def test_two_nodes_act_as_one_until_one_is_killed(start: Start, s3_server: Any, bucket: str) -> None:
    one, two = start("one"), start("two")
    act_as_one(one, two)
    made: dict[str, bytes] = {}
    over = threading.Event()

    def upload(element: Element, name: str) -> None:
        n = 0
        while not over.is_set():
            body = f"{name} {n}".encode() * 100
            try:
                made[element.upload(body, f"{name}.txt")["file_id"]] = body
            except LOST:
                return
            n += 1

    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(upload, e, f"{e.home.name}-{n}") for e in (one, two) for n in range(3)]
        until(lambda: len(made) > 30, "some uploads")
        kill(one)
        until(lambda: len(made) > 60, "some more")
        over.set()
        for done in work:
            done.result()
    until(lambda: not two.pending(), "the survivor to settle", deadline=60)
    there = listed(two)
    assert set(made) <= set(there)
    for file_id, body in made.items():
        assert two.download(file_id).body == body
    # An upload whose answer was lost is whole or not there.
    for file_id in set(there) - set(made):
        assert two.download(file_id).status == 200
    data = {f"{a['storage_path']}/{a['storage_filename']}" for a in there.values()}
    assert data <= keys(s3_server, bucket)


def test_what_one_node_owes_the_other_knows(start: Start, postgres: Postgres) -> None:
    """A row that is owed is a row that no node may do without: a search is whole, or 503."""
    proxy = TcpProxy(postgres.port)
    one = start("one", CACHE__SQL__URL=postgres.url(port=proxy.port), CACHE__SQL__TIMEOUT="1")
    two = start("two")
    chosen = "00000000-0000-4000-8000-00000000000a"
    try:
        kept, gone = one.upload(b"kept"), one.upload(b"gone")
        proxy.turn("refuse")
        made = one.upload(b"made")
        two.get("/api/v1/files").problem(503)
        two.get("/api/v1/capacity").problem(503)
        assert one.put(chosen, b"chosen").status == 201
        assert one.ask("DELETE", file_path(gone["file_id"])).status == 204
        two.get("/api/v1/files").problem(503)
        assert two.download(chosen).body == b"chosen"
        assert two.put(chosen, b"other").status == 409
        proxy.turn("fine")
        until(lambda: two.get("/api/v1/files").status == 200, "the debts to be paid")
        assert set(listed(two)) == {kept["file_id"], made["file_id"], chosen}
        # One that dies in debt leaves it to the other.
        proxy.turn("refuse")
        late = one.upload(b"late")
        two.get("/api/v1/files").problem(503)
        kill(one)
        until(lambda: two.get("/api/v1/files").status == 200, "the debts of the dead to be paid", deadline=60)
        assert set(listed(two)) == {kept["file_id"], made["file_id"], chosen, late["file_id"]}
        kill(two)  # its log tells of each search that it refused
    finally:
        proxy.close()


def test_a_node_that_was_paused_past_its_lease_publishes_nothing(start: Start) -> None:
    one, two = start("one", MODE="rw"), start("two")
    body = b"x" * (3 << 20)
    length = ("Content-Length", str(len(body)))
    with one.connect(60) as connection:
        connection.send(one.head("POST", "/api/v1/files?filename=late.bin", [length]) + body[: 2 << 20])
        (late,) = until(lambda: two.pending(), "the upload to begin")
        os.killpg(one.process.pid, signal.SIGSTOP)
        until(lambda: not two.pending(), "the other to settle it", deadline=60)
        os.killpg(one.process.pid, signal.SIGCONT)
        connection.send(body[2 << 20 :])
        answer = connection.answer()
    # What was settled is never published. Paused before it had a key, the upload begins anew under another id.
    kept = {} if answer.status != 201 else {answer.json()["file_id"]: answer.json()}
    if not kept:
        answer.problem()
        assert answer.status in (409, 503)
    assert late["file_id"] not in kept
    for element in (one, two):
        assert element.get(file_path(late["file_id"])).status == 404
        assert listed(element) == kept
    # It is back, as somebody else.
    made = one.upload(b"after")
    assert two.download(made["file_id"]).body == b"after"
    # And a mode holds for both within a second.
    assert one.mode("ro").status == 200
    until(lambda: two.get("/api/v1/info").json()["mode"] == "ro", "the other to hear", deadline=1)
    two.post(b"no").problem(409)
    kill(one)  # its log tells of the fence, and rightly so
