"""Two nodes on one S3 store and one PostgreSQL: a file of one is read on the other, whichever of them dies."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support import s3, servers
from support.long_runs import usual_or_long
from support.postgres import Postgres
from support.proxies import HttpProxy, TcpProxy
from support.servers import Answer, Element, file_path, until

PREFIXES = itertools.count()
LEASE = 2
ROUNDS = 1, 25
"""Deaths of a node, in a usual and in a long run."""
pytestmark = pytest.mark.slow
LOST = (OSError, http.client.HTTPException)

Start = Callable[..., Element]


@pytest.fixture
def bucket(s3_server: Any) -> str:
    name: str = s3_server.bucket()
    return name


@pytest.fixture
def start(tmp_path: Path, s3_server: Any, bucket: str, postgres: Postgres) -> Iterator[Start]:
    """Starts a node; the nodes of one test share store, cache and log."""
    started: list[Element] = []
    prefix = f"nodes_{next(PREFIXES):02}_"
    shared: dict[str, str] = {
        "ELEMENT_ID": "se-01", "BACKEND": "s3", "WAL": "sql", "WAL__SQL__LEASE": str(LEASE),
        "WAL__SQL__URL": postgres.url(), "WAL__SQL__TABLE_PREFIX": prefix,
        "CACHE__SQL__URL": postgres.url(), "CACHE__SQL__TABLE_PREFIX": prefix,
    }  # fmt: skip
    shared |= {f"BACKEND__S3__{k.upper()}": str(v) for k, v in s3.settings(s3_server, bucket).items()}

    def start(name: str, **more: str) -> Element:
        started.append(servers.start("starlette", tmp_path / name, settings=shared | more))
        return started[-1]

    try:
        yield start
        for element in started:
            if element.process.poll() is None:
                element.stop()
    finally:
        for element in started:
            if element.process.poll() is None:
                element.kill()


def keys(server: Any, bucket: str) -> set[str]:
    """Return the keys in the tree of the store."""
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = {one["Key"] for page in pages for one in page.get("Contents", [])}
    return {key for key in found if not key.startswith(".artstore/")}


def act_as_one(one: Element, two: Element) -> None:
    made = one.upload(b"data", "отчёт_07.txt")
    assert two.download(made["file_id"]).body == b"data"
    assert two.files()[made["file_id"]] == made
    assert two.get("/api/v1/files?q=%D1%87%D1%91%D1%82_07").json()["items"] == [made]
    changed = two.patch(made["file_id"], {"description": "new"}).json()
    assert one.get(file_path(made["file_id"])).json() == changed
    assert one.ask("DELETE", file_path(made["file_id"])).status == 204
    assert two.get(file_path(made["file_id"])).status == 404
    assert made["file_id"] not in two.files()
    for n in range(4):
        file_id = f"00000000-0000-4000-8000-{n:012x}"
        with ThreadPoolExecutor(2) as pool:
            puts = [pool.submit(e.put, file_id, e.home.name.encode(), "x.txt") for e in (one, two)]
            answers = [put.result() for put in puts]
        assert sorted(a.status for a in answers) == [201, 409]
        won = one if answers[0].status == 201 else two
        assert one.download(file_id).body == two.download(file_id).body == won.home.name.encode()
    assert len(one.files()) == 4


class Answers:
    """The answers to clients of two nodes, each with a file of its own: what may be true of it."""

    def __init__(self) -> None:
        self.answers = 0
        self.files: dict[str, set[str | None]] = {}
        """Of each id the descriptions that it may have; None: it may be gone."""
        self.over = threading.Event()

    def client(self, element: Element, chance: random.Random) -> None:
        """Upload, change and delete until the node is gone; a change without an answer may have happened or not."""
        while not self.over.is_set():
            file_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            before: str | None = None
            for wanted in ("", "changed", None)[: chance.randint(1, 3)]:
                self.files[file_id] = {before, wanted}
                try:
                    if wanted == "":
                        answer = element.put(file_id, body_of(file_id))
                    elif wanted is not None:
                        answer = element.patch(file_id, {"description": wanted})
                    else:
                        answer = element.ask("DELETE", file_path(file_id))
                except LOST:
                    return
                if answer.status >= 500:
                    answer.problem(503)
                    break
                assert answer.status in (200, 201, 204), answer
                self.answers += 1
                before = wanted
                self.files[file_id] = {wanted}


def body_of(file_id: str) -> bytes:
    return file_id.encode() * 50


@usual_or_long("rounds", *ROUNDS)
def test_two_nodes_act_as_one_until_one_is_killed(
    start: Start, s3_server: Any, bucket: str, rounds: int, tried: Callable[[str], None]
) -> None:
    nodes = [start("one"), start("two")]
    act_as_one(*nodes)
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    worked, moments = Answers(), []
    for turn in range(rounds):
        victim, survivor = nodes if turn % 2 == 0 else reversed(nodes)
        moments.append(chance.randint(1, 90))
        kill_at(moments[-1], victim, survivor, worked, random.Random(f"{seed} {turn}"))
        compare(survivor, worked, keys(s3_server, bucket))
        nodes[nodes.index(victim)] = start(victim.home.name)
        assert nodes[0].files() == nodes[1].files()
    tried(f"two nodes: killed after {moments} answers, {worked.answers} in all, seed {seed}")


def kill_at(moment: int, victim: Element, survivor: Element, worked: Answers, chance: random.Random) -> None:
    """Kill `victim` after that many answers, under load on both; the survivor recovers its changes."""
    before = worked.answers
    worked.over.clear()
    with ThreadPoolExecutor(6) as pool:
        clients = [
            (element, random.Random(chance.random())) for element in (victim, survivor) for _ in range(3)
        ]
        work = [pool.submit(worked.client, *client) for client in clients]
        until(lambda: worked.answers >= before + moment, "some answers", 60)
        victim.kill()
        killed = worked.answers
        until(lambda: worked.answers >= killed + 10, "some more", 60)
        worked.over.set()
        for done in work:
            done.result()
    until(lambda: not survivor.pending(), "the survivor recovers", deadline=60)
    until(lambda: survivor.get("/api/v1/files?limit=1").status == 200, "the index is complete", 60)


def compare(node: Element, worked: Answers, names: set[str]) -> None:
    there = {file_id: attr for file_id, attr in node.files().items() if file_id in worked.files}
    for file_id, may_be in worked.files.items():
        found = there[file_id]["description"] if file_id in there else None
        assert found in may_be, (file_id, may_be)
        answer = node.download(file_id)
        assert (
            (answer.status, answer.body) == (200, body_of(file_id))
            if found is not None
            else answer.status == 404
        )
        worked.files[file_id] = {found}
    assert {f"{a['storage_path']}/{a['storage_filename']}" for a in there.values()} <= names


def test_a_search_is_refused_on_both_nodes_while_one_has_a_backlog(start: Start, postgres: Postgres) -> None:
    """An entry in the backlog of one node is missing on all. So a search is complete, or 503."""
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
        until(lambda: two.get("/api/v1/files").status == 200, "the backlog is written")
        assert set(two.files()) == {kept["file_id"], made["file_id"], chosen}
        # The backlog of a node that dies is left to the other.
        proxy.turn("refuse")
        late = one.upload(b"late")
        two.get("/api/v1/files").problem(503)
        one.kill()
        until(
            lambda: two.get("/api/v1/files").status == 200,
            "the backlog of the dead node is written",
            deadline=60,
        )
        assert set(two.files()) == {kept["file_id"], made["file_id"], chosen, late["file_id"]}
        two.kill()  # its log names each search that it refused
    finally:
        proxy.close()


CHANGES: dict[str, tuple[int, Callable[[Element, str], Answer]]] = {
    "update": (1, lambda element, it: element.patch(it, {"description": "new"})),
    "delete": (
        2,
        lambda element, it: element.ask("DELETE", file_path(it)),
    ),  # the first one writes the marker
    "mode": (1, lambda element, _: element.mode("ro")),
}
"""The put that decides about a change, and the request for it."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_paused_node_does_not_finish_a_change_that_was_rolled_back(
    start: Start, s3_server: Any, change: str
) -> None:
    """It is paused while the deciding request is on its way, which arrives after another node resolved the change."""
    proxy = HttpProxy(s3_server.port)
    mode = "rw" if change == "mode" else "edit"
    one = start("one", BACKEND__S3__ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}", MODE=mode)
    two = start("two")

    def statuses() -> list[str]:
        items = two.get("/api/v1/transactions").json()["items"]
        return [t["status"] for t in reversed(items) if t["operation"] == change]

    try:
        kept = one.upload(b"kept", description="old")
        number, ask = CHANGES[change]
        proxy.catch(number, "late", "PUT")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, one, kept["file_id"])
            assert proxy.arrived(30)
            with servers.stopped(-one.process.pid):
                until(lambda: statuses() == ["rolled_back"], "the other node resolves it", deadline=60)
                assert proxy.caught
                proxy.caught.release.set()
                assert proxy.caught.over.wait(30)
                assert proxy.caught.status == 412, "rolled back, but carried out"
                assert two.get(file_path(kept["file_id"])).json() == kept
                assert two.get("/api/v1/info").json()["mode"] == mode
            answer = asked.result()
        # The node may repeat the change, under another intent.
        assert answer.status in (200, 204, 409, 503), answer
        done = answer.status < 300
        until(lambda: statuses() == ["rolled_back", *["committed"] * done], "the log has the outcome")
        now = two.get(file_path(kept["file_id"]))
        if change == "delete":
            assert now.status == (404 if done else 200)
        else:
            assert now.json()["description"] == ("new" if done and change == "update" else "old")
        assert done == (change != "mode")
        until(lambda: one.files() == two.files(), "both list the same files")
        assert two.files() == ({} if now.status == 404 else {kept["file_id"]: now.json()})
        assert two.get("/api/v1/info").json()["mode"] == mode
        one.kill()  # its log names the fence, and rightly so
    finally:
        proxy.close()


