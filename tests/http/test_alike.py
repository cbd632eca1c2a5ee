"""The two adapters cannot be told apart on the wire: one home, served by both, asked the same."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from support import servers
from support.servers import (
    FORM,
    JSON,
    Answer,
    Element,
    chunked,
    file,
    file_path,
    form,
    sha256_header,
    text,
    token,
)

ID = ("X-Request-ID", "alike")
MERGE = ("Content-Type", "application/merge-patch+json")
THERE, ABSENT = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
DATA = bytes(range(256)) * 50
LARGE = bytes(range(256)) * 8192

Pair = tuple[Element, Element]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    home = tmp_path_factory.mktemp("pair") / "home"
    one = servers.start("starlette", home)
    try:
        two = servers.start("falcon", home)
        try:
            assert one.put(THERE, DATA, "naïve.bin").status == 201
            assert two.patch(THERE, {"description": "d", "tags": ["t"], "metadata": {"a": 1}}).status == 200
            assert two.put(str(uuid.UUID(int=3)), LARGE, "large.bin").status == 201
            assert one.put(str(uuid.UUID(int=4)), b"", "empty").status == 201
            yield one, two
        finally:
            two.stop()
    finally:
        one.stop()


# What differs because it is another file made at another time, or another adapter; nothing else may.
_OWN = (
    (rb'"(uploaded_at|updated_at|started|finished|changed_at)":"[^"]*"', rb'"\1":"TIME"'),
    (rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", b"ID"),
    (rb"_\d{8}T\d{6}_[0-9a-f]{8}", b"_TIME_ID"),
    (rb'"adapter":"(starlette|falcon)"', b'"adapter":"ONE"'),
    (rb'"free":\d+|"total":\d+', b"SPACE"),
    (rb"cursor=[\w-]+|\"next_cursor\":\"[\w-]+\"", b"CURSOR"),
)


def shown(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    """The answer without what must differ. Connection is the server's, and so is the order of the fields."""

    def neutral(data: bytes) -> bytes:
        for pattern, replacement in _OWN:
            data = re.sub(pattern, replacement, data)
        return data

    fields = [(n, neutral(v.encode()).decode()) for n, v in answer.headers if n not in ("date", "connection")]
    return answer.status, sorted(fields), neutral(answer.body)


