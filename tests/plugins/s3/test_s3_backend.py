"""What is particular to S3: parts, bad settings, secrets, presigned addresses, two elements on one store."""

from __future__ import annotations

import gc
import logging
import os
import random
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import ConfigError, Unavailable
from artstore.host.boot import open_node
from artstore.host.settings import load, validate
from artstore.spi import Span, SupportsRedirect
from artstore.testing import make_context
from artstore_fsspec.backend import FsspecBackend
from artstore_objects.layout import EXPIRING, TOMBSTONES, Marker, decode_marker
from artstore_s3.backend import S3Backend
from artstore_s3.parts import FIRST_PART, part_size
from artstore_s3.settings import S3Settings
from support import s3, servers
from support.ports import free_port
from support.proxies import HttpProxy, TcpProxy
from support.servers import until
from support.stores import opening

KEY = "2025/01/11/15/report_ivanov_20250111T153045_a1b2c3d4.pdf"
Open = Callable[..., S3Backend]


@pytest.fixture
def bucket(s3_server: s3.Seaweed) -> str:
    return s3_server.bucket()


@pytest.fixture
def client(s3_server: s3.Seaweed) -> Any:
    return s3_server.client


@pytest.fixture
def opened(tmp_path: Path, s3_server: s3.Seaweed, bucket: str) -> Iterator[Open]:
    def make(**more: Any) -> S3Backend:
        settings = S3Settings.model_validate(s3.settings(s3_server, bucket) | more)
        return S3Backend(settings, make_context(tmp_path))

    with opening(make) as open_it:
        yield open_it


def put(backend: S3Backend, data: bytes, key: str = KEY) -> None:
    writer = backend.create(key)
    for at in range(0, len(data), 1 << 20):
        writer.write(data[at : at + (1 << 20)])
    writer.publish(b"{}")


def get(backend: S3Backend, span: Span | None = None, key: str = KEY) -> bytes:
    reader = backend.read(key)
    return b"".join(reader.pieces(span or Span(0, reader.size)))


@pytest.mark.parametrize("state", ["slow down", "failed", "cut short"])
def test_a_request_that_fails_is_made_again_and_never_blindly(
    opened: Open, s3_server: s3.Seaweed, state: str
) -> None:
    """What it did all the same, a second try is refused for: then a look tells whose it is."""
    proxy = HttpProxy(s3_server.port)
    try:
        backend = opened(endpoint_url=f"http://127.0.0.1:{proxy.port}")
        for number in (1, 2):  # the data, the sidecar
            key = f"{KEY}{number}"
            proxy.catch(number, state, "PUT")
            put(backend, b"data", key)
            assert proxy.caught
            proxy.catch(1, state, "PUT")
            backend.replace_sidecar(key, b"[]", if_match=b"{}")
            assert proxy.caught
            assert (get(backend, key=key), backend.read_sidecar(key)) == (b"data", b"[]")
            proxy.catch(number, state, "PUT")
            backend.delete(key, if_match=b"[]")
            assert list(backend.list_tombstones()) == [key]
            proxy.catch(1, state, "DELETE")
            backend.delete_data(key)
            backend.purge(key)
            assert list(backend.list_tombstones()) == []
    finally:
        proxy.close()


# --- parts ---


def test_ten_thousand_parts_hold_five_tebibytes() -> None:
    assert sum(part_size(n) for n in range(1, 10_001)) >= 5 << 40
    assert part_size(1) == FIRST_PART
    assert all(5 << 20 <= part_size(n) <= 5 << 30 for n in (1, 2, 10_000))


@pytest.mark.parametrize("size", [FIRST_PART - 1, FIRST_PART, FIRST_PART + 1, 3 * FIRST_PART + 12345])
def test_files_about_the_size_of_a_part(opened: Open, size: int) -> None:
    backend = opened()
    data = random.Random(size).randbytes(size)
    put(backend, data)
    assert get(backend) == data
    assert get(backend, Span(FIRST_PART - 5, 3)) == data[FIRST_PART - 5 : FIRST_PART - 2]
    assert list(backend.in_progress()) == []


