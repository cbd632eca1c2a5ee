"""Whatever a client sends: a 4xx that says why, and nothing left behind."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from support.servers import (
    BOUNDARY,
    FORM,
    Connection,
    Element,
    chunked,
    file,
    form,
    part,
    sha256_header,
    text,
    until,
)

TARGET = "/api/v1/files?filename=a.txt"
FORMS = "/api/v1/files"
PUT = "/api/v1/files/0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4?filename=a"

BAD_NAMES = {
    "empty": "",
    "parent": "..",
    "dot": ".",
    "only dots": "......",
    "dots and spaces": ". . .",
    "spaces": "   ",
    "directory": "a/b/",
    "root": "/",
    "path to a parent": "a/..",
    "backslash": "C:\\x\\",
    "path to a device": "a/con.txt",
    "nul": "a\0b.txt",
    "newline": "a\nb.txt",
    "carriage return": "a\rb.txt",
    "header": "a\r\nX-Evil: 1\r\n\r\n<script>",
    "tab": "a\tb",
    "delete": "a\x7fb",
    "c1 control": "a\x85b",
    "line separator": "a\u2028b",
    "right-to-left override": "exe\u202egpj.txt",
    "isolate": "\u2066a\u2069",
    "con": "con",
    "CON.txt": "CON.txt",
    "nul.tar.gz": "nul.tar.gz",
    "com1 ": "com1 .txt",
    "300 emoji": "😀" * 300,
    "256 letters": "a" * 256,
    "7000 letters": "a" * 7000,
}


@pytest.mark.parametrize("kind", list(BAD_NAMES))
def test_names(element: Element, kind: str) -> None:
    name = BAD_NAMES[kind]
    shown = name.encode().replace(b"\r", b"%0D").replace(b"\n", b"%0A")
    with element.unchanged():
        element.post(b"abc", name).problem(422, "invalid-field")
        element.put("0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4", b"abc", name).problem(422, "invalid-field")
        starred = part(b"name=file; filename*=UTF-8''" + quote(name, safe="").encode(), b"abc")
        element.post_form([starred]).problem()
        if shown == name.encode():
            # Names with line ends come escaped by browsers; %0A is then no line end but three letters.
            element.post_form([file(b"abc", name)]).problem()


def test_a_name_with_a_raw_line_end_in_a_form(element: Element) -> None:
    for ending in (b"\r\n", b"\n", b"\r", b"\0"):
        with element.unchanged():
            element.post_form([part(b'name="file"; filename="a' + ending + b'X-Evil: 1"', b"abc")]).problem(
                400
            )


def test_names_that_are_not_utf_8(element: Element) -> None:
    with element.unchanged():
        for escaped in ("%ff", "%ed%a0%80", "%c0%af", "%f4%90%80%80", "%80"):
            element.ask("POST", f"/api/v1/files?filename=a{escaped}", None, b"abc").problem(
                400, "malformed-request"
            )
            element.post_form([part(b"name=file; filename*=UTF-8''a" + escaped.encode(), b"x")]).problem(400)
        element.post_form([part(b'name="file"; filename="\xff\xfe"', b"abc")]).problem(400)
        element.post_form([part(b"name=file; filename*=latin1''a%e9", b"abc")]).problem(400)
        for broken in ("%", "%zz", "%4", "a%g1"):
            element.ask("POST", f"/api/v1/files?filename={broken}", None, b"abc").problem(
                400, "malformed-request"
            )
        element.ask("POST", "/api/v1/files?filename=a&filename=b", None, b"abc").problem(422, "invalid-field")
        element.ask("POST", "/api/v1/files?filename=a&x=1", None, b"abc").problem(400, "unknown-parameter")


@pytest.mark.parametrize(
    "kind",
    ["a;b", "text/", "/plain", "text/plain; charset", "text/plain; a=b; c", 'text/plain; a="b',
     "text/html, text/plain", "a" * 256 + "/b", "text/<script>", "te xt/plain", "../../x", "text"],
    ids=range(12),
)  # fmt: skip
def test_content_types(element: Element, kind: str) -> None:
    with element.unchanged():
        element.post(b"abc", headers=[("Content-Type", kind)]).problem(422, "invalid-field")
        element.post_form([file(b"abc", content_type=kind)]).problem(422, "invalid-field")


def repeated(name: str, count: int) -> list[bytes]:
    return [text(name, str(i)) for i in range(count)]


FILE = file(b"abc")
BAD_FORMS: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "no parts": (form(), 400),
    "no file": (form(text("description", "x")), 400),
    "two files": (form(FILE, FILE), 400),
    "two files apart": (form(FILE, text("tags", "x"), FILE), 400),
    "no closing boundary": (form(FILE)[: -len(BOUNDARY) - 6], 400),
    "a closing boundary that is cut": (form(FILE)[:-4], 400),
    "only a boundary": (b"--" + BOUNDARY.encode(), 400),
    "another boundary": (form(FILE).replace(BOUNDARY.encode(), b"other"), 400),
    "a preamble without end": (b"hello\r\n" * 20_000 + form(FILE), 400),
    "a preamble of one long line": (b"x" * 10_000 + b"\r\n" + form(FILE), 400),
    "LF only": (form(FILE).replace(b"\r\n", b"\n"), 400),
    "no blank line": (
        b"--" + BOUNDARY.encode() + b"\r\nContent-Disposition: form-data; name=file; filename=a\r\n",
        400,
    ),
    "1000 parts": (form(*repeated("tags", 1000), FILE), 400),
    "1000 parts after": (form(FILE, *repeated("tags", 1000)), 400),
    "1 MiB of part headers": (
        form(part(b'name="file"; filename="a"', b"abc", b"X-A: " + b"a" * (1 << 20))),
        400,
    ),
    "1000 part headers": (
        form(part(b"name=file; filename=a", b"abc", *[b"X-%d: a" % i for i in range(1000)])),
        400,
    ),
    "no name": (form(part(b'filename="a"', b"abc")), 400),
    "file without filename": (form(part(b'name="file"', b"abc")), 400),
    "file in another part": (form(part(b'name="upload"; filename="a"', b"abc")), 400),
    "attachment": (form(FILE).replace(b"form-data; ", b"attachment; "), 400),
    "no disposition": (form(b"Content-Type: text/plain\r\n\r\nabc"), 400),
    "two dispositions": (
        form(part(b"name=file; filename=a", b"x", b"Content-Disposition: form-data; name=b")),
        400,
    ),
    "base64": (form(part(b"name=file; filename=a", b"YWJj", b"Content-Transfer-Encoding: base64")), 400),
    "unknown field": (form(text("owner", "x"), FILE), 422),
    "unknown field after": (form(FILE, text("file_id", "x")), 422),
    "description twice": (form(text("description", "x"), FILE, text("description", "y")), 422),
    "metadata twice": (form(text("metadata", "{}"), FILE, text("metadata", "{}")), 422),
    "metadata is a list": (form(FILE, text("metadata", "[]")), 422),
    "metadata is no JSON": (form(FILE, text("metadata", "{a: 1}")), 422),
    "metadata with NaN": (form(FILE, text("metadata", '{"a": NaN}')), 422),
    "metadata with a key twice": (form(FILE, text("metadata", '{"a": 1, "a": 2}')), 422),
    "metadata with half a pair": (form(FILE, text("metadata", '{"a": "\\ud800"}')), 422),
    "metadata with a huge integer": (form(FILE, text("metadata", '{"a": %s}' % ("9" * 400))), 422),
    "metadata too deep": (form(FILE, text("metadata", '{"a":' * 21 + "1" + "}" * 21)), 422),
    "metadata far too deep": (form(FILE, text("metadata", '{"a":' * 9000)), 422),
    "metadata past 4 KB": (form(FILE, text("metadata", json.dumps({"a": "x" * 4000}))), 422),
    "description past 4 KB": (form(FILE, text("description", "я" * 2000)), 422),
    "description of 70 KB": (form(text("description", "x" * 70_000), FILE), 422),
    "description not UTF-8": (form(part(b'name="description"', b"\xff"), FILE), 422),
    "tags past 4 KB": (form(text("tags", json.dumps(["t" * 99] * 45)), FILE), 422),
    "tag too long": (form(text("tags", "t" * 101), FILE), 422),
    "tag with a line end": (form(text("tags", "a\nb"), FILE), 422),
    "tags of numbers": (form(text("tags", "[1, 2]"), FILE), 422),
    "tags cut": (form(text("tags", '["a"'), FILE), 422),
    "a wrong digest": (form(text("sha256", "0" * 64), FILE), 422),
    "a wrong digest after": (form(FILE, text("sha256", "0" * 64)), 422),
    "a digest that is none": (form(FILE, text("sha256", "abc")), 422),
    "another charset": (form(text("_charset_", "utf-16"), FILE), 400),
}


@pytest.mark.parametrize("kind", list(BAD_FORMS))
def test_forms(element: Element, kind: str) -> None:
    body, status = BAD_FORMS[kind]
    with element.unchanged():
        element.ask("POST", FORMS, [FORM], body).problem(status)
        head = element.head("POST", FORMS, [FORM, ("Transfer-Encoding", "chunked")])
        element.raw(head + chunked(body, 1000), "POST").problem(status)


@pytest.mark.parametrize(
    "kind",
    ["", "; boundary", "; boundary=", '; boundary=""',
     "; boundary=" + "b" * 71, '; boundary="a\\"b"', "; boundary=a b; c",
     f"; boundary={BOUNDARY}; boundary=x", "; boundary=é"],
    ids=range(9),
)  # fmt: skip
def test_boundaries(element: Element, kind: str) -> None:
    with element.unchanged():
        answer = element.ask("POST", FORMS, [("Content-Type", f"multipart/form-data{kind}")], form(FILE))
        # A Content-Type beyond ASCII is as if none came.
        answer.problem(422 if "é" in kind else 400)


def test_encodings(element: Element) -> None:
    with element.unchanged():
        for encoding in ("gzip", "br", "deflate, gzip", "x", ""):
            header = [("Content-Encoding", encoding)]
            element.post(b"abc", headers=header).problem(415, "unsupported-media-type")
            element.post_form([FILE], header).problem(415, "unsupported-media-type")
        element.ask("PUT", PUT, [FORM], form(FILE)).problem(415)
    assert element.post(b"abc", headers=[("Content-Encoding", "identity")]).status == 201


@pytest.mark.parametrize(
    "announcement",
    [
        [("Content-Range", "bytes 100-102/103")],  # `curl -T f -C 100` (RFC 9110, 14.5)
        [("Content-Range", "bytes 0-2/103")],
        [("X-Content-Range", "bytes 0-2/103")],
        [("OC-Chunked", "1")],
        [("Tus-Resumable", "1.0.0"), ("Upload-Length", "100")],
        [("Upload-Complete", "?0")],
        [("Upload-Complete", "?0;a=b")],
        [("Upload-Complete", "false")],
        [("Upload-Complete", "?1"), ("Upload-Offset", "100")],
        [("Upload-Complete", "?1"), ("Upload-Complete", "?0")],
        [("Upload-Incomplete", "?1")],
        [("Upload-Offset", "100")],
        [("Upload-Length", "100")],
        [("Upload-Defer-Length", "1")],
        [("Upload-Concat", "partial")],
    ],
    ids=range(15),
)
def test_a_part_of_a_file_is_not_stored_as_the_whole(
    element: Element, announcement: list[tuple[str, str]]
) -> None:
    with element.unchanged():
        element.post(b"abc", headers=announcement).problem(400, "malformed-request")
        element.post_form([FILE], announcement).problem(400, "malformed-request")
        element.ask("PUT", PUT, announcement, b"abc").problem(400, "malformed-request")


def test_a_part_within_a_form_is_not_stored_as_the_whole(element: Element) -> None:
    with element.unchanged():
        ranged = part(b'name="file"; filename="a"', b"abc", b"Content-Range: bytes 0-2/9")
        element.post_form([ranged]).problem(400, "malformed-request")
        ranges = [("Content-Type", "multipart/byteranges; boundary=x")]
        element.post(b"abc", headers=ranges).problem(415, "unsupported-media-type")


@pytest.mark.parametrize(
    "announcement",
    [
        [("Upload-Complete", "?1"), ("Upload-Draft-Interop-Version", "6")],
        [("Upload-Complete", "?1"), ("Upload-Offset", "0"), ("Upload-Length", "3")],
        [("Upload-Incomplete", "?0"), ("Upload-Draft-Interop-Version", "3")],
    ],
)
def test_a_whole_file_with_the_fields_of_resumable_uploads_is_stored(
    element: Element, announcement: list[tuple[str, str]]
) -> None:
    """Apple's clients send these with each upload."""
    assert element.post(b"abc", headers=announcement).json()["size"] == 3