def alike(
    pair: Pair, method: str, target: str, headers: Any = (), body: bytes | None = None, **options: Any
) -> int:
    answers = [e.ask(method, target, [ID, *headers], body, **options) for e in pair]
    one, two = map(shown, answers)
    if target.endswith("v1/info"):  # its length is that of the adapter's name
        one[1].remove(("content-length", str(answers[0].header("content-length"))))
        two[1].remove(("content-length", str(answers[1].header("content-length"))))
    assert one == two
    assert answers[0].header("x-request-id") == "alike"
    assert answers[0].header("server") == answers[1].header("server")
    return answers[0].status


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 200), ("/api/v1/info", 200), ("/api/v1/plugins", 200), ("/api/v1/capacity", 200),
        ("/api/v1/transactions?status=committed&limit=2", 200), ("/health/live", 200), ("/health/ready", 200),
        ("/openapi.json", 200), ("/docs", 200), ("/docs/swagger-ui.css", 200), ("/docs/no", 404),
        ("/api/v1/files", 200), ("/api/v1/files?q=naïve", 200),
        ("/api/v1/files?q=na%C3%AFve", 200), ("/api/v1/files?limit=1", 200), ("/api/v1/files?limit=0", 422),
        ("/api/v1/files?x=1", 400), ("/api/v1/files?q=%ff", 400), ("/api/v1/files?q=%zz", 400),
        ("/api/v1/files?cursor=x", 400), ("/api/v1/files?uploaded_after=x", 422), (file_path(THERE), 200),
        (file_path(ABSENT), 404), (file_path("x"), 422), ("/nothing", 404), ("/é", 404), ("/%ff", 404),
        ("/api%2fv1/info", 200), ("//api/v1/info", 404), ("/api/v1/info/", 404), ("/" + "a" * 9000, 414),
        ("/api/v1/info?a=b&", 400), ("/api/v1/files?", 200), ("/api/v1/files?q=a+b%2B&tag=x&tag=y", 200),
    ],
    ids=range(34),
)  # fmt: skip
def test_reading(pair: Pair, target: str, status: int) -> None:
    assert alike(pair, "GET", target) == status
    alike(pair, "HEAD", target)
    alike(pair, "GET", target, bearer=None)
    alike(pair, "GET", target, bearer=token("nobody"))
    alike(pair, "DELETE" if THERE not in target else "BREW", target)
    alike(pair, "OPTIONS", target)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_downloads(pair: Pair, number: int) -> None:
    path = f"{file_path(str(uuid.UUID(int=number)))}/download"
    etag = pair[0].get(path).header("etag") or ""
    modified = pair[0].get(path).header("last-modified") or ""
    for headers in (
        [], [("Range", "bytes=0-9")], [("Range", "bytes=5-")], [("Range", "bytes=-3")],
        [("Range", "bytes=0-1, 3-4,-2")],
        [("Range", "bytes=0-1000000,1500000-")], [("Range", "bytes=99999999-")], [("Range", "lines=1-2")],
        [("Range", "bytes=0-1"), ("Range", "bytes=3-4")], [("Range", "bytes=2-1")], [("Range", "")], [("Range", "é")],
        [("If-None-Match", etag)], [("If-None-Match", "é")], [("If-None-Match", '"a"'), ("If-None-Match", etag)],
        [("If-Match", '"other"')], [("If-Match", "é")], [("If-Match", "")], [("If-Modified-Since", modified)],
        [("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")], [("If-Range", etag), ("Range", "bytes=0-0")],
        [("If-Range", '"x"'), ("Range", "bytes=0-0")], [("Accept-Encoding", "gzip")],
    ):  # fmt: skip
        alike(pair, "GET", path, headers)
        alike(pair, "HEAD", path, headers)
    for query in ("?disposition=inline", "?disposition=x", "?disposition=inline&disposition=inline", "?a"):
        alike(pair, "GET", path + query)


