"""Files come out: whole, in ranges, under conditions, with every header that was promised."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import pytest

from support.servers import Answer, Element, file, file_path, sha256_header

DATA = bytes(range(256)) * 40
SIZE = len(DATA)


@pytest.fixture(scope="module")
def made(element: Element) -> dict[str, Any]:
    return element.upload(DATA, "naïve.bin")


@pytest.fixture(scope="module")
def download(element: Element, made: dict[str, Any]) -> Any:
    def ask(*headers: tuple[str, str], query: str = "", method: str = "GET") -> Answer:
        return element.ask(method, f"{file_path(made['file_id'])}/download{query}", list(headers))

    return ask


def test_every_header(download: Any, made: dict[str, Any]) -> None:
    answer = download()
    modified = parsedate_to_datetime(answer.header("last-modified"))
    assert answer.status == 200
    assert answer.body == DATA
    assert modified == datetime.fromisoformat(made["uploaded_at"]).replace(microsecond=0)
    assert {
        n: v for n, v in answer.headers if n not in ("date", "server", "x-request-id", "last-modified")
    } == {
        "cache-control": "private, no-cache",
        "etag": f'"{hashlib.sha256(DATA).hexdigest()}"',
        "accept-ranges": "bytes",
        "repr-digest": sha256_header(DATA),
        "content-disposition": "attachment; filename=\"na_ve.bin\"; filename*=UTF-8''na%C3%AFve.bin",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "content-type": "text/plain",
        "content-length": str(SIZE),
    }


def same_but_for_the_body(head: Answer, get: Answer) -> None:
    ours = {"date", "x-request-id"}
    assert head.status == get.status
    assert head.body == b""
    assert [x for x in head.headers if x[0] not in ours] == [x for x in get.headers if x[0] not in ours]


def test_head(download: Any) -> None:
    same_but_for_the_body(download(method="HEAD"), download())
    # RFC 9110, 14.2: Range is defined for GET alone.
    same_but_for_the_body(download(("Range", "bytes=0-1"), method="HEAD"), download())


@pytest.mark.parametrize(
    "target",
    ["/", "/api/v1/info", "/api/v1/files?filename=no", "/openapi.json", "/health/live", "/health/ready"],
)
def test_head_of_other_things(element: Element, target: str) -> None:
    same_but_for_the_body(element.ask("HEAD", target), element.get(target))


def test_head_of_what_is_not_there(element: Element) -> None:
    for target, status in (
        ("/nothing", 404),
        ("/api/v1/files/x", 422),
        (file_path("0" * 8 + "-" + "0" * 4), 422),
    ):
        assert element.ask("HEAD", target).status == status
        assert element.ask("HEAD", target).body == b""


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=5-9", 5, 9),
        ("bytes=-1", SIZE - 1, SIZE - 1),
        ("bytes=-999999999", 0, SIZE - 1),
        ("bytes=10-99999999999999999999999", 10, SIZE - 1),
        ("BYTES = 5-9".replace(" ", ""), 5, 9),
        ("bytes=5-9,7-12", 5, 12),
        (f"bytes=5-9,{SIZE}-", 5, 9),
    ],
)
def test_one_range(download: Any, header: str, first: int, last: int) -> None:
    answer = download(("Range", header))
    assert answer.status == 206
    assert answer.body == DATA[first : last + 1]
    assert answer.header("content-range") == f"bytes {first}-{last}/{SIZE}"
    assert answer.header("content-length") == str(last - first + 1)
    assert answer.header("content-type") == "text/plain"
    assert answer.header("etag") == download().header("etag")


def test_several_ranges(download: Any) -> None:
    answer = download(("Range", "bytes=0-9, 100-199, -5"))
    kind, _, boundary = (answer.header("content-type") or "").partition("; boundary=")
    assert answer.status == 206
    assert kind == "multipart/byteranges"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("content-range") is None
    parts = answer.body.split(b"--" + boundary.encode())
    assert parts[-1] == b"--\r\n"
    found = [
        re.fullmatch(
            rb"\r\nContent-Type: text/plain\r\nContent-Range: bytes (\d+)-(\d+)/10240\r\n\r\n(.*)\r\n",
            p,
            re.S,
        )
        for p in parts[1:-1]
    ]
    assert [(int(m[1]), int(m[2]), m[3]) for m in found if m] == [
        (0, 9, DATA[:10]),
        (100, 199, DATA[100:200]),
        (SIZE - 5, SIZE - 1, DATA[-5:]),
    ]


def test_sixteen_ranges_are_the_most(download: Any) -> None:
    sixteen = ",".join(f"{i * 10}-{i * 10}" for i in range(16))
    assert download(("Range", f"bytes={sixteen}")).status == 206
    assert download(("Range", f"bytes={sixteen},500-500")).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "lines=0-1",
        "bytes=5-1",
        "bytes=",
        "bytes=a-b",
        "bytes",
        "bytes=--1",
        "bytes=1-2-3",
        "bytes=1",
        "",
        "bytes=0-1;",
    ],
)
def test_a_range_that_says_nothing_is_ignored(download: Any, header: str) -> None:
    answer = download(("Range", header))
    assert answer.status == 200
    assert answer.body == DATA


@pytest.mark.parametrize(
    "header", [f"bytes={SIZE}-", "bytes=99999999999999999999-", "bytes=-0", f"bytes={SIZE}-,-0"]
)
def test_a_range_beyond_the_end(download: Any, header: str) -> None:
    answer = download(("Range", header))
    answer.problem(416, "invalid-range")
    assert answer.header("content-range") == f"bytes */{SIZE}"


def test_an_empty_file(element: Element) -> None:
    made = element.upload(b"", "empty.txt")
    answer = element.download(made["file_id"])
    assert (answer.status, answer.body, answer.header("content-length")) == (200, b"", "0")
    for whole in ("bytes=0-", "bytes=0-0", "bytes=0-1023", "bytes=-5", "bytes=5-, 0-"):
        answer = element.download(made["file_id"], ("Range", whole))
        assert (answer.status, answer.body, answer.header("content-range")) == (200, b"", None), whole
    for beyond in ("bytes=5-", "bytes=1-2", "bytes=-0"):
        element.download(made["file_id"], ("Range", beyond)).problem(416, "invalid-range")


def moved(made: dict[str, Any], **by: int) -> str:
    at = datetime.fromisoformat(made["uploaded_at"]).replace(microsecond=0) + timedelta(**by)
    return format_datetime(at, usegmt=True)


def test_conditions(download: Any, made: dict[str, Any]) -> None:
    etag = f'"{made["sha256"]}"'
    past, exact, future = moved(made, hours=-1), moved(made), moved(made, hours=1)
    table: list[tuple[int, list[tuple[str, str]]]] = [
        (304, [("If-None-Match", etag)]),
        (304, [("If-None-Match", f'"other", W/{etag}')]),
        (304, [("If-None-Match", "*")]),
        (200, [("If-None-Match", '"other"')]),
        (304, [("If-Modified-Since", exact)]),
        (304, [("If-Modified-Since", future)]),
        (200, [("If-Modified-Since", past)]),
        (200, [("If-Modified-Since", "yesterday")]),
        (200, [("If-None-Match", '"other"'), ("If-Modified-Since", future)]),
        (200, [("If-Match", etag)]),
        (200, [("If-Match", "*")]),
        (412, [("If-Match", f"W/{etag}")]),
        (412, [("If-Match", '"other"')]),
        (412, [("If-Unmodified-Since", past)]),
        (200, [("If-Unmodified-Since", exact)]),
        (200, [("If-Match", etag), ("If-Unmodified-Since", past)]),
        (412, [("If-Match", '"other"'), ("If-None-Match", etag)]),
        (304, [("If-Match", etag), ("If-None-Match", etag)]),
        (206, [("Range", "bytes=0-1"), ("If-Range", etag)]),
        (206, [("Range", "bytes=0-1"), ("If-Range", exact)]),
        (200, [("Range", "bytes=0-1"), ("If-Range", f"W/{etag}")]),
        (200, [("Range", "bytes=0-1"), ("If-Range", '"other"')]),
        (200, [("Range", "bytes=0-1"), ("If-Range", past)]),
        (304, [("Range", "bytes=0-1"), ("If-None-Match", etag)]),
        (200, [("Range", f"bytes={SIZE}-"), ("If-Range", '"other"')]),
    ]
    for status, headers in table:
        answer = download(*headers)
        assert answer.status == status, (headers, answer.status)
        if status == 304:
            assert answer.body == b""
            assert answer.header("etag") == etag
            assert answer.header("content-type") is None
        if status == 412:
            answer.problem(412, "precondition-failed")


@pytest.mark.parametrize(
    ("kind", "query", "shown"),
    [
        ("image/png", "?disposition=inline", "inline"),
        ("text/plain; charset=utf-8", "?disposition=inline", "inline"),
        ("image/png", "?disposition=attachment", "attachment"),
        ("image/png", "", "attachment"),
        ("text/html", "?disposition=inline", "attachment"),
        ("image/svg+xml", "?disposition=inline", "attachment"),
        ("application/xhtml+xml", "?disposition=inline", "attachment"),
        ("application/pdf", "?disposition=inline", "attachment"),
        ("TEXT/HTML", "?disposition=inline", "attachment"),
    ],
)
def test_disposition(element: Element, kind: str, query: str, shown: str) -> None:
    made = element.post_form([file(b"<script>", "a", kind)]).json()
    answer = element.download(made["file_id"], query=query)
    assert (answer.header("content-disposition") or "").partition(";")[0] == shown
    assert answer.header("content-type") == kind
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("content-security-policy") == "sandbox; default-src 'none'"


def test_a_large_file_in_every_way(element: Element) -> None:
    """More than one piece: the way of the server's own file sending, and of ours."""
    data = hashlib.shake_256(b"large").digest(5 * (1 << 20) + 3)
    made = element.upload(data)
    assert element.download(made["file_id"]).body == data
    middle = element.download(made["file_id"], ("Range", f"bytes=3-{len(data) - 3}"))
    assert middle.body == data[3:-2]
    several = element.download(made["file_id"], ("Range", "bytes=0-2000000,3000000-5000000"))
    assert data[:2000001] in several.body
    assert data[3000000:5000001] in several.body
    assert several.header("content-length") == str(len(several.body))


def test_a_client_that_leaves_in_the_middle_of_a_download(element: Element) -> None:
    made = element.upload(bytes(8 << 20))
    for _ in range(5):
        with element.connect() as connection:
            connection.send(element.head("GET", f"{file_path(made['file_id'])}/download"))
            connection.line()
            connection.reset()
    assert element.download(made["file_id"]).body == bytes(8 << 20)
