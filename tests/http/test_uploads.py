"""Files come in: as a form, as a plain body, under an id of the caller's."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from support.servers import BOUNDARY, FORM, Element, chunked, file, file_path, form, part, sha256_header, text

MIB = 1 << 20
SIZES = [0, 1, 2, 65535, 65536, 65537, 131072, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 7]
FIELDS = [
    "file_id", "original_filename", "storage_filename", "storage_path", "size", "content_type", "sha256",
    "uploaded_by", "uploaded_by_id", "uploaded_at", "updated_at", "revision", "description", "tags", "metadata",
]  # fmt: skip


def octets(size: int) -> bytes:
    """Bytes of every value, CRLF and boundaries among them."""
    seed = bytes(range(256)) + b"\r\n--" + BOUNDARY[:-1].encode() + b"\r\n\r\n--\r\n"
    return (seed * (size // len(seed) + 1))[:size]


def check_there(element: Element, made: dict[str, Any], data: bytes) -> None:
    """The file is found, comes out whole, and lies in the tree with its sidecar."""
    answer = element.download(made["file_id"])
    assert answer.status == 200
    assert answer.body == data
    assert made["size"] == len(data)
    assert made["sha256"] == hashlib.sha256(data).hexdigest()
    assert element.get(file_path(made["file_id"])).json() == made
    at = f"{made['storage_path']}/{made['storage_filename']}"
    assert element.stored(at) == data
    sidecar = json.loads(element.stored(f"{at}.attr.json"))
    assert {name: sidecar[name] for name in FIELDS} == made


@pytest.mark.parametrize("path", ["/api/v1/files", "/api/v1/files/upload"])
def test_a_form(element: Element, path: str) -> None:
    data = b"hello\r\n"
    body = form(
        text("description", "a dé"), text("tags", "x"), text("tags", '["y", "z z"]'),
        file(data, "report.txt"), text("metadata", '{"a": {"b": [1, null]}}'),
        text("sha256", hashlib.sha256(data).hexdigest().upper()),
    )  # fmt: skip
    answer = element.ask("POST", path, [FORM], body)
    made = answer.json()
    assert answer.status == 201
    assert answer.header("location") == file_path(made["file_id"])
    assert answer.header("etag") == '"r1"'
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert list(made) == FIELDS
    assert uuid.UUID(made["file_id"]).version == 7
    assert made["original_filename"] == "report.txt"
    assert made["content_type"] == "text/plain"
    assert (made["uploaded_by"], made["uploaded_by_id"]) == ("Ivanov", "u-1")
    assert made["uploaded_at"] == made["updated_at"]
    assert made["uploaded_at"].endswith("Z")
    assert made["revision"] == 1
    assert made["description"] == "a dé"
    assert made["tags"] == ["x", "y", "z z"]
    assert made["metadata"] == {"a": {"b": [1, None]}}
    check_there(element, made, data)


def plain(element: Element, data: bytes) -> Any:
    return element.post(data)


def as_form(element: Element, data: bytes) -> Any:
    return element.post_form([text("description", "first"), file(data), text("tags", "last")])


def chunked_plain(element: Element, data: bytes) -> Any:
    headers = [("Transfer-Encoding", "chunked"), ("Repr-Digest", sha256_header(data))]
    head = element.head("POST", "/api/v1/files?filename=a.bin", headers)
    return element.raw(head + chunked(data), "POST")


def chunked_form(element: Element, data: bytes) -> Any:
    head = element.head("POST", "/api/v1/files", [FORM, ("Transfer-Encoding", "chunked")])
    return element.raw(head + chunked(form(file(data), text("tags", "last")), 50_000), "POST")


def put(element: Element, data: bytes) -> Any:
    return element.put(str(uuid.uuid4()), data)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", [plain, as_form, chunked_plain, chunked_form, put])
def test_every_size_by_every_way(element: Element, way: Callable[[Element, bytes], Any], size: int) -> None:
    data = octets(size)
    answer = way(element, data)
    assert answer.status == 201, answer
    check_there(element, answer.json(), data)


def test_chunks_of_one_byte(element: Element) -> None:
    data = octets(3000)
    head = element.head("POST", "/api/v1/files", [FORM, ("Transfer-Encoding", "chunked")])
    answer = element.raw(head + chunked(form(file(data)), 1), "POST")
    assert answer.status == 201
    check_there(element, answer.json(), data)


def test_a_chunked_body_with_extensions_and_trailers(element: Element) -> None:
    head = element.head(
        "POST",
        "/api/v1/files?filename=a",
        [("Transfer-Encoding", "chunked"), ("Repr-Digest", sha256_header(b"abc"))],
    )
    answer = element.raw(head + b'3;name="v"\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n', "POST")
    assert answer.status == 201
    assert element.download(answer.json()["file_id"]).body == b"abc"


def test_a_body_that_comes_byte_by_byte(element: Element) -> None:
    body = form(file(b"slow"), text("tags", "t"))
    head = element.head("POST", "/api/v1/files", [FORM, ("Content-Length", str(len(body)))])
    with element.connect() as connection:
        for byte in head + body:
            connection.send(bytes([byte]))
        made = connection.answer("POST").json()
    assert made["tags"] == ["t"]
    assert element.download(made["file_id"]).body == b"slow"


@pytest.mark.parametrize(
    ("declared", "stored"),
    [
        (None, "image/png"),
        ("application/octet-stream", "image/png"),
        ("application/x-www-form-urlencoded", "image/png"),
        ("binary/octet-stream", "image/png"),
        ("Application/Octet-Stream; charset=binary", "image/png"),
        ("text/plain; charset=utf-8;", "text/plain; charset=utf-8;"),
        ("text/plain\t; a=b;;", "text/plain\t; a=b;;"),
        ("text/html; charset=utf-8", "text/html; charset=utf-8"),
    ],
)
def test_the_content_type_of_a_plain_body(element: Element, declared: str | None, stored: str) -> None:
    answer = element.post(b"x", "a.png", [("Content-Type", declared)] if declared else [])
    assert answer.json()["content_type"] == stored
    assert element.download(answer.json()["file_id"]).header("content-type") == stored


COMPRESSED = {
    "dump.json.gz": "application/gzip",
    "tree.tgz": "application/gzip",
    "picture.svgz": "application/gzip",
    "table.csv.bz2": "application/x-bzip2",
    "log.txt.xz": "application/x-xz",
    "log.txt.zst": "application/zstd",
    "page.html.br": "application/octet-stream",
    "notes.txt.Z": "application/x-compress",
}
PLAIN = {
    "movie.mp4": "video/mp4",
    "table.csv": "text/csv",
    "archive.ZIP": "application/zip",
    "letter.docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "stream.ts": "video/mp2t",
    "no suffix": "application/octet-stream",
    ".gz": "application/octet-stream",
}


@pytest.mark.parametrize(("name", "stored"), [*COMPRESSED.items(), *PLAIN.items()])
def test_a_type_that_says_nothing_is_guessed_from_the_name(element: Element, name: str, stored: str) -> None:
    for declared in ("application/octet-stream", "binary/octet-stream"):
        assert element.post(b"x", name, [("Content-Type", declared)]).json()["content_type"] == stored
        made = element.post_form([file(b"x", name, declared)]).json()
        assert made["content_type"] == stored
    bare = part(b'name="file"; filename="' + name.encode() + b'"', b"x")
    assert element.post_form([bare]).json()["content_type"] == stored
    if name in COMPRESSED:
        shown = element.download(made["file_id"], query="?disposition=inline").header("content-disposition")
        assert (shown or "").startswith("attachment")


def test_a_declared_type_of_a_form_part_is_kept(element: Element) -> None:
    for declared in ("text/html", "application/x-www-form-urlencoded", "text/plain; charset=koi8-r"):
        assert element.post_form([file(b"x", "a.png", declared)]).json()["content_type"] == declared


def test_a_form_of_a_mime_library_is_read(element: Element) -> None:
    """With a preamble, padding after the delimiters, and an epilogue (RFC 2046, 5.1.1)."""
    delimiter = b"--" + BOUNDARY.encode()
    body = form(file(b"abc\r\n"), text("description", "d")).replace(
        delimiter + b"\r\n", delimiter + b" \t\r\n"
    )
    for preamble in (
        b"",
        b"\r\n",
        b"\r\n\r\n",
        b"This is a multi-part message.\r\nWith " + delimiter + b"\r\n",
    ):
        whole = preamble + body + b"an epilogue\r\n"
        made = element.ask("POST", "/api/v1/files", [FORM], whole).json()
        assert (made["size"], made["description"]) == (5, "d")
        head = element.head("POST", "/api/v1/files", [FORM, ("Transfer-Encoding", "chunked")])
        assert element.raw(head + chunked(whole, 3), "POST").json()["size"] == 5


@pytest.mark.parametrize("value", ["", "null"])
def test_an_empty_digest_field_of_a_form_counts_as_absent(element: Element, value: str) -> None:
    assert element.post_form([text("sha256", value), file(b"abc")]).status == 201


@pytest.mark.parametrize("name", ["Repr-Digest", "Content-Digest"])
def test_digests(element: Element, name: str) -> None:
    assert element.post(b"abc", headers=[(name, sha256_header(b"abc"))]).status == 201
    assert element.post(b"abc", headers=[(name, "sha-512=:AA==:, " + sha256_header(b"abc"))]).status == 201
    with element.unchanged():
        element.post(b"abc", headers=[(name, sha256_header(b"abd"))]).problem(422, "digest-mismatch")
        element.post_form([file(b"abc")], [(name, sha256_header(b"abd"))]).problem(422, "digest-mismatch")
        element.post(b"abc", headers=[(name, "sha-256=:AA==:")]).problem(400, "malformed-request")
        element.post(b"abc", headers=[(name, "sha-256=abc")]).problem(400, "malformed-request")


def test_a_digest_in_the_head_of_a_form_is_of_the_file_or_of_the_form(element: Element) -> None:
    body = form(file(b"abc"))
    for digest in (sha256_header(b"abc"), sha256_header(body)):
        assert element.ask("POST", "/api/v1/files", [FORM, ("Repr-Digest", digest)], body).status == 201


def test_put_again(element: Element) -> None:
    file_id = str(uuid.uuid4())
    first = element.put(file_id, b"abc")
    assert first.status == 201
    assert first.json()["file_id"] == file_id
    assert first.header("location") == file_path(file_id)
    tree = element.tree()
    again = element.put(file_id, b"abc")
    assert again.status == 200
    assert again.json() == first.json()
    assert element.put(file_id.upper(), b"abc").status == 200
    element.put(file_id, b"abd").problem(409, "conflict")
    element.put(file_id, b"abc", "b.txt").problem(409, "conflict")
    element.put(file_id, b"").problem(409, "conflict")
    element.wait_idle()
    assert element.tree() == tree
    assert element.download(file_id).body == b"abc"


def test_put_under_conditions(element: Element) -> None:
    file_id = str(uuid.uuid4())

    def put(*headers: tuple[str, str]) -> Any:
        return element.ask("PUT", f"{file_path(file_id)}?filename=a.txt", list(headers), b"abc")

    with element.unchanged():
        for wanted in ("*", '"r1"', "nonsense"):
            put(("If-Match", wanted)).problem(412, "precondition-failed")
    assert put(("If-None-Match", "*"), ("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")).status == 201
    put(("If-None-Match", "*")).problem(412, "precondition-failed")
    put(("If-Match", '"r2"')).problem(412, "precondition-failed")
    put(("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")).problem(412, "precondition-failed")
    assert put(("If-Match", '"r1"')).status == 200
    assert put(("If-None-Match", '"r2"')).status == 200


def test_put_again_after_delete(element: Element) -> None:
    file_id = str(uuid.uuid4())
    for _ in range(12):
        assert element.put(file_id, b"abc").status == 201
        assert element.ask("DELETE", file_path(file_id)).status == 204
    assert element.put(file_id, b"abd").status == 201
    assert element.download(file_id).body == b"abd"


def test_put_of_a_large_file_again(element: Element) -> None:
    data, file_id = octets(3 * MIB), str(uuid.uuid4())
    assert element.put(file_id, data).status == 201
    assert element.put(file_id, data).status == 200
    element.put(file_id, data[:-1] + b"!").problem(409, "conflict")


def test_two_files_of_one_name_are_two_files(element: Element) -> None:
    one, two = element.upload(b"1", "same.txt"), element.upload(b"2", "same.txt")
    assert one["file_id"] != two["file_id"]
    assert element.download(one["file_id"]).body == b"1"
    assert element.download(two["file_id"]).body == b"2"


def test_expect_100_continue(element: Element) -> None:
    headers = [("Content-Length", "3"), ("Expect", "100-continue")]
    with element.connect() as connection:
        connection.send(element.head("POST", "/api/v1/files?filename=a", headers))
        assert connection.line() == b"HTTP/1.1 100 Continue\r\n"
        assert connection.line() == b"\r\n"
        assert connection.send(b"abc").answer("POST").status == 201


@pytest.mark.parametrize(
    ("target", "options", "status"),
    [
        ("/api/v1/files?filename=a", {"bearer": None}, 401),
        ("/api/v1/files", {}, 422),
        ("/api/v1/files?filename=..", {}, 422),
        ("/api/v1/nothing", {}, 404),
    ],
)
def test_a_refusal_before_the_body(
    element: Element, target: str, options: dict[str, Any], status: int
) -> None:
    headers = [("Content-Length", "3"), ("Expect", "100-continue")]
    with element.connect() as connection:
        connection.send(element.head("POST", target, headers, **options))
        connection.answer("POST").problem(status)


def test_a_large_body_refused_before_it_came_does_not_wait_for_it(element: Element) -> None:
    """And what the client sends meanwhile does not drown the answer."""
    head = element.head("POST", "/api/v1/files?filename=a", [("Content-Length", str(8 * MIB))], bearer=None)
    with element.connect() as connection:
        connection.send(head)
        connection.answer("POST").problem(401, "unauthorized")


def test_a_client_that_sends_all_before_it_reads_sees_the_refusal(element: Element) -> None:
    head = element.head("POST", "/api/v1/files?filename=a", [("Content-Length", str(MIB // 2))], bearer=None)
    element.raw(head + bytes(MIB // 2), "POST").problem(401, "unauthorized")


def test_a_form_whose_parts_have_other_headers(element: Element) -> None:
    answer = element.post_form(
        [
            part(b'name="metadata"; filename="blob"', b'{"a": 1}', b"Content-Type: application/json"),
            part(
                b'filename="a.bin"; name=file', b"abc", b"X-Whatever: 1", b"Content-Transfer-Encoding: binary"
            ),
        ]
    )
    assert answer.status == 201
    assert answer.json()["metadata"] == {"a": 1}
    assert answer.json()["content_type"] == "application/octet-stream"
