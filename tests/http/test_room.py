"""Room for uploads at once, over two workers, and under a limit of the process."""

from __future__ import annotations

import select
import signal
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.servers import ARTSTORE, FORM, Connection, Element, chunked, file, form, sha256_header

Start = Callable[..., Element]
SIZE, UPLOADS = 900 << 10, 12


def _request(element: Element, kind: str, body: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body of one upload."""
    method, target = "POST", "/api/v1/files?filename=a"
    headers = [("Expect", "100-continue")]
    if kind == "put":
        method, target = "PUT", f"/api/v1/files/{uuid.uuid4()}?filename=a"
    elif kind == "form":
        target, body = "/api/v1/files", form(file(body))
        headers.append(FORM)
    if kind == "chunked":
        headers += [("Transfer-Encoding", "chunked"), ("Repr-Digest", sha256_header(body))]
        body = chunked(body)
    else:
        headers.append(("Content-Length", str(len(body))))
    return element.head(method, target, headers), body


def _refusal(connection: Connection) -> bool:
    """Return whether the upload was refused for the moment; True before a byte of its body was sent."""
    answer = connection.answer("POST")
    if answer.status != 201:
        answer.problem(507, "storage-full")
    return answer.status != 201


@pytest.mark.parametrize("kind", ["post", "put", "form", "chunked"])
def test_uploads_at_once_exceed_the_capacity(adapter: str, start: Start, kind: str) -> None:
    element = start(adapter, workers=2, settings={"LIMITS__CAPACITY": "1 MiB"})
    with ExitStack() as stack:
        begun: list[tuple[Connection, bytes]] = []
        for _ in range(UPLOADS):
            head, body = _request(element, kind, bytes(SIZE))
            begun.append((stack.enter_context(element.connect()), body))
            begun[-1][0].send(head)
        refused = 0
        for connection, body in begun:
            first = connection.line()
            if b" 100 " in first:
                assert connection.line() == b"\r\n"
                try:
                    connection.send(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it was refused while its body arrived
                refused += _refusal(connection)
            else:
                assert b" 507 " in first
                refused += 1
    assert refused == UPLOADS - 1
    used = element.get("/api/v1/capacity").json()
    assert (used["used"], used["reserved"], used["file_count"]) == (SIZE, 0, 1)
    assert element.get("/health/ready", bearer=None).status == 200
    page = element.get("/metrics", bearer=None).body.decode()
    for line in (
        "artstore_capacity_bytes 1048576", "artstore_reserved_bytes 0", 'artstore_check_ok{check="space"} 1',
    ):  # fmt: skip
        assert line in page.splitlines()


def test_room_that_an_upload_in_progress_has_reserved(adapter: str, start: Start) -> None:
    """It shows, and who is refused for it may come again: the upload ends."""
    element = start(adapter, workers=2, settings={"LIMITS__CAPACITY": "1 MiB"})
    head, body = _request(element, "post", bytes(SIZE))
    with element.connect() as connection:
        connection.send(head)
        assert b" 100 " in connection.line()
        for _ in range(4):  # whichever worker answers
            assert element.get("/api/v1/capacity").json()["reserved"] == SIZE
            refused = element.post(bytes(200 << 10))
            refused.problem(507, "storage-full")
            assert refused.header("retry-after") == "5"
        assert f"artstore_reserved_bytes {SIZE}\n".encode() in element.get("/metrics", bearer=None).body
        assert connection.line() == b"\r\n"
        assert connection.send(body).answer("POST").status == 201
    for _ in range(4):
        refused = element.post(bytes(200 << 10))
        refused.problem(507, "storage-full")
        assert refused.header("retry-after") is None


@pytest.mark.parametrize("kind", ["post", "put", "form"])
def test_a_client_that_still_sends_loses_the_answer(adapter: str, start: Start, kind: str) -> None:
    element = start(adapter, settings={"LIMITS__CAPACITY": "1 KiB"})
    head, body = _request(element, kind, bytes(SIZE))
    head = head.replace(b"Expect: 100-continue\r\n", b"")
    with element.connect() as connection:
        connection.send(head + body[: SIZE // 2])
        select.select([connection.socket], [], [], 1)  # some refuse by the head, some by what arrived
        connection.send(body[SIZE // 2 :])
        connection.answer("POST").problem(507, "storage-full")
        # The connection is as good as before.
        assert connection.send(element.head("GET", "/health/live")).answer().status == 200


def test_a_worker_that_dies_keeps_the_room(adapter: str, start: Start) -> None:
    element = start(adapter, settings={"LIMITS__CAPACITY": "1 MiB"})
    head, body = _request(element, "post", bytes(SIZE))
    with element.connect() as connection:
        connection.send(head)
        assert b" 100 " in connection.line()
        home = element.home
        element.kill()
    element.exits = (-signal.SIGKILL,)
    again = start(adapter, home=home, settings={"LIMITS__CAPACITY": "1 MiB"})
    assert again.get("/api/v1/capacity").json()["reserved"] == 0
    assert again.post(body).status == 201


def test_a_limit_of_the_process_is_an_outage(adapter: str, start: Start, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: refused before the body where it says how long it is, else where it becomes too long."""
    limit = 3_000_000
    command = ["prlimit", f"--fsize={limit}", ARTSTORE, "serve", "--adapter", adapter, "--port", "PORT"]
    element = start(adapter, command=command)
    element.exits = (0,)
    with element.unchanged():
        for kind in ("post", "put", "form", "chunked"):
            head, body = _request(element, kind, bytes(limit + 1))
            with element.connect() as connection:
                connection.send(head)
                first = connection.line()
                if kind in ("post", "put"):
                    assert b" 413 " in first
                    continue
                assert b" 100 " in first
                assert connection.line() == b"\r\n"
                try:
                    connection.send(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                refused = connection.answer("POST")
                refused.problem(413, "file-too-large")
                assert refused.header("retry-after") is None
    assert element.post(bytes(1 << 20)).status == 201
    assert element.get("/health/ready", bearer=None).status == 200
