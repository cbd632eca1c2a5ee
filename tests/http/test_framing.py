"""Requests that can be read in two ways, that are too much, or that are no HTTP at all."""

from __future__ import annotations

import pytest

from support.servers import FORM, Answer, Element, chunked, file, form, sha256_header

TARGET = "/api/v1/files?filename=a.txt"
DIGEST = ("Repr-Digest", sha256_header(b"abc"))
CHUNKED = ("Transfer-Encoding", "chunked")


def refused(answer: Answer, *statuses: int) -> None:
    """By us with a problem, or by the HTTP server with no body at all; never a 5xx."""
    assert answer.status in (statuses or (400,)), answer
    if answer.body:
        answer.problem()
    else:
        assert answer.header("connection") == "close"


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "3"), ("Content-Length", "4")],
        [("Content-Length", "3, 4")],
        [("Content-Length", "-3")],
        [("Content-Length", "+3")],
        [("Content-Length", "3.0")],
        [("Content-Length", "0x3")],
        [("Content-Length", "three")],
        [("Content-Length", "")],
        [("Content-Length", "9" * 30)],
        [("Content-Length", "٣")],
        [("Transfer-Encoding", "gzip")],
        [("Transfer-Encoding", "identity")],
        [("Transfer-Encoding", "gzip, chunked"), DIGEST],
        [("Transfer-Encoding", "chunked, gzip")],
        [("Transfer-Encoding", "chunked, identity")],
        [("Transfer-Encoding", "xchunked")],
        [("Transfer-Encoding", ", chunked,"), DIGEST],
        [CHUNKED, CHUNKED, DIGEST],
    ],
    ids=range(18),
)
def test_lengths_that_are_none(element: Element, headers: list[tuple[str, str]]) -> None:
    with element.unchanged():
        refused(element.raw(element.head("POST", TARGET, headers) + chunked(b"abc"), "POST"))


def test_a_length_and_chunks(element: Element) -> None:
    """RFC 9112, 6.1: chunks win and the connection ends, or 400; granian's parser hides the length from us."""
    for headers in ([("Content-Length", "3"), CHUNKED, DIGEST], [CHUNKED, DIGEST, ("Content-Length", "3")]):
        with element.connect() as connection:
            connection.send(element.head("POST", TARGET, headers) + chunked(b"abc"))
            connection.send(element.head("DELETE", "/smuggled"))
            answer = connection.answer("POST")
            assert answer.status in (201, 400)
            assert answer.header("connection") == "close"
            assert connection.at_end()
        assert answer.status == 400 or element.download(answer.json()["file_id"]).body == b"abc"


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nabc\r\n0\r\n\r\n",
     b"-3\r\nabc\r\n0\r\n\r\n", b"f" * 20 + b"\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n",
     b"\r\n", b"3 \nabc\r\n0\r\n\r\n", b"3;" + b"x" * 70_000 + b"\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n"],
    ids=range(8),
)  # fmt: skip
def test_chunks_that_are_none(element: Element, body: bytes) -> None:
    other = ("Repr-Digest", sha256_header(b"other"))
    with element.unchanged():
        refused(element.raw(element.head("POST", TARGET, [CHUNKED, other]) + body, "POST"), 400, 422)
        refused(element.raw(element.head("POST", "/api/v1/files", [FORM, CHUNKED]) + body, "POST"))
        patch = element.head(
            "PATCH",
            "/api/v1/files/0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4",
            [("Content-Type", "application/json"), CHUNKED],
        )
        refused(element.raw(patch + body, "PATCH"), 400, 404)


def test_chunks_without_a_digest(element: Element) -> None:
    """Where a cut cannot be told from an end, a plain chunked body needs one."""
    answer = element.raw(element.head("POST", TARGET, [CHUNKED]) + chunked(b"abc"), "POST")
    if element.adapter == "starlette":
        assert element.download(answer.json()["file_id"]).body == b"abc"
    else:
        answer.problem(411, "length-required")


