"""S3 cut off, before, during and after each step: 503 with Retry-After, no hang, no leak, healing without a restart."""

from __future__ import annotations

import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import OutcomeUnknown, Unavailable
from artstore.host.boot import Node, open_node
from artstore.host.settings import load
from artstore.spi import SCOPES, Principal, Span
from support import s3, servers
from support.proxies import HttpProxy, TcpProxy, Weather
from support.servers import Element, until

pytestmark = pytest.mark.timeout(300)
"""A storm lasts for as long as the time-outs say, and a busy machine adds to it."""

BY = Principal(id="u-1", name="ivanov", scopes=SCOPES)
TIMES = {"connect_timeout": 1, "read_timeout": 3, "deadline": 4}
"""Short, so that a test does not wait for long; `LIMIT` is what any call may take then."""
LIMIT = 3 * (4 + 10)
STORMS: tuple[Weather, ...] = ("refuse", "hang", "cut")


@pytest.fixture
def proxy(s3_server: s3.Seaweed) -> Iterator[TcpProxy]:
    made = TcpProxy(s3_server.port)
    yield made
    made.close()


@pytest.fixture
def node(tmp_path: Path, s3_server: s3.Seaweed, proxy: TcpProxy) -> Iterator[Node]:
    made = open_node(load(home=tmp_path / "home", environ=_environ(tmp_path, s3_server, proxy.port)))
    yield made
    proxy.turn("fine")
    made.close()


def _environ(tmp_path: Path, server: s3.Seaweed, port: int, **more: Any) -> dict[str, str]:
    home = tmp_path / "home"
    if not home.exists():
        servers.prepare(home)
    told = s3.settings(server, server.bucket(), **TIMES, **more)
    told["endpoint_url"] = f"http://127.0.0.1:{port}"
    return {f"ARTSTORE_{name}": value for name, value in s3.environment(told).items()}


def upload(node: Node, data: bytes, before_commit: Callable[[], None] = lambda: None) -> str:
    session = node.kernel.begin(BY, filename="report.bin")
    try:
        for at in range(0, len(data), 1 << 20):
            session.write(data[at : at + (1 << 20)])
        before_commit()
        return session.commit()[0].file_id
    finally:
        session.abort()


def content(node: Node, file_id: str, middle: Callable[[], None] = lambda: None) -> bytes:
    download = node.kernel.download(file_id)
    try:
        pieces = iter(download.pieces(Span(0, download.attr.size)))
        first = next(pieces, b"")
        middle()
        return first + b"".join(pieces)
    finally:
        download.close()


def settled(node: Node) -> None:
    """Nothing pending: the keeper found out what became of everything, without a restart."""

    def nothing() -> bool:
        background = node.kernel.background
        try:
            background.resolve_in_doubt()
            background.drain()
        except Unavailable:
            return False
        return not node.kernel.transactions(status="pending", limit=10, before=None)

    until(nothing, "nothing is pending")


def stumble(node: Node, step: str, kept: str, storm: Callable[[], None]) -> None:
    """Do something, and let the storm come before it, within it or at its end."""
    kernel = node.kernel
    if step == "write":
        session = kernel.begin(BY, filename="a.bin")
        storm()
        try:
            for _ in range(20):
                session.write(bytes(1 << 20))
            session.commit()
        finally:
            session.abort()
    elif step == "commit":
        upload(node, b"y" * 100, before_commit=storm)
    elif step == "middle":
        content(node, kept, middle=storm)
    else:
        storm()
        if step == "begin":
            upload(node, b"x")
        elif step == "update":
            kernel.update(BY, kept, lambda _: {"description": "new"})
        elif step == "delete":
            kernel.delete(BY, kept, lambda _: None)
        else:
            content(node, kept)


STEPS = ("begin", "write", "commit", "update", "delete", "read", "middle")
TODAY = datetime.datetime.now(datetime.UTC).toordinal()
MET = [
    pytest.param(s, STORMS[(n + TODAY + m) % 3], marks=[pytest.mark.long] if m else [])
    for n, s in enumerate(STEPS)
    for m in range(3)
]
"""In a usual run each step meets one storm, another one each day; in a long run it meets the others."""


@pytest.mark.parametrize(("step", "weather"), MET)
def test_each_step_in_each_storm(node: Node, proxy: TcpProxy, weather: Weather, step: str) -> None:
    kernel, large = node.kernel, os.urandom((9 << 20) + 1)
    kept = upload(node, large)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        stumble(node, step, kept, lambda: proxy.turn(weather))
    assert time.monotonic() - began < LIMIT
    with pytest.raises(Unavailable):
        kernel.parts.backend.check(writing=True)
    proxy.turn("fine")
    kernel.parts.backend.check(writing=True)
    settled(node)
    assert content(node, kept) == large  # what was not acknowledged did not happen to what was there
    assert content(node, upload(node, b"after")) == b"after"