def test_digests_that_contradict(element: Element) -> None:
    right, wrong = sha256_header(b"abc"), sha256_header(b"abd")
    with element.unchanged():
        for headers in (
            [("Repr-Digest", right), ("Content-Digest", wrong)],
            [("Repr-Digest", wrong), ("Repr-Digest", right), ("Content-Digest", wrong)],
            [("Repr-Digest", "sha-256=:" + "A" * 100 + ":")],
            [("Repr-Digest", "sha-256=:é:")],
            [("Repr-Digest", "")],
            [("Repr-Digest", right + ",")],
        ):
            element.post(b"abc", headers=headers).problem()


# --- clients that go away ---


def raw_body(element: Element, data: bytes) -> tuple[bytes, bytes]:
    return element.head("POST", TARGET, [("Content-Length", str(len(data)))]), data


def put_body(element: Element, data: bytes) -> tuple[bytes, bytes]:
    return element.head("PUT", PUT, [("Content-Length", str(len(data)))]), data


def form_body(element: Element, data: bytes) -> tuple[bytes, bytes]:
    body = form(text("description", "d"), file(data), text("tags", "t"))
    return element.head("POST", FORMS, [FORM, ("Content-Length", str(len(body)))]), body


def chunked_body(element: Element, data: bytes) -> tuple[bytes, bytes]:
    headers = [("Transfer-Encoding", "chunked"), ("Repr-Digest", sha256_header(data))]
    return element.head("POST", TARGET, headers), chunked(data)