def test_a_small_file_is_one_put_and_its_sidecar_another(opened: Open, s3_server: s3.Seaweed) -> None:
    proxy = HttpProxy(s3_server.port)
    try:
        backend = opened(endpoint_url=f"http://127.0.0.1:{proxy.port}")
        proxy.seen.clear()
        put(backend, bytes(FIRST_PART))
        assert [seen.split()[0] for seen in proxy.seen] == ["GET", "PUT", "PUT"]
    finally:
        proxy.close()


def test_an_upload_in_parts_that_is_given_up_leaves_none(opened: Open, client: Any, bucket: str) -> None:
    backend = opened()
    writer = backend.create(KEY)
    for _ in range(20):
        writer.write(bytes(1 << 20))
    assert list(opened().in_progress()) == [KEY]
    writer.abort()
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_parts_that_a_dead_writer_left_go_after_the_retention(opened: Open, client: Any, bucket: str) -> None:
    writer = opened().create(KEY)
    for _ in range(10):
        writer.write(bytes(1 << 20))
    assert list(opened().recover()) == []
    assert client.list_multipart_uploads(Bucket=bucket)["Uploads"]

    def swept() -> bool:
        list(opened(tombstone_retention=0.5).recover())
        return "Uploads" not in client.list_multipart_uploads(Bucket=bucket)

    servers.until(swept, "the parts are gone")


def test_settling_ends_parts_and_data_of_a_writer_that_comes_late(
    opened: Open, client: Any, bucket: str
) -> None:
    late = opened().create(KEY)
    for _ in range(10):
        late.write(bytes(1 << 20))
    backend = opened()
    assert not backend.resolve(KEY)
    with pytest.raises(Unavailable):
        late.publish(b"{}")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert list(backend.list(KEY.rpartition("/")[0])) == []


def test_markers_go_after_the_retention(opened: Open, client: Any, bucket: str) -> None:
    backend = opened()
    put(backend, b"x")
    backend.delete(KEY, if_match=backend.read_sidecar(KEY))
    backend.delete_data(KEY)
    backend.purge(KEY)
    assert not backend.resolve(KEY + "2")
    never = f"{TOMBSTONES}{KEY}~0000"  # a deletion that was begun and did not take place
    client.put_object(Bucket=bucket, Key=never, Body=b"{}")
    list(backend.recover())

    def names() -> set[str]:
        return {o["Key"] for o in client.list_objects_v2(Bucket=bucket).get("Contents", ())}

    kept = {k + SIDECAR_SUFFIX for k in (KEY, KEY + "2")} | {EXPIRING + KEY, EXPIRING + KEY + "2", never}
    assert {n for n in names() if not n.endswith("conditions")} == kept

    def swept() -> bool:
        list(opened(tombstone_retention=0.5).recover())
        return not names() & kept and not any(n.startswith((EXPIRING, TOMBSTONES)) for n in names())

    servers.until(swept, "markers are gone")


def test_a_marker_is_no_sidecar_and_no_sidecar_a_marker() -> None:
    marker = Marker("deleted", "0123")
    assert decode_marker(marker.encode()) == marker
    for other in (b"", b"{}", b"{}".ljust(len(marker.encode())), b"\xff" * len(marker.encode()), b"[1]"):
        assert decode_marker(other) is None


# --- settings ---