def test_neither_length_nor_chunks(element: Element) -> None:
    with element.unchanged():
        for target, headers in ((TARGET, []), ("/api/v1/files", [FORM])):
            element.raw(element.head("POST", target, headers), "POST").problem(411, "length-required")


def test_hosts(element: Element) -> None:
    body = [("Content-Length", "3")]
    with element.unchanged():
        for heads in (
            element.head("POST", TARGET, body, host=None),
            element.head("POST", TARGET, [*body, ("Host", "other")]),
            element.head("POST", TARGET, [*body, ("Host", "localhost")]),
            element.head("POST", TARGET, body, host=""),
            element.head("POST", TARGET, body, host="a, b"),
        ):
            with element.connect() as connection:
                answer = connection.send(heads + b"abc").answer("POST")
                refused(answer)
                assert answer.header("connection") == "close"
                assert connection.at_end()


@pytest.mark.parametrize("count", [101, 200, 5000])
def test_too_many_fields(element: Element, count: int) -> None:
    with element.unchanged():
        for name in ("X-{}", "X-A"):
            headers = [(name.format(i), "a") for i in range(count)]
            refused(element.ask("POST", TARGET, headers, b"abc"), 431)


def test_as_many_fields_as_there_may_be(element: Element) -> None:
    assert element.ask("GET", "/api/v1/files", [(f"X-{i}", "a" * 100) for i in range(90)]).status == 200


@pytest.mark.parametrize("size", [17_000, 65_536, 1_000_000])
def test_fields_too_long(element: Element, size: int) -> None:
    with element.unchanged():
        refused(element.ask("POST", TARGET, [("X-A", "a" * size)], b"abc"), 431)
        refused(element.ask("GET", "/", [("a" * size, "x")]), 400, 431)


@pytest.mark.parametrize("size", [9000, 100_000, 1_000_000])
def test_addresses_too_long(element: Element, size: int) -> None:
    with element.unchanged():
        refused(element.get("/" + "a" * size), 414, 431)
        refused(element.get("/api/v1/files?q=" + "a" * size), 414, 431)
        refused(element.post(b"abc", "a" * size), 414, 431)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"G\0T / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 5000 + b"\r\n\r\n",
    ],
    ids=range(16),
)
def test_what_is_no_http(element: Element, data: bytes) -> None:
    with element.connect() as connection:
        answer = connection.send(data).answer()
        refused(answer, 400, 404)
        assert answer.status == 404 or connection.at_end()


def test_http_1_0(element: Element) -> None:
    with element.connect() as connection:
        answer = connection.send(b"GET /health/live HTTP/1.0\r\nHost: x\r\n\r\n").answer()
        assert (answer.status, answer.json()) == (200, {"status": "alive"})
        assert connection.at_end()


@pytest.mark.parametrize("host", [b"", b"Host: \r\n", b"Host: x:80\r\n", b"Host: [::1]:80\r\n"])
def test_http_1_0_needs_no_host(element: Element, host: bytes) -> None:
    """Health checks of load balancers send none."""
    for path in (b"/health/live", b"/health/ready", b"/api/v1/info"):
        with element.connect() as connection:
            answer = connection.send(b"GET " + path + b" HTTP/1.0\r\n" + host + b"\r\n").answer()
            assert answer.status == 200, answer
            assert connection.at_end()


def test_http_1_0_with_a_broken_host_is_refused(element: Element) -> None:
    for hosts in (b"Host: a b\r\n", b"Host: a\r\nHost: b\r\n"):
        with element.connect() as connection:
            refused(connection.send(b"GET /health/live HTTP/1.0\r\n" + hosts + b"\r\n").answer())


def test_an_absolute_target_is_read(element: Element) -> None:
    """RFC 9112, 3.2.2: a server accepts it, although only proxies get it."""
    for version in (b"1.1", b"1.0"):
        with element.connect() as connection:
            connection.send(
                b"GET http://localhost/health/live HTTP/" + version + b"\r\nHost: localhost\r\n\r\n"
            )
            assert connection.answer().json() == {"status": "alive"}


