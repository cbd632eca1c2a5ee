"""The access log: who asked for what, how much came and went, and how long it took with the body."""

from __future__ import annotations

import re
from datetime import datetime

from support.servers import Element, file_path, until

LINE = re.compile(
    r"(?m)^(\S+) INFO artstore\.access (?P<id>\S+) (?P<method>\S+) (?P<path>\S+) (?P<status>\d+) "
    r"(?P<received>\d+)B (?P<sent>\d+)B (?P<ms>[\d.]+)ms (?P<client>\S+) (?P<user>.+)$"
)


def line(element: Element, request_id: str | None) -> re.Match[str]:
    def found() -> re.Match[str] | None:
        return next((m for m in LINE.finditer(element.log.read_text()) if m["id"] == request_id), None)

    until(lambda: found() is not None, "the access line")
    match = found()
    assert match is not None
    assert datetime.fromisoformat(match[1]).tzinfo is not None
    assert match["client"] == "127.0.0.1"
    return match


def test_an_upload_and_a_refusal_are_logged_with_their_bytes(element: Element) -> None:
    answer = element.post(b"x" * 1000)
    upload = line(element, answer.header("x-request-id"))
    assert (upload["method"], upload["status"]) == ("POST", "201")
    assert (int(upload["received"]), int(upload["sent"])) == (1000, len(answer.body))
    refused = element.get("/api/v1/files", bearer=None)
    assert line(element, refused.header("x-request-id"))["user"] == "-"


def test_a_download_is_logged_when_its_last_byte_went(element: Element) -> None:
    size = 16 << 20
    made = element.upload(b"x" * size)
    target = file_path(made["file_id"]) + "/download"
    # A range: where a whole file lies on a local disk, granian sends it by itself, and does not tell when it is done.
    part = [("Range", f"bytes=1-{size}")]
    with element.connect() as connection:
        connection.send(element.head("GET", target, part))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.line()
        request_id = re.search(rb"(?i)x-request-id: (\S+)", head)
        assert request_id is not None
        name = request_id[1].decode()
        # The buffers between us hold less than the file: it is still being sent.
        assert f" {name} " not in element.log.read_text()
        assert len(connection.rest()) == size - 1
    assert int(line(element, name)["sent"]) == size - 1
    with element.connect() as connection:
        connection.send(element.head("GET", target, part))
        while (read := connection.line()) not in (b"\r\n", b""):
            request_id = re.search(rb"(?i)x-request-id: (\S+)", read) or request_id
        connection.reset()
    sent = int(line(element, request_id[1].decode())["sent"])
    # An ASGI server takes the rest although the client went away.
    assert sent < size - 1 or element.adapter == "starlette"


def test_a_small_download_and_a_head_request_are_logged_once(element: Element) -> None:
    made = element.upload(b"small")
    target = file_path(made["file_id"]) + "/download"
    for method, sent in (("GET", 5), ("HEAD", 0)):
        name = element.ask(method, target).header("x-request-id")
        assert int(line(element, name)["sent"]) == sent
        assert element.log.read_text().count(f" {name} ") == 1
