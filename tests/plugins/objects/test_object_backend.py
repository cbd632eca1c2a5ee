"""`ObjectBackend` over an object store in memory: the backend suite, and what only the object layout shows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from artstore.errors import Conflict, NotFound, Unavailable
from artstore.ids import Key
from artstore.spi import Backend, Writer
from artstore.testing import BackendSuite
from artstore_objects.layout import EXPIRING, TOMBSTONES, sidecar_name
from artstore_objects.memory import MemoryBackend, MemoryBucket, MemoryObject, MemoryStore
from artstore_objects.store import ObjectInfo
from support.stores import Lay, Store

KEY = Key("2026/11/a.bin")
SIDECAR = b"{}"


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


class TestObjectBackend(Store, BackendSuite):
    closes = True

    @pytest.fixture
    def make(self, bucket: MemoryBucket) -> Callable[[], Backend]:
        return lambda: MemoryBackend(bucket=bucket)

    @pytest.fixture
    def lay(self, bucket: MemoryBucket) -> Lay:
        def lay(name: str, content: bytes) -> None:
            bucket.objects[name] = MemoryObject(content, "")

        return lay

    @pytest.fixture
    def unplug(self, backend: Backend) -> Callable[[], None]:
        return backend.close


def publish(backend: MemoryBackend, data: bytes = b"data") -> None:
    writer = backend.create(KEY)
    writer.write(data)
    writer.publish(SIDECAR)


def test_a_deleted_key_is_free_after_the_retention(bucket: MemoryBucket) -> None:
    backend = MemoryBackend(bucket=bucket, tombstone_retention=0.0)
    publish(backend)
    backend.delete(KEY, if_match=SIDECAR)
    assert list(backend.list_tombstones()) == [KEY]
    assert [name for name in bucket.objects if name.startswith(TOMBSTONES)]
    backend.delete_data(KEY)
    backend.purge(KEY)
    assert set(bucket.objects) == {sidecar_name(KEY), EXPIRING + KEY}
    with pytest.raises(Conflict):
        backend.create(KEY)
    assert list(backend.recover()) == []
    assert not bucket.objects
    publish(backend)


def test_a_writer_fails_after_its_upload_was_resolved(bucket: MemoryBucket) -> None:
    backend, other = MemoryBackend(bucket=bucket), MemoryBackend(bucket=bucket)
    writer = backend.create(KEY)
    writer.write(b"data")
    assert other.resolve(KEY) is False
    with pytest.raises((Conflict, Unavailable)):
        writer.publish(SIDECAR)
    with pytest.raises(NotFound):
        other.read_sidecar(KEY)
    assert other.resolve(KEY) is False


def publish_or_fail(writer: Writer, published: list[bool]) -> None:
    try:
        writer.publish(SIDECAR)
        published.append(True)
    except Unavailable:
        published.append(False)


def test_a_writer_and_its_resolution_have_one_winner() -> None:
    for _ in range(50):
        bucket = MemoryBucket()
        backend, other = MemoryBackend(bucket=bucket), MemoryBackend(bucket=bucket)
        writer = backend.create(KEY)
        published: list[bool] = []

        thread = threading.Thread(target=publish_or_fail, args=(writer, published))
        thread.start()
        committed = other.resolve(KEY)
        thread.join()
        assert published == [committed]


def test_the_defaults_of_an_object_store_copy_and_walk(bucket: MemoryBucket) -> None:
    store = MemoryStore(bucket)
    store.put("a/b/c", b"content")
    store.put("a/d", b"")
    assert {found.name for found in store.walk("a/")} == {"a/b/c", "a/d"}
    source = store.head("a/b/c")
    assert isinstance(source, ObjectInfo)
    store.copy(source, "e")
    assert bucket.objects["e"].content == b"content"
    store.check(writing=True)
    store.close()
    with pytest.raises(Unavailable):
        store.check(writing=False)