def test_an_empty_chunked_body(element: Element) -> None:
    """The one difference between the adapters: under WSGI a body that was cut looks the same."""
    head = element.head("POST", TARGET, [CHUNKED])
    answer = element.raw(head + b"0\r\n\r\n", "POST")
    if element.adapter == "starlette":
        assert answer.json()["size"] == 0
    else:
        answer.problem(411, "length-required")
    digest = ("Repr-Digest", sha256_header(b""))
    answer = element.raw(element.head("POST", TARGET, [CHUNKED, digest]) + b"0\r\n\r\n", "POST")
    assert answer.json()["size"] == 0


def test_pipelined_requests(element: Element) -> None:
    one = element.head("POST", TARGET, [("Content-Length", "3")]) + b"one"
    two = element.head("POST", TARGET, [("Content-Length", "3")]) + b"two"
    with element.connect() as connection:
        connection.send(one + two + element.head("GET", "/health/live"))
        made = [connection.answer("POST").json() for _ in range(2)]
        assert connection.answer().json() == {"status": "alive"}
    assert [element.download(m["file_id"]).body for m in made] == [b"one", b"two"]


def test_a_connection_outlives_errors(element: Element) -> None:
    """Of requests that were read whole: nothing of one leaks into the next."""
    body = form(file(b"x", ".."))
    absent = "/api/v1/files/0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4"
    patch = [("Content-Type", "application/json"), ("Content-Length", "2")]
    requests = [
        ("GET", 404, element.head("GET", "/nothing")),
        ("GET", 401, element.head("GET", "/api/v1/files", bearer=None)),
        ("DELETE", 405, element.head("DELETE", "/")),
        ("HEAD", 404, element.head("HEAD", "/nothing")),
        ("POST", 422, element.head("POST", "/api/v1/files", [FORM, ("Content-Length", str(len(body)))]) + body),
        ("PATCH", 404, element.head("PATCH", absent, patch) + b"{}"),
        ("DELETE", 404, element.head("DELETE", absent)),
        ("GET", 200, element.head("GET", "/health/live")),
        ("POST", 201, element.head("POST", TARGET, [("Content-Length", "3")]) + b"abc"),
    ]  # fmt: skip
    with element.connect() as connection:
        for method, status, data in requests:
            answer = connection.send(data).answer(method)
            assert answer.status == status, answer
            assert method == "HEAD" or status < 400 or answer.problem(status)
            assert answer.header("connection") != "close"


def test_a_body_that_looks_like_a_request(element: Element) -> None:
    """Refused before its body was read, the body is not taken for the next request."""
    smuggled = element.head("GET", "/api/v1/info")
    for target, options in (("/nothing", {}), (TARGET, {"bearer": None}), ("/api/v1/files", {})):
        head = element.head("POST", target, [("Content-Length", str(len(smuggled)))], **options)
        with element.connect() as connection:
            connection.send(head + smuggled)
            connection.answer("POST").problem()
            connection.send(element.head("GET", "/health/live"))
            try:
                assert connection.answer().json() == {"status": "alive"}
            except OSError:  # or the connection has ended with the refusal
                assert connection.at_end()


def test_fields_with_underscores_are_other_fields(element: Element) -> None:
    made = element.post(b"abc", headers=[("Content_Length", "5"), ("Content_Type", "text/html")])
    assert made.json()["content_type"] == "text/plain"
    assert made.json()["size"] == 3


def test_fields_in_other_alphabets(element: Element) -> None:
    for name in ("X-A", "Range", "If-None-Match", "If-Modified-Since", "If-Range", "Accept"):
        for value in ("é", "\udcff\udcfe"):
            assert element.get("/api/v1/files?limit=1", (name, value)).status == 200


def test_upgrades_are_not_taken(element: Element) -> None:
    for headers in (
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")],
        [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
         ("Sec-WebSocket-Version", "13")],
    ):  # fmt: skip
        assert element.get("/health/live", *headers).json() == {"status": "alive"}