def test_a_node_that_was_paused_past_its_lease_publishes_nothing(start: Start) -> None:
    one, two = start("one", MODE="rw"), start("two")
    body = b"x" * (3 << 20)
    length = ("Content-Length", str(len(body)))
    with one.connect(60) as connection:
        connection.send(one.head("POST", "/api/v1/files?filename=late.bin", [length]) + body[: 2 << 20])
        (late,) = until(lambda: two.pending(), "the upload to begin")
        with servers.stopped(-one.process.pid):
            until(lambda: not two.pending(), "the other node resolves it", deadline=60)
        connection.send(body[2 << 20 :])
        answer = connection.answer()
    # What was rolled back is never published. Paused before it had a key, the upload is repeated under another id.
    kept = {} if answer.status != 201 else {answer.json()["file_id"]: answer.json()}
    if not kept:
        answer.problem()
        assert answer.status in (409, 503)
    assert late["file_id"] not in kept
    for element in (one, two):
        assert element.get(file_path(late["file_id"])).status == 404
        assert element.files() == kept
    # The node is back, as another owner.
    made = one.upload(b"after")
    assert two.download(made["file_id"]).body == b"after"
    # And a mode holds for both as soon as it is answered.
    assert one.mode("ro").status == 200
    two.post(b"no").problem(409)
    assert two.get("/api/v1/info").json()["mode"] == "ro"
    one.kill()  # its log names the fence, and rightly so
