"""`artstore serve` under load is killed, all of it or one of its workers: every answer holds, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import servers
from support.audit import audit, open_intents
from support.clients import Client
from support.servers import Element, until

pytestmark = pytest.mark.slow

CLIENTS = 6


@contextmanager
def load(clients: list[Client], tally: Counter[str], answers: int) -> Iterator[None]:
    """Let the clients run: that many answers come before the block, and the clients end after it."""
    over, before = threading.Event(), answered(tally)
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run, over) for client in clients]
        try:
            until(lambda: answered(tally) >= before + answers, f"{answers} answers")
            yield
        finally:
            over.set()
        for client in running:
            client.result(60)


def answered(tally: Counter[str]) -> int:
    return sum(count for name, count in tally.items() if name not in ("lost", "put repeated"))


def check(element: Element, clients: list[Client]) -> int:
    """Check that every answer of the clients still holds; return how many files there are."""
    found = element.files()
    for client in clients:
        client.element = element
        client.check(found)
    return len(found)


def check_at_rest(element: Element) -> None:
    """Check that a stopped store holds whole files only, and its log nothing open."""
    assert element.get("/api/v1/files?limit=1").status == 200
    element.stop()
    audit(element.home)
    assert open_intents(element.home) == []


@pytest.fixture
def dice() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_all_processes_are_killed_under_load(tmp_path: Path, adapter: str, dice: random.Random) -> None:
    clients: list[Client] = []
    tally: Counter[str] = Counter()
    for round_ in range(3):
        with servers.serving(adapter, tmp_path / "home", workers=1 + round_ % 2) as element:
            check(element, clients)
            new = [Client(element, dice.randrange(1 << 32), tally) for _ in range(CLIENTS)]
            clients += new
            with load(new, tally, dice.randrange(30, 150)):
                element.kill()
    print(f"killed {round_ + 1} times: {dict(tally)}")
    with servers.serving(adapter, element.home) as element:
        print(f"{check(element, clients)} files, all whole")
        assert element.staged() == []
        assert element.pending() == []
        check_at_rest(element)


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_one_of_two_workers_is_killed_and_the_other_goes_on(
    tmp_path: Path, database: str, dice: random.Random, request: pytest.FixtureRequest
) -> None:
    settings: dict[str, str] = {}
    if database == "PostgreSQL":
        url = request.getfixturevalue("postgres").url()
        settings = {"CACHE__SQL__URL": url, "CACHE__SQL__TABLE_PREFIX": "workers_"}
    tally: Counter[str] = Counter()
    with servers.serving("starlette", tmp_path / "home", workers=2, settings=settings) as element:
        until(lambda: len(element.workers()) == 2, "two workers")
        clients = [Client(element, dice.randrange(1 << 32), tally) for _ in range(CLIENTS)]
        with load(clients, tally, 60):
            os.kill(dice.choice(element.workers()), signal.SIGKILL)
            killed = answered(tally)
            until(lambda: answered(tally) >= killed + 60, "60 more answers")
        # The uploads of the dead one are recovered by the other, or by its successor.
        element.wait_idle()
        print(f"{check(element, clients)} files, all whole")
        element.kill()
    with servers.serving("starlette", element.home, settings=settings) as element:
        check(element, clients)
        check_at_rest(element)
