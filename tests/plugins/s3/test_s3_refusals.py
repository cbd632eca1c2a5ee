"""What S3 refuses, and what a bucket that is gone looks like: never as if a file or a document did not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from artstore.errors import ArtstoreError, ConfigError, OutcomeUnknown, StorageFull, TooLarge, Unavailable
from artstore.host.boot import open_node
from artstore.host.settings import load
from artstore.ids import Key
from artstore.spi import INTERNAL
from artstore.testing import make_context
from artstore_s3.backend import S3Backend
from artstore_s3.bucket import UPLOADS
from artstore_s3.client import Refusal, translate
from artstore_s3.parts import FIRST_PART
from artstore_s3.settings import S3Settings
from support import s3, servers
from support.proxies import HttpProxy
from support.stores import opening
from support.uploads import content, upload

KEY = Key("2025/01/11/15/report_ivanov_20250111T153045_a1b2c3d4.pdf")
Open = Callable[..., S3Backend]


@pytest.fixture
def bucket(s3_server: s3.Seaweed) -> str:
    return s3_server.bucket()


@pytest.fixture
def proxy(s3_server: s3.Seaweed) -> Iterator[HttpProxy]:
    made = HttpProxy(s3_server.port)
    yield made
    made.close()


@pytest.fixture
def opened(tmp_path: Path, s3_server: s3.Seaweed, bucket: str, proxy: HttpProxy) -> Iterator[Open]:
    def make(**more: Any) -> S3Backend:
        values = s3.settings(s3_server, bucket, endpoint_url=f"http://127.0.0.1:{proxy.port}") | more
        return S3Backend(S3Settings.model_validate(values), make_context(tmp_path))

    with opening(make) as open_it:
        yield open_it


def put(backend: S3Backend, key: Key = KEY, data: bytes = b"data") -> None:
    writer = backend.create(key)
    writer.write(data)
    writer.publish(b"{}")


def refusal(status: int, code: str) -> bytes:
    body = (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>" if code else "<html>"
    )
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def bare(answer: bytes) -> bytes:
    """Return the answer without its body, as to a HEAD."""
    return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


# --- the bucket is not there, or something else answers in its place ---

CALLS: dict[str, Callable[[S3Backend], object]] = {
    "create": lambda b: b.create(KEY),
    "publish": lambda b: put(b),
    "read": lambda b: b.read(KEY),
    "read_sidecar": lambda b: b.read_sidecar(KEY),
    "replace_sidecar": lambda b: b.replace_sidecar(KEY, b"[]", if_match=b"{}"),
    "delete": lambda b: b.delete(KEY, if_match=b"{}"),
    "list": lambda b: list(b.list("2025/01/11/15")),
    "list_directories": lambda b: list(b.list_directories()),
    "read_document": lambda b: b.read_document("element.json"),
    "write_document": lambda b: b.write_document("element.json", b"{}", if_absent=True),
    "replace_document": lambda b: b.write_document("element.json", b"{}", if_match=b"[]"),
    "delete_data": lambda b: b.delete_data(KEY),
    "list_tombstones": lambda b: list(b.list_tombstones()),
    "purge": lambda b: b.purge(KEY),
    "quarantine": lambda b: b.quarantine(KEY),
    "age": lambda b: b.age(KEY),
    "in_progress": lambda b: list(b.in_progress()),
    "recover": lambda b: list(b.recover()),
    "resolve": lambda b: b.resolve(KEY),
    "check": lambda b: b.check(writing=False),
}
GONE = {"the bucket is gone": refusal(404, "NoSuchBucket"), "a proxy answers": refusal(404, "")}


@pytest.mark.parametrize("gone", GONE)
def test_a_store_that_is_not_there_never_looks_as_if_a_file_were_absent(
    opened: Open, proxy: HttpProxy, gone: str
) -> None:
    backend = opened()
    proxy.answer = lambda line: bare(GONE[gone]) if line.startswith("HEAD") else GONE[gone]
    wrong: dict[str, object] = {}
    for call, make in CALLS.items():
        try:
            wrong[call] = make(backend)
        except Unavailable:
            continue
        except ArtstoreError as e:
            wrong[call] = e
    assert wrong == {}


def test_a_bucket_that_was_removed_is_told_as_such(opened: Open, s3_server: s3.Seaweed, bucket: str) -> None:
    backend = opened()
    for there in s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]:
        s3_server.client.delete_object(Bucket=bucket, Key=there["Key"])
    s3_server.client.delete_bucket(Bucket=bucket)
    for call in ("create", "read", "read_document", "age"):
        with pytest.raises(Unavailable, match="lost the bucket"):
            CALLS[call](backend)


# --- too large, and no room ---


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "EntityTooLarge", TooLarge),
        (400, "MaxMessageLengthExceeded", TooLarge),
        (413, "", TooLarge),
        (403, "QuotaExceeded", StorageFull),
        (400, "XMinioAdminBucketQuotaExceeded", StorageFull),
        (507, "XMinioStorageFull", StorageFull),
        (507, "", StorageFull),
        (403, "AccessDenied", Unavailable),
    ],
)
@pytest.mark.parametrize("size", [100, FIRST_PART + 100])
def test_an_upload_that_s3_refuses_says_why_and_leaves_nothing(
    opened: Open,
    proxy: HttpProxy,
    s3_server: s3.Seaweed,
    bucket: str,
    size: int,
    status: int,
    code: str,
    expected: type[ArtstoreError],
) -> None:
    backend = opened()
    writer = backend.create(KEY)
    writer.write(bytes(FIRST_PART)[:size])
    proxy.answer = lambda line: refusal(status, code) if line.startswith("PUT") and KEY in line else None

    def finish() -> None:
        writer.write(bytes(max(0, size - FIRST_PART)))
        writer.publish(b"{}")

    with pytest.raises(expected) as error:
        finish()
    assert not isinstance(error.value, OutcomeUnknown)
    writer.abort()
    proxy.answer = lambda line: None
    names = {o["Key"] for o in s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert not any(KEY in name for name in names if not name.startswith(UPLOADS))
    assert "Uploads" not in s3_server.client.list_multipart_uploads(Bucket=bucket)
    assert isinstance(translate(Refusal(code, status, False), "this file"), expected)


@pytest.mark.parametrize("adapter", ["starlette", "falcon"])
def test_a_file_that_s3_does_not_take_is_413_and_a_full_bucket_507(
    adapter: str, tmp_path: Path, s3_server: s3.Seaweed, bucket: str, proxy: HttpProxy
) -> None:
    values = s3.settings(s3_server, bucket, endpoint_url=f"http://127.0.0.1:{proxy.port}")
    with servers.serving(adapter, tmp_path / "home", settings=s3.environment(values)) as element:
        for code, status, problem in (
            ("EntityTooLarge", 413, "file-too-large"),
            ("QuotaExceeded", 507, "storage-full"),
        ):
            answer = refusal(400, code)
            proxy.answer = lambda line, answer=answer: (  # type: ignore[misc]
                answer if line.startswith("PUT") and INTERNAL not in line else None
            )
            element.post(b"x").problem(status, problem)
            proxy.answer = lambda line: None
        assert element.post(b"x").status == 201
        assert not element.pending()


def test_a_server_whose_answers_to_a_put_are_404_is_refused_at_start(opened: Open, proxy: HttpProxy) -> None:
    proxy.answer = lambda line: refusal(404, "") if line.startswith("PUT") else None
    with pytest.raises(ConfigError, match="does not speak S3"):
        opened()


def test_an_element_on_a_full_bucket_starts_and_serves_reading(
    tmp_path: Path, opened: Open, proxy: HttpProxy, s3_server: s3.Seaweed, bucket: str
) -> None:
    values = s3.settings(s3_server, bucket, endpoint_url=f"http://127.0.0.1:{proxy.port}")
    environ = {f"ARTSTORE_{name}": value for name, value in s3.environment(values).items()}
    servers.prepare(tmp_path / "home")
    configuration = load(home=tmp_path / "home", environ=environ)
    with closing(open_node(configuration)) as node:
        kept = upload(node.kernel, b"kept").file_id
    full = refusal(403, "QuotaExceeded")
    proxy.answer = lambda line: full if line.startswith("PUT") else None
    with closing(open_node(configuration)) as node:
        assert content(node.kernel, kept) == b"kept"
        with pytest.raises(StorageFull):
            upload(node.kernel, b"more")
    with pytest.raises(StorageFull):
        opened(prefix="other")  # whether the server checks conditions was never seen


# --- uploads in parts that others began ---


def test_uploads_in_parts_of_other_applications_are_left_alone(
    opened: Open, s3_server: s3.Seaweed, bucket: str
) -> None:
    """One bucket, no prefix: only what was announced is ours, whatever it is called."""
    client = s3_server.client
    foreign = {"backup.tar", "2025/01/11/15/log.gz", KEY + "2", f"se-02/{KEY}"}
    for name in foreign:
        client.create_multipart_upload(Bucket=bucket, Key=name)
    backend = opened(tombstone_retention=0.5)
    writer = backend.create(KEY)
    writer.write(bytes(FIRST_PART + 1))
    assert list(opened().in_progress()) == [KEY]

    def names() -> set[str]:
        return {u["Key"] for u in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())}

    assert names() == foreign | {KEY}

    def is_swept() -> bool:
        list(opened(tombstone_retention=0.5).recover())
        return names() == foreign

    servers.until(is_swept, "the parts of the dead writer are gone")
    servers.until(lambda: is_swept() and not _below(s3_server, bucket, UPLOADS), "so is its trace")


def test_an_announcement_stays_for_as_long_as_its_upload(
    opened: Open, s3_server: s3.Seaweed, bucket: str
) -> None:
    backend = opened()
    writer = backend.create(KEY)
    writer.write(bytes(FIRST_PART + 1))
    (announced,) = [o["Key"] for o in _below(s3_server, bucket, UPLOADS)]
    assert announced.startswith(f"{UPLOADS}{KEY}~")
    writer.publish(b"{}")
    assert not _below(s3_server, bucket, UPLOADS)
    other = backend.create(Key(KEY + "2"))
    other.write(bytes(FIRST_PART + 1))
    other.abort()
    assert not _below(s3_server, bucket, UPLOADS)


def test_a_resolved_upload_is_found_by_a_late_request(
    opened: Open, s3_server: s3.Seaweed, bucket: str
) -> None:
    """`resolve` aborts the parts and keeps the announcement: the request that begins the upload may still arrive."""
    writer = opened().create(KEY)
    writer.write(bytes(FIRST_PART + 1))
    assert not opened().resolve(KEY)
    s3_server.client.create_multipart_upload(Bucket=bucket, Key=KEY)  # as that request would

    def is_swept() -> bool:
        list(opened(tombstone_retention=0.5).recover())
        return not _below(s3_server, bucket, UPLOADS)

    servers.until(is_swept, "nothing is left")
    assert "Uploads" not in s3_server.client.list_multipart_uploads(Bucket=bucket)


def _below(server: s3.Seaweed, bucket: str, prefix: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get(
        "Contents", []
    )
    return found
