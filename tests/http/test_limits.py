"""Sizes, capacity and free space: refused before the body where its length tells, and never half-kept."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.servers import (
    FORM,
    Connection,
    Element,
    chunked,
    file,
    form,
    prepare,
    sha256_header,
    text,
    until,
)

Start = Callable[..., Element]
LIMIT, CAPACITY = 100_000, 350_000


def test_file_size_and_capacity(adapter: str, start: Start) -> None:
    element = start(
        adapter, settings={"LIMITS__MAX_FILE_SIZE": str(LIMIT), "LIMITS__CAPACITY": str(CAPACITY)}
    )
    assert element.get("/api/v1/capacity").json() == {
        "total": CAPACITY, "used": 0, "reserved": 0, "free": CAPACITY, "file_count": 0, "status": "ok",
    }  # fmt: skip

    over = bytes(LIMIT + 1)
    digest = ("Repr-Digest", sha256_header(over))
    with element.unchanged():
        # Before the body: only its length came.
        for length in (LIMIT + 1, 10**17):
            head = element.head(
                "POST",
                "/api/v1/files?filename=a",
                [("Content-Length", str(length)), ("Expect", "100-continue")],
            )
            element.raw(head, "POST").problem(413, "file-too-large")
            head = element.head(
                "PUT",
                "/api/v1/files/0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4?filename=a",
                [("Content-Length", str(length + (1 << 20)))],
            )
            element.raw(head, "PUT").problem(413, "file-too-large")
        head = element.head("POST", "/api/v1/files", [FORM, ("Content-Length", str(LIMIT + (2 << 20)))])
        element.raw(head, "POST").problem(413, "file-too-large")
        # While it came.
        element.post(over).problem(413, "file-too-large")
        element.post_form([file(over)]).problem(413, "file-too-large")
        head = element.head("POST", "/api/v1/files?filename=a", [("Transfer-Encoding", "chunked"), digest])
        element.raw(head + chunked(over), "POST").problem(413, "file-too-large")
        still = chunked(bytes(3 << 19)).removesuffix(b"0\r\n\r\n")  # nobody waits for the rest of it
        element.raw(head + still, "POST").problem(413, "file-too-large")
        head = element.head("POST", "/api/v1/files", [FORM, ("Transfer-Encoding", "chunked")])
        element.raw(head + chunked(form(file(over))), "POST").problem(413, "file-too-large")
        element.post_form([text("description", "x" * 70_000), file(b"x")]).problem(422, "invalid-field")

    exact = bytes(LIMIT)
    assert element.post(exact).status == 201
    assert element.post_form([file(exact)]).status == 201
    assert element.get("/api/v1/capacity").json()["status"] == "ok"
    first = element.post(bytes(90_000))
    assert first.status == 201
    assert element.get("/api/v1/capacity").json()["status"] == "warning"

    with element.unchanged():
        full = element.post(bytes(60_001))
        full.problem(507, "storage-full")
        assert full.header("retry-after") is None  # it does not pass by itself
        head = element.head(
            "POST", "/api/v1/files?filename=a", [("Content-Length", "90000"), ("Expect", "100-continue")]
        )
        element.raw(head, "POST").problem(507, "storage-full")
    chosen = "0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4"
    assert element.put(chosen, bytes(60_000)).status == 201
    capacity = element.get("/api/v1/capacity").json()
    assert capacity == {
        "total": CAPACITY, "used": CAPACITY, "reserved": 0, "free": 0, "file_count": 4, "status": "full",
    }  # fmt: skip
    assert list(element.get("/health/ready", bearer=None).json()["checks"]) == ["space"]
    with element.unchanged():
        element.post(b"x").problem(507, "storage-full")
        element.post_form([file(b"x")]).problem(507, "storage-full")
        once = ("Repr-Digest", sha256_header(b"x"))
        head = element.head("POST", "/api/v1/files?filename=a", [("Transfer-Encoding", "chunked"), once])
        element.raw(head + chunked(b"x"), "POST").problem(507, "storage-full")
        # What is there already needs no room.
        assert element.put(chosen, bytes(60_000)).status == 200
        element.put(chosen, bytes(60_001)).problem(409, "conflict")
    # Reading, changing and deleting go on, and deleting makes room.
    file_id = first.json()["file_id"]
    assert element.download(file_id).status == 200
    assert element.patch(file_id, {"description": "x"}).status == 200
    assert element.ask("DELETE", f"/api/v1/files/{file_id}").status == 204
    assert element.post(bytes(50_000)).status == 201


def test_free_space(adapter: str, start: Start) -> None:
    # And listens at a name: this one is 127.0.0.1 wherever it is looked up.
    element = start(adapter, settings={"LIMITS__MIN_FREE": "1 EiB", "SERVER__HOST": "127.1"})
    with element.unchanged():
        element.post(b"x").problem(507, "storage-full")
        element.post_form([file(b"x")]).problem(507, "storage-full")
        element.put("0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4", b"x").problem(507, "storage-full")
        head = element.head(
            "POST", "/api/v1/files?filename=a", [("Content-Length", "5000000"), ("Expect", "100-continue")]
        )
        element.raw(head, "POST").problem(507, "storage-full")
        # A form says how long it is, too.
        head = element.head("POST", "/api/v1/files", [FORM, ("Content-Length", "5000000")])
        element.raw(head, "POST").problem(507, "storage-full")
    assert element.get("/api/v1/files").json() == {"items": [], "next_cursor": None}
    ready = element.get("/health/ready", bearer=None)
    assert ready.status == 503
    assert ready.json()["status"] == "not ready"
    assert list(ready.json()["checks"]) == ["space"]
    assert element.get("/health/live", bearer=None).status == 200


@pytest.mark.parametrize(
    "limit", [{"LIMITS__MIN_FREE": "12 MiB"}, {"LIMITS__MIN_FREE": "0", "LIMITS__CAPACITY": "3 MiB"}]
)
def test_room_that_runs_out_within_a_body(
    adapter: str, start: Start, tmp_path: Path, limit: dict[str, str]
) -> None:
    """Its length is not known ahead, and its end never comes: it is refused for what there is of it."""
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "artstore-test", str(home)], check=True)
    try:
        prepare(home)
        element = start(adapter, home=home, settings=limit)
        endless = chunked(bytes(6 << 20)).removesuffix(b"0\r\n\r\n")
        digest = ("Repr-Digest", sha256_header(endless))
        head = element.head("POST", "/api/v1/files?filename=a", [("Transfer-Encoding", "chunked"), digest])
        with element.unchanged():
            full = element.raw(head + endless, "POST")
            full.problem(507, "storage-full")
            assert full.header("retry-after") is None  # it does not pass by itself
        assert element.post(bytes(1000)).status == 201
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def test_a_body_that_stands_still(start: Start) -> None:
    """ASGI alone: a WSGI server gives no way to stop waiting for a body."""
    element = start("starlette", settings={"LIMITS__BODY_TIMEOUT": "0.2"})
    with element.unchanged():
        for length in (10, 5_000_000):
            head = element.head("POST", "/api/v1/files?filename=a", [("Content-Length", str(length))])
            with element.connect() as connection:
                connection.send(head + b"abc").answer("POST").problem(408, "timeout")
                assert connection.at_end()


def test_a_body_that_drips(start: Start) -> None:
    """Never quite still, and too slow all the same: 1 KiB/s is the least."""
    element = start("starlette", settings={"LIMITS__BODY_TIMEOUT": "0.3"})
    with element.unchanged():
        head = element.head("POST", "/api/v1/files?filename=a", [("Content-Length", "100000")])
        with element.connect() as connection:
            connection.send(head)
            for _ in range(2000):
                connection.send(b"x")
                if select.select([connection.socket], [], [], 0.01)[0]:
                    break
            connection.answer("POST").problem(408, "timeout")


UNREAD = 16 << 20
"""Bytes of a file that no buffers between server and client hold."""


def is_open(connection: Connection, port: int) -> bool:
    """Whether the server's end of a connection is open. Its client would learn that only by reading."""
    ends = f":{port:04X}", f":{connection.socket.getsockname()[1]:04X}"
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(local.endswith(ends[0]) and remote.endswith(ends[1]) for _, local, remote, *_ in rows)