def test_a_slow_store_is_waited_for(node: Node, proxy: TcpProxy) -> None:
    proxy.turn("crawl")
    assert content(node, upload(node, b"slow" * 1000)) == b"slow" * 1000


def test_nothing_is_leaked(node: Node, proxy: TcpProxy) -> None:
    upload(node, b"warm")
    threads = threading.active_count()
    for weather in STORMS:
        proxy.turn(weather)
        with ThreadPoolExecutor(3) as pool:
            for refused in [pool.submit(upload, node, b"x") for _ in range(3)]:
                with pytest.raises(Unavailable):
                    refused.result()
        proxy.turn("fine")
        upload(node, b"y")
    until(lambda: proxy.open <= 4, "connections are closed")
    assert threading.active_count() - proxy_threads() <= threads


def proxy_threads() -> int:
    """Those of the proxy itself are not the element's."""
    return sum("_pump" in t.name for t in threading.enumerate())


def test_an_upload_that_nobody_can_tell_of_is_claimed_neither_way(
    tmp_path: Path, s3_server: s3.Seaweed
) -> None:
    """The sidecar was put, the answer lost, and then the store was gone: pending until it is back."""
    proxy = HttpProxy(s3_server.port)
    weather = TcpProxy(proxy.port)
    node = open_node(load(home=tmp_path / "home", environ=_environ(tmp_path, s3_server, weather.port)))
    try:
        ids: list[Any] = []

        def write() -> None:
            try:
                ids.append(upload(node, b"perhaps"))
            except Unavailable as e:
                ids.append(e)

        proxy.catch(3, "reply lost")  # a look at the name, the data, the sidecar
        writing = threading.Thread(target=write)
        writing.start()
        assert proxy.arrived(30)
        weather.turn("refuse")
        assert proxy.caught is not None
        proxy.caught.release.set()
        writing.join()
        assert isinstance(ids[0], OutcomeUnknown)
        (pending,) = node.kernel.transactions(status="pending", limit=10, before=None)
        weather.turn("fine")
        settled(node)
        assert content(node, str(pending.file_id)) == b"perhaps"  # it had taken place
    finally:
        weather.close()
        proxy.close()
        node.close()


def _served(
    adapter: str, tmp_path: Path, server: s3.Seaweed, proxy: TcpProxy
) -> AbstractContextManager[Element]:
    settings = {n.removeprefix("ARTSTORE_"): v for n, v in _environ(tmp_path, server, proxy.port).items()}
    settings |= {"AUTH__JWT__ISSUER": servers.ISSUER, "AUTH__JWT__AUDIENCE": servers.AUDIENCE}
    return servers.serving(adapter, tmp_path / "home", settings=settings)


def test_a_worker_waits_for_its_store(tmp_path: Path, s3_server: s3.Seaweed, proxy: TcpProxy) -> None:
    with _served("starlette", tmp_path, s3_server, proxy) as element:
        made = element.upload(b"kept")
        proxy.turn("refuse")
        os.kill(element.workers()[0], signal.SIGKILL)
        until(lambda: "a worker waits: S3" in element.log.read_text(), "its successor waits", 90)
        proxy.turn("fine")
        until(element.answers, "it serves again", 90)
        assert element.download(made["file_id"]).body == b"kept"
        element.process.terminate()
        assert element.process.wait(60) == 0
        assert "Traceback" not in element.log.read_text()


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_over_http(adapter: str, tmp_path: Path, s3_server: s3.Seaweed, proxy: TcpProxy) -> None:
    with _served(adapter, tmp_path, s3_server, proxy) as element:
        made = element.upload(b"kept")
        for weather in STORMS:
            proxy.turn(weather)
            with ThreadPoolExecutor(4) as pool:  # all at once: each is refused only after a while
                ready = pool.submit(element.get, "/health/ready")
                asked = [
                    pool.submit(element.post, b"new"),
                    pool.submit(element.download, made["file_id"]),
                    pool.submit(element.ask, "DELETE", servers.file_path(made["file_id"])),
                ]
                assert element.get("/health/live").status == 200
            for answer in (one.result() for one in asked):
                answer.problem(503, "unavailable")
                assert answer.header("retry-after")
            assert ready.result().status == 503
            proxy.turn("fine")
            until(lambda: element.get("/health/ready").status == 200, "ready again")
            assert element.download(made["file_id"]).body == b"kept"
            assert element.post(b"after").status == 201
        until(lambda: not element.pending(), "nothing is pending")
        element.process.terminate()
        assert element.process.wait(60) == 0
        assert "Traceback" not in element.log.read_text()
