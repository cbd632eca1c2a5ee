"""The ASGI app under a server of ours: what crosses to a thread, and a server that cancels, as uvicorn does when its
time to end is over."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artstore.host.boot import Node, open_default
from artstore.spi import PIECE, SCOPES, Principal
from artstore_http.app import Exchange
from artstore_local.writer import LocalWriter
from artstore_starlette import app as starlette_app
from artstore_starlette.app import create_app
from support.servers import FORM, file, form, prepare, text

SMALL = bytes(range(256)) * 16
LARGE = SMALL * (3 * PIECE // len(SMALL))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    prepare(tmp_path / "home")
    monkeypatch.setenv("ARTSTORE_HOME", str(tmp_path / "home"))
    node = open_default()
    try:
        yield node
    finally:
        node.close()


def stored(node: Node, data: bytes) -> str:
    session = node.kernel.begin(Principal(id="u", name="u", scopes=SCOPES), filename="a")
    session.write(data)
    return session.commit()[0].file_id


def scope(node: Node, method: str, target: str, **headers: str) -> dict[str, Any]:
    path, _, query = target.partition("?")
    bearer = node.auth.issue(user="u", roles=["operator"], seconds=60)  # type: ignore[attr-defined]
    headers |= {"host": "a", "authorization": f"Bearer {bearer}"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": pairs}


@pytest.mark.parametrize("kind", ["plain", "form", "search", "small download"])
def test_what_is_small_crosses_to_a_thread_once(
    kind: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossings: list[Any] = []
    cross = starlette_app.to_thread.run_sync

    async def counted(*args: Any, **options: Any) -> Any:
        crossings.append(args)
        return await cross(*args, **options)

    monkeypatch.setattr(starlette_app.to_thread, "run_sync", counted)
    body = SMALL if kind == "plain" else form(text("tags", "t"), file(SMALL)) if kind == "form" else b""
    heads = {
        "plain": ("POST", "/api/v1/files?filename=a", {}),
        "form": ("POST", "/api/v1/files", {FORM[0].lower(): FORM[1]}),
        "search": ("GET", "/api/v1/files?q=a", {}),
        "small download": ("GET", f"/api/v1/files/{stored(node, SMALL)}/download", {}),
    }
    method, target, headers = heads[kind]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers["content-length"] = str(len(body))
    asyncio.run(create_app(node)(scope(node, method, target, **headers), receive, send))
    assert [message.get("status") for message in sent] == [201 if body else 200, None]
    assert len(crossings) == 1


@pytest.mark.parametrize("headers", [{}, {"content-length": str(3 * PIECE)}], ids=["chunked", "length"])
def test_a_body_in_single_bytes_is_written_in_large_pieces(
    headers: dict[str, str], node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = Exchange.feed

    def counted(exchange: Exchange, piece: bytes) -> Any:
        written.append(len(piece))
        return write(exchange, piece)

    monkeypatch.setattr(Exchange, "feed", counted)
    start, large, end = b"a" * 5000, b"b" * (3 * PIECE - 10000), b"c" * 5000
    left = [*(start[i : i + 1] for i in range(5000)), large, *(end[i : i + 1] for i in range(5000))][::-1]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = headers or {"transfer-encoding": "chunked"}
    head = scope(node, "POST", "/api/v1/files?filename=a", **headers)
    asyncio.run(create_app(node)(head, receive, send))
    assert sent[0]["status"] == 201
    assert json.loads(sent[1]["body"])["sha256"] == hashlib.sha256(start + large + end).hexdigest()
    assert written == [5000, len(large), 5000]


@pytest.mark.parametrize("step", ["create", "write", "publish"])
def test_a_cancelled_upload_ends_before_it_is_given_up(
    step: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun, under way and in its commit: a thread of its own is at it, and no second one comes to it."""
    within, go_on = threading.Event(), threading.Event()
    of: Any = node.kernel.parts.backend if step == "create" else LocalWriter
    done, aborted = getattr(of, step), LocalWriter.abort
    early: list[LocalWriter] = []

    def held(*args: Any) -> Any:
        within.set()
        assert go_on.wait(60)
        return done(*args)

    def abort(writer: LocalWriter) -> None:
        if not go_on.is_set():
            early.append(writer)
        aborted(writer)

    monkeypatch.setattr(of, step, held)
    monkeypatch.setattr(LocalWriter, "abort", abort)
    body = [LARGE[at : at + PIECE] for at in range(0, len(LARGE), PIECE)]

    answered: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body.pop(0), "more_body": bool(body)}

    async def send(message: Any) -> None:
        answered.append(message)

    async def serve() -> None:
        head = scope(node, "POST", "/api/v1/files?filename=a", **{"content-length": str(len(LARGE))})
        request = asyncio.create_task(create_app(node)(head, receive, send))
        while not within.is_set() and not request.done():
            await asyncio.sleep(0.001)
        for _ in range(20):
            request.cancel()
            await asyncio.sleep(0)
        assert not request.done(), answered
        go_on.set()
        await asyncio.wait([request])
        assert request.cancelled() or step == "publish", answered

    asyncio.run(serve())
    assert early == []
    home = Path(os.environ["ARTSTORE_HOME"])
    left = [p for p in (home / "files/.artstore/staging").rglob("*") if p.is_file() and p.name != "lock"]
    assert left == []
    (told,) = node.kernel.transactions(status=None, limit=10, before=None)
    assert told.status == ("committed" if step == "publish" else "rolled_back")
    assert len([*home.glob("files/2*/*/*/*/*.attr.json")]) == (step == "publish")


def test_a_cancelled_download_goes_no_further(node: Node) -> None:
    file_id = stored(node, LARGE)
    sent: list[Any] = []
    app = create_app(node)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is to come")

    async def send(message: Any) -> None:
        sent.append(message)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def serve() -> None:
        head = scope(node, "GET", f"/api/v1/files/{file_id}/download")
        await app(head, receive, send)

    before = os.listdir("/proc/self/fd")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(serve())
    assert [m["type"] for m in sent] == ["http.response.start"]
    assert len(os.listdir("/proc/self/fd")) <= len(before)  # what other tests held may go meanwhile
