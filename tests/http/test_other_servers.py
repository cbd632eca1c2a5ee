"""People bring their own servers: uvicorn for the one adapter, gunicorn for the other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artstore.host.boot import open_default
from artstore_starlette.app import create_app
from support.servers import FORM, Element, chunked, file, file_path, form, prepare, sha256_header, text, until

COMMANDS = {
    "starlette": [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "artstore_starlette.app:create_app",
        "--port",
        "PORT",
    ],
    "falcon": [
        *(
            sys.executable,
            "-m",
            "gunicorn",
            "artstore_falcon.app:create_app()",
            "--bind",
            "127.0.0.1:PORT",
            "--no-control-socket",
        ),
        *("--worker-class", "gthread", "--threads", "8"),
    ],
}
DATA = bytes(range(256)) * 12_000


def test_another_server(adapter: str, start: Callable[..., Element]) -> None:
    element = start(adapter, command=COMMANDS[adapter])
    made = element.upload(DATA, "naïve.bin", description="d")
    answer = element.download(made["file_id"])
    assert answer.body == DATA
    assert (
        answer.header("content-disposition")
        == "attachment; filename=\"na_ve.bin\"; filename*=UTF-8''na%C3%AFve.bin"
    )
    assert element.download(made["file_id"], ("Range", "bytes=5-9")).body == DATA[5:10]
    assert element.download(made["file_id"], ("Range", "bytes=0-0,9-9")).status == 206
    head = element.ask("HEAD", f"{file_path(made['file_id'])}/download")
    assert (head.body, head.header("content-length")) == (b"", str(len(DATA)))
    assert element.post(b"").status == 201
    assert element.post(DATA, "é.txt").json()["original_filename"] == "é.txt"
    assert element.patch(made["file_id"], {"description": None}).json()["revision"] == 2
    assert element.get(file_path(made["file_id"]), ("If-None-Match", '"r2"')).status == 304
    digest = ("Repr-Digest", sha256_header(DATA))
    raw = element.head("POST", "/api/v1/files?filename=a", [("Transfer-Encoding", "chunked"), digest])
    assert element.raw(raw + chunked(DATA), "POST").status == 201
    whole = form(text("tags", "t"), file(DATA))
    forms = element.head("POST", "/api/v1/files", [FORM, ("Transfer-Encoding", "chunked")])
    assert element.raw(forms + chunked(whole), "POST").status == 201

    # These servers show bytes beyond ASCII, which granian's WSGI does not: they are read alike all the same.
    assert (
        element.post(b"a", "a.png", headers=[("Content-Type", "text/é")]).json()["content_type"]
        == "image/png"
    )
    with element.unchanged():
        element.post(b"a", headers=[("Content-Encoding", "é")]).problem(415)
        element.get("/api/v1/files", bearer=None).problem(401)
        element.get("/nothing").problem(404)
        element.post(b"abc", "..").problem(422)
        element.post(b"abc", headers=[digest]).problem(422, "digest-mismatch")
        for head_, body in ((raw, chunked(DATA)), (forms, chunked(whole))):
            cut(element, head_, body)
        cut(
            element,
            element.head("POST", "/api/v1/files?filename=a", [("Content-Length", str(len(DATA)))]),
            DATA,
        )
        cut(
            element, element.head("POST", "/api/v1/files", [FORM, ("Content-Length", str(len(whole)))]), whole
        )
        # Where these servers answer first their 4xx is fine; a 5xx, or a file, is not.
        for headers in (
            [("Content-Length", "3"), ("Content-Length", "4")],
            [("Content-Length", "x")],
            [("Content-Length", "9" * 30)],
            [("Transfer-Encoding", "gzip")],
            [("Host", "two"), ("Content-Length", "3")],
        ):
            refused = element.raw(element.head("POST", "/api/v1/files?filename=a", headers) + b"abc", "POST")
            assert 400 <= refused.status < 500, (headers, refused)
        for start_, broken in (
            (raw, b"2\r\na\r\n0\r\n\r\n"),
            (forms, b"zz\r\n"),
            (raw, chunked(DATA)[:-7] + b"?\r\n"),
        ):
            with element.connect() as connection:
                connection.send(start_ + broken + element.head("DELETE", "/smuggled"))
                refused = connection.answer("POST")
                assert 400 <= refused.status < 500, (broken[-20:], refused)
                assert connection.at_end()
    assert element.ask("DELETE", file_path(made["file_id"])).status == 204


def test_a_websocket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """granian asks for none; uvicorn does where it finds a library for them."""
    prepare(tmp_path / "home")
    monkeypatch.setenv("ARTSTORE_HOME", str(tmp_path / "home"))
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    node = open_default()
    try:
        asyncio.run(create_app(node)({"type": "websocket", "path": "/", "headers": []}, receive, send))
    finally:
        node.close()
    assert sent == [{"type": "websocket.close"}]


def cut(element: Element, head: bytes, body: bytes) -> None:
    for rudely in (False, True):
        with element.connect() as connection:
            connection.send(head + body[: len(body) - 300])
            until(element.staged, "the upload's beginning")
            if rudely:
                connection.reset()
        element.wait_idle()
