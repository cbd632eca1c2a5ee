"""Real elements, killed with SIGKILL under load and opened again: what was acknowledged is there, and whole."""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.audit import audit, open_intents
from support.servers import Element, file_path, until

pytestmark = pytest.mark.slow

CLIENTS = 6
LOST = (OSError, http.client.HTTPException)


@dataclass
class Client:
    """Somebody who uploads, changes and deletes files of their own, and remembers every answer."""

    element: Element
    seed: int
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    doubtful: dict[str, str] = field(default_factory=dict)
    """What was asked of a file and never answered."""
    answers: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def step(self) -> None:
        """One request; raises one of LOST when there is no answer."""
        sure = [i for i in self.there if i not in self.doubtful]
        action = self.random.choice(["upload", "upload", "update", "delete"]) if sure else "upload"
        if action == "upload":
            body = self.random.randbytes(self.random.choice([0, 1, 4096, 70_000]))
            made = self.element.upload(body, f"файл {self.random.random()}.bin")
            self.there[made["file_id"]], self.contents[made["file_id"]] = made, body
        else:
            file_id = self.random.choice(sure)
            self.doubtful[file_id] = action
            if action == "update":
                answer = self.element.patch(file_id, {"description": str(self.random.random())})
                assert answer.status == 200, answer
                self.there[file_id] = answer.json()
            else:
                answer = self.element.ask("DELETE", file_path(file_id))
                assert answer.status == 204, answer
                del self.there[file_id]
                self.gone.add(file_id)
            del self.doubtful[file_id]
        self.answers += 1

    def until_lost(self) -> None:
        try:
            while True:
                self.step()
        except LOST:
            pass

    def until_over(self, over: threading.Event) -> None:
        """Go on whatever is lost on the way."""
        while not over.is_set():
            try:
                self.step()
            except LOST:
                continue


def judge(element: Element, clients: list[Client]) -> int:
    """Every answer still holds; how many files there are."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = element.get(f"/api/v1/files?limit=1000{cursor}").json()
        found |= {attr["file_id"]: attr for attr in page["items"]}
        if not page.get("next_cursor"):
            break
        cursor = f"&cursor={page['next_cursor']}"
    for client in clients:
        for file_id, attr in client.there.items():
            doubt = client.doubtful.get(file_id)
            if file_id not in found:
                assert doubt == "delete", (client.seed, doubt, attr)
                continue
            if found[file_id] != attr:
                assert doubt == "update", (client.seed, doubt, attr, found[file_id])
                assert found[file_id]["revision"] == attr["revision"] + 1
            download = element.download(file_id)
            assert (download.status, download.body) == (200, client.contents[file_id])
        for file_id in client.gone:
            assert file_id not in found
            assert element.get(file_path(file_id)).status == 404
    return len(found)


def at_rest(element: Element) -> None:
    """Stopped, its store holds whole files only, and its log nothing open."""
    listed = element.get("/api/v1/files?limit=1").status
    assert listed == 200
    element.stop()
    audit(element.home)
    assert open_intents(element.home) == []


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_killed_under_load_and_opened_again(tmp_path: Path, adapter: str) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    home = tmp_path / "home"
    clients: list[Client] = []
    for round_ in range(3):
        element = servers.start(adapter, home, workers=1 + round_ % 2)
        try:
            assert judge(element, clients) >= 0
            new = [Client(element, dice.randrange(1 << 32)) for _ in range(CLIENTS)]
            clients += new
            enough = dice.randrange(30, 150)
            with ThreadPoolExecutor(CLIENTS) as pool:
                running = [pool.submit(client.until_lost) for client in new]
                until(lambda: sum(c.answers for c in new) >= enough, f"{enough} answers")  # noqa: B023
                os.killpg(element.process.pid, signal.SIGKILL)
                for done in running:
                    done.result(30)
        finally:
            os.killpg(element.process.pid, signal.SIGKILL)
            element.process.wait(30)
        for client in new:
            client.element = element
        print(f"round {round_}: killed after {sum(c.answers for c in new)} answers")
    element = servers.start(adapter, home)
    try:
        for client in clients:
            client.element = element
        print(f"{judge(element, clients)} files, all whole")
        assert element.staged() == []
        assert element.pending() == []
        at_rest(element)
    finally:
        element.process.kill()
        element.process.wait(30)


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_one_of_two_workers_is_killed_and_the_other_goes_on(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    settings: dict[str, str] = {}
    if database == "PostgreSQL":
        url = request.getfixturevalue("postgres").url()
        settings = {"CACHE__SQL__URL": url, "CACHE__SQL__TABLE_PREFIX": "workers_"}
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    element = servers.start("starlette", tmp_path / "home", workers=2, settings=settings)
    try:
        until(lambda: len(element.workers()) == 2, "two workers")
        clients = [Client(element, dice.randrange(1 << 32)) for _ in range(CLIENTS)]
        over = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(client.until_over, over) for client in clients]
            try:
                until(lambda: sum(c.answers for c in clients) >= 60, "60 answers")
                os.kill(dice.choice(element.workers()), signal.SIGKILL)
                then = sum(c.answers for c in clients)
                until(lambda: sum(c.answers for c in clients) >= then + 60, "60 more answers")
            finally:
                over.set()
            for done in running:
                done.result(30)
        # The dead one's uploads are settled by its neighbour or by its successor.
        element.settled()
        print(f"{judge(element, clients)} files, all whole")
        os.killpg(element.process.pid, signal.SIGKILL)
        element.process.wait(30)
        element = servers.start("starlette", element.home, settings=settings)
        for client in clients:
            client.element = element
        judge(element, clients)
        at_rest(element)
    finally:
        element.process.kill()
        element.process.wait(30)