@pytest.mark.parametrize("headers", [[], [("Range", "bytes=1-")]], ids=["whole", "range"])
def test_a_download_that_its_client_never_reads_is_closed(
    adapter: str, start: Start, headers: list[tuple[str, str]]
) -> None:
    element = start(adapter, settings={"LIMITS__BODY_TIMEOUT": "0.5"})
    path = f"/api/v1/files/{element.upload(bytes(UNREAD))['file_id']}/download"
    with element.connect() as connection:
        connection.send(element.head("GET", path, headers))
        assert connection.line().startswith(b"HTTP/1.1 20")
        assert is_open(connection, element.port)
        until(lambda: not is_open(connection, element.port), "the end of an unread download")
    assert element.get(path, *headers).status in (200, 206)


def test_a_download_that_its_client_reads_slowly_is_not_cut(adapter: str, start: Start) -> None:
    element = start(adapter, settings={"LIMITS__BODY_TIMEOUT": "1"})
    path = f"/api/v1/files/{element.upload(bytes(UNREAD))['file_id']}/download"
    with element.connect() as connection:
        connection.send(element.head("GET", path, [("Connection", "close")]))
        taken = 0
        while taken < UNREAD // 2:  # 2 MiB at a time, over several times the deadline
            taken += len(connection.socket.recv(2 << 20, socket.MSG_WAITALL))
            select.select([], [], [], 0.4)
        assert taken + len(connection.rest()) > UNREAD