@pytest.mark.parametrize(
    ("change", "place", "says"),
    [
        ({"bucket": "not-there"}, "bucket", "There is no bucket"),
        ({"secret_access_key": "wrong-secret"}, "access_key_id", "denies access"),
        ({"access_key_id": "nobody"}, "access_key_id", "denies access"),
        ({"access_key_id": s3.READER}, "access_key_id", "denies access"),
    ],
)
def test_what_is_set_wrongly_is_told_with_its_cure(
    opened: Open, change: dict[str, str], place: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as told:
        opened(**change)
    assert place in told.value.place
    assert told.value.cure
    assert s3.SECRET not in str(told.value)
    assert "wrong-secret" not in str(told.value)


def test_a_server_that_is_not_there_is_unavailable(opened: Open) -> None:
    with pytest.raises(Unavailable, match=r"cannot be reached. Is backend.s3.endpoint_url right"):
        opened(endpoint_url=f"http://127.0.0.1:{free_port()}", deadline=2)


def test_readiness_tells_why(
    tmp_path: Path, s3_server: s3.Seaweed, bucket: str, client: Any, opened: Open
) -> None:
    settings = S3Settings.model_validate(s3.settings(s3_server, bucket) | {"access_key_id": s3.READER})
    looks = S3Backend(settings, replace(make_context(tmp_path), read_only=True))
    with closing(looks):
        looks.check(writing=False)
        with pytest.raises(Unavailable, match="denies access"):
            looks.check(writing=True)
        proxy = TcpProxy(s3_server.port)
        far = opened(endpoint_url=f"http://127.0.0.1:{proxy.port}", deadline=1)
        far.check(writing=True)
        proxy.turn("refuse")
        with pytest.raises(Unavailable, match="does not answer"):
            far.check(writing=True)
        proxy.close()
        for there in client.list_objects_v2(Bucket=bucket)["Contents"]:
            client.delete_object(Bucket=bucket, Key=there["Key"])
        client.delete_bucket(Bucket=bucket)
        with pytest.raises(Unavailable, match="lost the bucket"):
            looks.check(writing=False)


@pytest.mark.parametrize(
    "change",
    [
        {"bucket": "UPPER"}, {"bucket": "a"}, {"prefix": "../x"}, {"prefix": ".artstore"}, {"prefix": 'a"b'},
        {"endpoint_url": "127.0.0.1:9000"}, {"endpoint_url": "http://user:pass@host"}, {"deadline": 0},
        {"access_key_id": None}, {"buckets": "x"}, {"presign_seconds": 86400},
    ],
)  # fmt: skip
def test_what_cannot_be_a_setting(s3_server: s3.Seaweed, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as told:
        validate(S3Settings, s3.settings(s3_server, "bucket") | change, {}, "backend.s3")
    assert not re.search(f"{s3.SECRET}|user:pass", f"{told.value} {told.value.cure}")


def test_secrets_are_not_shown(s3_server: s3.Seaweed) -> None:
    settings = S3Settings.model_validate(s3.settings(s3_server, "bucket"))
    assert s3.SECRET not in repr(settings) + str(settings.model_dump())


@pytest.mark.parametrize(
    ("variables", "code", "says"),
    [
        ({"BACKEND__S3__BUCKET": "not-there"}, 78, "There is no bucket 'not-there'"),
        ({"BACKEND__S3__ENDPOINT_URL": "http://127.0.0.1:9"}, 7, "does not answer"),
        ({"BACKEND__S3__SECRET_ACCESS_KEY": "wrong-secret"}, 78, "denies access"),
        ({"BACKEND__S3__BUCKETS": "x"}, 78, "bucket"),
        ({"ELEMENT_ID": "another"}, 78, "belongs to element"),
    ],
)
def test_the_command_line_says_what_and_how_to_mend_it(
    tmp_path: Path, s3_server: s3.Seaweed, bucket: str, variables: dict[str, str], code: int, says: str
) -> None:
    import subprocess

    told = s3.environment(s3.settings(s3_server, bucket, deadline=3))
    home = tmp_path / "home"
    servers.prepare(home)
    given = {f"ARTSTORE_{n}": v for n, v in (told | {"ELEMENT_ID": "se-01"}).items()}
    if "ELEMENT_ID" in variables:
        open_node(load(home=home, environ=given)).close()
    given |= {f"ARTSTORE_{n}": v for n, v in variables.items()}
    run = subprocess.run(
        [servers.ARTSTORE, "recover", "--home", str(home)],
        env=os.environ | given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, says in run.stderr) == (code, True), run.stderr
    assert "Traceback" not in run.stderr
    assert not any(secret in run.stderr for secret in (s3.SECRET, "wrong-secret"))


def test_one_store_is_of_one_element_and_one_naming(
    tmp_path: Path, s3_server: s3.Seaweed, bucket: str, client: Any
) -> None:
    def start(home: str, **more: str) -> Any:
        told = s3.environment(s3.settings(s3_server, bucket)) | more
        place = tmp_path / home
        if not place.exists():
            servers.prepare(place)
        return open_node(load(home=place, environ={f"ARTSTORE_{n}": v for n, v in told.items()}))

    first = start("first", ELEMENT_ID="se-01")
    second = start("second", ELEMENT_ID="se-01")  # another node of the same element
    with pytest.raises(ConfigError, match="belongs to element 'se-01'") as told:
        start("third", ELEMENT_ID="se-02")
    assert told.value.cure
    first.close()
    second.close()
    name = ".artstore/element.json"
    record = client.get_object(Bucket=bucket, Key=name)["Body"].read()
    client.put_object(Bucket=bucket, Key=name, Body=record.replace(b'"dated"', b'"theirs"'))
    with pytest.raises(ConfigError, match="made with naming 'theirs', not 'dated'") as told:
        start("first", ELEMENT_ID="se-01")
    assert told.value.cure


# --- presigned ---


def test_an_address_that_holds_for_a_moment(opened: Open) -> None:
    backend = opened(presign=True, presign_seconds=30)
    assert isinstance(backend, SupportsRedirect)
    put(backend, b"the bytes")
    url = backend.redirect(KEY, content_type="text/plain", disposition='attachment; filename="a b.txt"')
    assert url is not None
    assert s3.SECRET not in url
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"the bytes"
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["content-disposition"] == 'attachment; filename="a b.txt"'
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url.replace(KEY, KEY + "2"))


def test_no_address_unless_switched_on(opened: Open) -> None:
    backend = opened()
    put(backend, b"x")
    assert backend.redirect(KEY, content_type="a/b", disposition="attachment") is None


# --- fsspec ---


@pytest.mark.parametrize(
    ("url", "lost"), [("memory://x", "survives power loss"), ("file:///x", "survives power")]
)
def test_a_weaker_file_system_has_to_be_accepted(tmp_path: Path, url: str, lost: str) -> None:
    with pytest.raises(ConfigError, match=lost) as told:
        FsspecBackend(FsspecBackend.Settings(url=url), make_context(tmp_path))
    assert "allow_missing_guarantees" in told.value.cure


def test_a_protocol_that_nobody_knows(tmp_path: Path) -> None:
    settings = FsspecBackend.Settings(url="nosuch://user:secret@host", allow_missing_guarantees=True)
    with pytest.raises(ConfigError) as told:
        FsspecBackend(settings, make_context(tmp_path))
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "told"), [(aiohttp.ClientOSError("gone"), False), (ValueError("a flaw"), True)]
)
def test_a_task_of_the_library_that_lost_its_connection_is_no_traceback_in_the_log(
    opened: Open, caplog: pytest.LogCaptureFixture, error: Exception, told: bool
) -> None:
    loop = opened()._client.fs.loop
    ended = threading.Event()

    async def fails() -> None:
        raise error

    def start() -> None:
        loop.create_task(fails()).add_done_callback(lambda task: ended.set())

    def said() -> list[logging.LogRecord]:
        gc.collect()
        return [
            record
            for record in caplog.records
            if record.name in ("asyncio", "artstore.s3") and "Using selector" not in record.getMessage()
        ]

    with caplog.at_level("DEBUG"):
        loop.call_soon_threadsafe(start)
        assert ended.wait(30)
        records = until(said, "the loop says how the task ended")
    assert [(record.name, bool(record.exc_info)) for record in records] == [
        ("asyncio", True) if told else ("artstore.s3", False)
    ]
