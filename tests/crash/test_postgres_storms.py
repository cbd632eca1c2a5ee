"""The way to PostgreSQL fails: refused, silent, cut in mid-answer, slow. Nothing hangs, lies or leaks, and it heals."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from artstore_sql.postgres import cache, locks, log
from support import servers
from support.postgres import Postgres
from support.proxies import TcpProxy, Weather
from support.servers import Answer, Element, file_path, until

TIMEOUT = 1
LIMIT = 12.0
"""Seconds for any answer: each part gives up after `TIMEOUT`, and the machine may be busy."""
CONNECTIONS = cache.CONNECTIONS + log.CONNECTIONS + locks.CONNECTIONS
CALLERS = 12

T = TypeVar("T")


@dataclass
class Remote:
    """An element and the way to its database."""

    element: Element
    proxy: TcpProxy
    shared_log: bool

    def threads(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.element.workers())


@pytest.fixture(scope="module", params=["log in files", "log in PostgreSQL"])
def remote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Postgres
) -> Iterator[Remote]:
    proxy = TcpProxy(postgres.port)
    proxy.cut_after = 1
    shared_log = request.param == "log in PostgreSQL"
    prefix = f"storm_{secrets.token_hex(3)}_"  # the order of a run may make this fixture twice in one process
    database = {"URL": postgres.url(port=proxy.port), "TABLE_PREFIX": prefix, "TIMEOUT": str(TIMEOUT)}
    settings = {"WAL": "sql"} if shared_log else {}
    for role in ("CACHE", "WAL") if shared_log else ("CACHE",):
        settings |= {f"{role}__SQL__{name}": value for name, value in database.items()}
    element = servers.start("starlette", tmp_path_factory.mktemp("storm") / "home", settings=settings)
    try:
        yield Remote(element, proxy, shared_log)
        proxy.turn("fine")
        element.process.terminate()
        assert element.process.wait(60) == 0
    finally:
        element.process.kill()
        element.process.wait()
        proxy.close()
    assert "Traceback" not in element.log.read_text()


def bounded(call: Callable[[], T]) -> T:
    began = time.monotonic()
    answer = call()
    assert time.monotonic() - began < LIMIT
    return answer


def search(element: Element) -> Answer:
    return bounded(lambda: element.get("/api/v1/files?limit=1000"))


def crowd(element: Element) -> list[Answer]:
    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(lambda _: search(element), range(CALLERS)))


@pytest.mark.parametrize("weather", ["refuse", "hang", "cut", "crawl"])
def test_an_element_serves_by_id_while_its_database_fails(remote: Remote, weather: Weather) -> None:
    element, proxy = remote.element, remote.proxy
    kept = element.upload(b"kept")
    assert {answer.status for answer in crowd(element)} == {200}
    threads = remote.threads()
    proxy.turn(weather)
    acknowledged = [kept["file_id"]]
    try:
        for answer in crowd(element):
            if weather == "crawl" and answer.status == 200:
                continue  # slow, and in time
            answer.problem(503)
            assert answer.header("retry-after")
        assert bounded(lambda: element.get(file_path(kept["file_id"]))).json() == kept
        assert bounded(lambda: element.download(kept["file_id"])).body == b"kept"
        for _ in range(3):
            answer = bounded(lambda: element.post(b"meanwhile"))
            if answer.status == 201:
                acknowledged.append(answer.json()["file_id"])
                assert element.download(acknowledged[-1]).body == b"meanwhile"
            else:
                answer.problem(503)
                assert answer.header("retry-after")
        if weather != "crawl":
            # Without its log no change can begin; without its cache every change can.
            assert len(acknowledged) == (1 if remote.shared_log else 4)
        assert proxy.open <= CONNECTIONS
    finally:
        proxy.turn("fine")

    def listed() -> set[str]:
        answer = search(element)
        return {one["file_id"] for one in answer.json()["items"]} if answer.status == 200 else set()

    until(lambda: listed() >= set(acknowledged), "the index is complete", 60)
    until(lambda: element.get("/health/ready").status == 200, "readiness", 60)
    until(
        lambda: element.get("/api/v1/transactions?status=pending").json()["items"] == [], "intents to end", 60
    )
    assert {answer.status for answer in crowd(element)} == {200}
    # A thread that has been idle is ended by the next request. Two are a beat of the log and of its locks.
    until(lambda: search(element) and remote.threads() <= threads + 2, "threads to end")
    until(lambda: proxy.open <= CONNECTIONS, "connections to close")
