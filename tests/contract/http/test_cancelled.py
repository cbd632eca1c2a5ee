"""A server may cancel an app in the middle of a request (uvicorn does, when its time to end is over)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artstore.boot import Node, open_default
from artstore.spi import PIECE, SCOPES, Principal
from artstore_local.backend import LocalBackend
from artstore_local.writer import LocalWriter
from artstore_starlette.app import create_app
from servers import prepare

LARGE = bytes(range(256)) * (3 * PIECE // 256)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    prepare(tmp_path / "home")
    monkeypatch.setenv("ARTSTORE_HOME", str(tmp_path / "home"))
    node = open_default()
    try:
        yield node
    finally:
        node.close()


def scope(node: Node, method: str, target: str, **headers: str) -> dict[str, Any]:
    path, _, query = target.partition("?")
    bearer = node.auth.issue(user="u", roles=["operator"], seconds=60)  # type: ignore[attr-defined]
    headers |= {"host": "a", "authorization": f"Bearer {bearer}"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": pairs}


@pytest.mark.parametrize("step", ["create", "write", "publish"])
def test_a_cancelled_upload_ends_before_it_is_given_up(
    step: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun, under way and in its commit: a thread of its own is at it, and no second one comes to it."""
    within, go_on = threading.Event(), threading.Event()
    of: type = LocalBackend if step == "create" else LocalWriter
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
    session = node.kernel.begin(Principal(id="u", name="u", scopes=SCOPES), filename="a")
    session.write(LARGE)
    attr, _ = session.commit()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is to come")

    async def send(message: Any) -> None:
        sent.append(message)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def serve() -> None:
        head = scope(node, "GET", f"/api/v1/files/{attr.file_id}/download")
        await create_app(node)(head, receive, send)

    before = os.listdir("/proc/self/fd")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(serve())
    assert [m["type"] for m in sent] == ["http.response.start"]
    assert len(os.listdir("/proc/self/fd")) == len(before)