def test_uploads(pair: Pair) -> None:
    whole = form(
        text("description", "dé"),
        file(b"abc", 'na"ïve.txt'),
        text("tags", "t"),
        text("metadata", '{"a": [1.5]}'),
    )
    assert alike(pair, "POST", "/api/v1/files", [FORM], whole) == 201
    assert alike(pair, "POST", "/api/v1/files/upload", [FORM], whole) == 201
    assert alike(pair, "POST", "/api/v1/files?filename=é.txt", [], b"abc") == 201
    assert alike(pair, "POST", "/api/v1/files?filename=a", [("Content-Type", "text/x")], LARGE) == 201
    assert (
        alike(pair, "POST", "/api/v1/files?filename=a", [("Repr-Digest", sha256_header(b"abc"))], b"abc")
        == 201
    )
    assert alike(pair, "PUT", f"{file_path(THERE)}?filename=na%C3%AFve.bin", [], DATA) == 200
    for target, headers, body in (
        ("/api/v1/files", [FORM], whole[:-9]),
        ("/api/v1/files", [FORM], form(file(b"abc", ".."))),
        ("/api/v1/files", [FORM], form(file(b"abc"), text("metadata", "[" * 3000))),
        ("/api/v1/files", [FORM], form(file(b"abc"), text("owner", "é"))),
        ("/api/v1/files", [FORM], form(text("tags", "t"))),
        ("/api/v1/files", [FORM, ("Repr-Digest", sha256_header(b"x"))], whole),
        ("/api/v1/files", [("Content-Type", "multipart/form-data")], whole),
        ("/api/v1/files", [], b"abc"),
        ("/api/v1/files?filename=..", [], b"abc"),
        ("/api/v1/files?filename=%00", [], b"abc"),
        ("/api/v1/files?filename=a", [("Content-Type", "nonsense")], b"abc"),
        ("/api/v1/files?filename=a", [("Content-Encoding", "gzip")], b"abc"),
        ("/api/v1/files?filename=a", [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")], b"abc"),
        ("/api/v1/files?filename=a", [("Repr-Digest", sha256_header(b"x"))], b"abc"),
        ("/api/v1/files?filename=a", [("Repr-Digest", "é")], b"abc"),
        ("/api/v1/files?filename=a", [("Content-Length", str(1 << 50))], b""),
        ("/api/v1/files?filename=a", [("Transfer-Encoding", "gzip, chunked")], chunked(b"abc")),
        ("/api/v1/files?filename=a", [("Host", "two")], b"abc"),
        ("/api/v1/files?filename=a", [("X-A", "a" * 17_000)], b"abc"),
    ):  # fmt: skip
        assert 400 <= alike(pair, "POST", target, headers, body) < 500
        alike(pair, "POST", target, headers, body, bearer=None)
        alike(pair, "POST", target, headers, body, bearer=token("reader"))
    assert alike(pair, "PUT", f"{file_path(THERE)}?filename=b", [], DATA) == 409
    assert alike(pair, "PUT", f"{file_path(THERE)}", [], DATA) == 422
    assert alike(pair, "PUT", f"{file_path('x')}?filename=b", [], DATA) == 422
    assert alike(pair, "POST", "/api/v1/files?filename=a", bearer=None) == 401
    assert alike(pair, "POST", "/api/v1/files?filename=a") == 411


BEYOND_ASCII = ("é", "a\udcffb", '"é"', "text/plain; a=é", "é" * 9000)


@pytest.mark.parametrize("value", BEYOND_ASCII, ids=range(len(BEYOND_ASCII)))
def test_fields_with_bytes_beyond_ascii_are_read_as_empty(pair: Pair, value: str) -> None:
    """WSGI servers show them as empty, as Latin-1 or not at all: every adapter reads nothing in them."""
    plain, download = "/api/v1/files?filename=a.png", f"{file_path(THERE)}/download"
    for name, status in (
        ("Content-Type", 201), ("Content-Encoding", 415), ("Repr-Digest", 400), ("Content-Digest", 400),
        ("Upload-Complete", 400), ("Upload-Offset", 400), ("Upload-Length", 400), ("Content-Range", 400),
        ("X-Filename", 201), ("Origin", 201), ("User-Agent", 201),
    ):  # fmt: skip
        assert alike(pair, "POST", plain, [(name, value)], b"abc") == status, name
    assert (
        alike(pair, "POST", "/api/v1/files", [("Content-Type", f"{FORM[1]}; {value}")], form(file(b"a")))
        == 422
    )
    for fields, status in (
        ([MERGE, ("If-Match", value)], 412), ([MERGE, ("If-None-Match", value)], 412),
        ([MERGE, ("If-Unmodified-Since", value)], 200), ([MERGE, ("Content-Encoding", value)], 415),
        ([("Content-Type", value)], 415), ([("Content-Type", f"{MERGE[1]}; a={value}")], 415),
    ):  # fmt: skip
        assert alike(pair, "PATCH", file_path(THERE), fields, b"{}") == status, fields
    for name, status in (
        ("Range", 200), ("If-Match", 412), ("If-None-Match", 200), ("If-Modified-Since", 200), ("If-Range", 200),
        ("If-Unmodified-Since", 200), ("Origin", 200), ("Access-Control-Request-Method", 200), ("Referer", 200),
        ("X-Forwarded-For", 200), ("Host", 400),
    ):  # fmt: skip
        assert alike(pair, "GET", download, [(name, value)]) == status, name
    assert alike(pair, "GET", download, [("If-Range", value), ("Range", "bytes=0-1")]) == 200
    assert alike(pair, "GET", download, [("Authorization", f"Bearer {value}")], bearer=None) == 401
    ids = [e.ask("GET", download, [("X-Request-ID", value)]).header("x-request-id") for e in pair]
    assert all(re.fullmatch("[0-9a-f]{16}", made or "") for made in ids)


def test_parts_with_bytes_beyond_ascii(pair: Pair) -> None:
    """Fields of a part are in the body, which each server shows whole: they are UTF-8, or refused."""
    whole = form(file(b"abc", "é.txt"))
    assert alike(pair, "POST", "/api/v1/files", [FORM], whole) == 201
    assert alike(pair, "POST", "/api/v1/files", [FORM], whole.replace("é".encode(), b"\xff")) == 400
    typed = form(file(b"abc", content_type="text/é"))
    assert alike(pair, "POST", "/api/v1/files", [FORM], typed) == 422


def test_changes(pair: Pair) -> None:
    path = file_path(THERE)
    assert alike(pair, "PATCH", path, [MERGE], b"{}") == 200
    assert alike(pair, "PATCH", path, [MERGE, ("If-Match", '"r2"')], b'{"description": "d"}') == 200
    for headers, body, status in (
        ([MERGE], b"", 400), ([MERGE], b"[1", 400), ([MERGE], b'{"a": 1, "a": 2}', 400), ([MERGE], b"\xff", 400),
        ([MERGE], b'{"size": 1}', 422), ([MERGE], b'{"tags": [1]}', 422), ([MERGE], b'{"\xc3\xa9": 1}', 422),
        ([MERGE], b'{"metadata": {"a": "' + b"x" * 5000 + b'"}}', 422), ([MERGE], b" " * 70_000, 413),
        ([], b"{}", 415), ([JSON, ("If-Match", '"r1"')], b"{}", 412), ([JSON, ("If-Match", "é")], b"{}", 412),
    ):  # fmt: skip
        assert alike(pair, "PATCH", path, headers, body) == status
    assert alike(pair, "PATCH", file_path(ABSENT), [MERGE], b"{}") == 404
    assert alike(pair, "DELETE", file_path(ABSENT)) == 404
    assert alike(pair, "DELETE", path, [("If-Match", '"r1"')]) == 412
    gone = [e.upload(b"x")["file_id"] for e in pair]
    one, two = (shown(e.ask("DELETE", file_path(f), [ID])) for e, f in zip(pair, gone, strict=True))
    assert one == two
    assert alike(pair, "POST", "/api/v1/mode/transition", [JSON], b'{"target_mode": "ro"}') == 409
    assert alike(pair, "POST", "/api/v1/mode/transition", [JSON], b'{"target_mode": "x"}') == 422
    assert alike(pair, "POST", "/api/v1/mode/transition", [JSON], b'{"target_mode": "ro", "x": 1}') == 422


def test_bodies_cut_short(pair: Pair) -> None:
    """Also where what came would do by itself."""
    path, mode = file_path(THERE), "/api/v1/mode/transition"
    for method, target, headers, body in (
        ("PATCH", path, [MERGE], b'{"description": "cut"}'),
        ("POST", mode, [JSON], b'{"target_mode": "ro"}'),
        ("POST", "/api/v1/maintenance/reconcile", [JSON], b"{}"),
        ("POST", "/api/v1/files?filename=a", [], b"abc"),
        ("PUT", f"{file_path(ABSENT)}?filename=a", [], b"abc"),
        ("POST", "/api/v1/files", [FORM], form(file(b"abc"))),
    ):
        answers = []
        for element in pair:
            announced = [ID, *headers, ("Content-Length", str(len(body) + 1))]
            with element.unchanged(), element.connect() as connection:
                connection.send(element.head(method, target, announced) + body)
                connection.socket.shutdown(socket.SHUT_WR)
                answers.append(shown(connection.answer(method)))
        assert answers[0] == answers[1]
        assert answers[0][0] == 400
    assert pair[0].get(path).json()["description"] == "d"


@pytest.mark.parametrize(
    "value", ["Basic x", "Bearer", "Bearer ", "Bearer é", "Bearer a.b.c", "", "Bearer a b"]
)
def test_credentials(pair: Pair, value: str) -> None:
    assert alike(pair, "GET", "/api/v1/files", [("Authorization", value)], bearer=None) == 401


def test_what_one_keeps_the_other_finds(pair: Pair) -> None:
    one, two = pair
    made = one.upload(b"from one")
    assert two.download(made["file_id"]).body == b"from one"
    assert two.patch(made["file_id"], {"description": "two"}).json()["revision"] == 2
    assert one.get(file_path(made["file_id"])).json()["description"] == "two"
    assert one.ask("DELETE", file_path(made["file_id"])).status == 204
    assert two.get(file_path(made["file_id"])).status == 404