def chunked_form(element: Element, data: bytes) -> tuple[bytes, bytes]:
    body = form(text("description", "d"), file(data), text("tags", "t"))
    return element.head("POST", FORMS, [FORM, ("Transfer-Encoding", "chunked")]), chunked(body, 30_000)


Way = Callable[[Element, bytes], tuple[bytes, bytes]]
WAYS: list[Way] = [raw_body, put_body, form_body, chunked_body, chunked_form]


def leave(connection: Connection) -> None:
    connection.close()


def half_close(connection: Connection) -> None:
    """It sends no more, and still listens: it must be told."""
    connection.socket.shutdown(socket.SHUT_WR)
    assert connection.answer("POST").problem()["code"] in ("malformed-request", "digest-mismatch")


def last_cut(element: Element, way: Way, body: bytes) -> int:
    """Where a body is cut as late as can be. Behind WSGI a cut looks like an end, so that a chunked body which
    misses its last chunk alone is whole: its digest or its closing boundary says so."""
    hidden = element.adapter == "falcon" and way in (chunked_body, chunked_form)
    return len(body) - (12 if hidden else 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("going", [leave, Connection.reset, half_close])
def test_a_small_body_cut(element: Element, way: Way, going: Callable[[Connection], Any]) -> None:
    head, body = way(element, b"0123456789" * 20)
    last = last_cut(element, way, body)
    cuts = (0, 1, 50, len(body) // 2, last - 50, last - 4, last - 1, last)
    name = f"cut-{way.__name__}-{going.__name__}"
    with element.unchanged():
        for cut in cuts:
            with element.connect() as connection:
                numbered = head.replace(b"\r\n", f"\r\nX-Request-ID: {name}-{cut}\r\n".encode(), 1)
                connection.send(numbered + body[:cut])
                going(connection)
        if going is not Connection.reset:  # which may come before the head was read
            answered = f" {name}-%d {'PUT' if way is put_body else 'POST'} "
            until(
                lambda: all(answered % cut in element.log.read_text() for cut in cuts),
                "an end of every request",
            )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("going", [leave, Connection.reset, half_close])
def test_a_large_body_cut(element: Element, way: Way, going: Callable[[Connection], Any]) -> None:
    """Once the server has begun to keep it."""
    head, body = way(element, bytes(range(256)) * 10_000)
    with element.unchanged():
        for cut in (1_200_000, last_cut(element, way, body)):
            with element.connect() as connection:
                connection.send(head + body[:cut])
                until(element.is_receiving, "the upload's beginning")
                assert element.pending()
                going(connection)
            element.wait_idle()
