"""What each call to an object store costs where many files were deleted: requests are counted at the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from artstore.ids import Key
from artstore.maintenance.verify import Kind, Survey
from artstore.spi import Entry
from artstore.testing import make_context
from artstore_naming.dated import DatedNaming
from artstore_objects.backend import ObjectBackend
from artstore_objects.layout import EXPIRING, MARKER_SIZE, TOMBSTONES, Marker, sidecar_name
from artstore_objects.memory import MemoryBackend, MemoryBucket, MemoryObject, MemoryStore
from artstore_objects.store import Content, ObjectInfo

HOUR = "2026/11/28/22"
DELETIONS = 450
SIDECAR = b"{}"


class CountingStore(MemoryStore):
    """A store that writes down each request. A listing answers up to 1,000 names in one, as S3 does."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.requests: list[str] = []

    def head(self, name: str) -> ObjectInfo | None:
        self.requests.append(f"HEAD {name}")
        return super().head(name)

    def get(self, name: str, limit: int) -> Content | None:
        self.requests.append(f"GET {name}")
        return super().get(name, limit)

    def list(self, prefix: str) -> Iterator[ObjectInfo | str]:
        names = super().list(prefix)
        self.requests.append(f"LIST {prefix}")
        while page := list(islice(names, 1000)):
            yield from page
            if len(page) == 1000:
                self.requests.append(f"LIST {prefix} (goes on)")


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def store(bucket: MemoryBucket) -> CountingStore:
    return CountingStore(bucket)


@pytest.fixture
def backend(store: CountingStore) -> ObjectBackend:
    made = ObjectBackend(store, tombstone_retention=86_400)
    made.capabilities = MemoryBackend.capabilities
    return made


def put(backend: ObjectBackend, key: Key) -> None:
    writer = backend.create(key)
    writer.write(b"data")
    writer.publish(SIDECAR)


def key_of(n: int) -> Key:
    return Key(f"{HOUR}/report_ivanov_20261128T223045_{n:08x}.txt")


def delete(backend: ObjectBackend, n: int) -> None:
    """Delete a file. A third of them stays at each step: tombstone and data are there, tombstone alone, purged."""
    key = key_of(n)
    put(backend, key)
    backend.delete(key, if_match=SIDECAR)
    if n % 3:
        backend.delete_data(key)
    if n % 3 == 2:
        backend.purge(key)


CALLS: dict[str, tuple[int, Callable[[ObjectBackend], object]]] = {
    "a look-up lists the hour": (3, lambda b: list(b.list(HOUR))),
    "a start lists the directories": (8, lambda b: list(b.list_directories())),
    "a rebuild": (11, lambda b: [list(b.list(directory)) for directory in b.list_directories()]),
}


@pytest.mark.parametrize("call", CALLS)
def test_deletions_do_not_make_a_listing_dearer(
    backend: ObjectBackend, store: CountingStore, call: str
) -> None:
    limit, make_call = CALLS[call]
    for n in range(DELETIONS):
        delete(backend, n)
        backend.delete_data(key_of(n))
    put(backend, Key(f"{HOUR}/zzz.txt"))
    store.requests.clear()
    make_call(backend)
    assert len(store.requests) <= limit, store.requests[:20]


def test_markers_are_hidden_at_each_step_of_a_deletion(backend: ObjectBackend) -> None:
    for n in range(6):
        delete(backend, n)
    assert list(backend.list_directories()) == [HOUR]
    left = [Entry(key=key_of(n), data=True, sidecar=False) for n in (0, 3)]
    assert sorted(backend.list(HOUR), key=lambda entry: entry.key) == left
    for n in (0, 3):
        backend.delete_data(key_of(n))
    assert list(backend.list(HOUR)) == []
    assert list(backend.list_directories()) == []


def test_a_foreign_object_of_the_size_of_a_marker_is_listed(
    backend: ObjectBackend, bucket: MemoryBucket, store: CountingStore
) -> None:
    for n in range(20):
        delete(backend, n)
        backend.delete_data(key_of(n))
    foreign = Key(f"{HOUR}/foreign.bin")
    bucket.objects[sidecar_name(foreign)] = MemoryObject(b"x" * MARKER_SIZE, "")
    store.requests.clear()
    assert list(backend.list(HOUR)) == [Entry(key=foreign, data=False, sidecar=True)]
    assert store.requests.count(f"GET {sidecar_name(foreign)}") == 1
    assert len(store.requests) == 5  # three lists, this object, and whether it has data
    assert list(backend.list_directories()) == [HOUR]


def test_a_marker_that_is_not_announced_any_more_is_hidden(
    backend: ObjectBackend, bucket: MemoryBucket
) -> None:
    marker = Marker("deleted", "0123").encode()
    bucket.objects[sidecar_name(key_of(1))] = MemoryObject(marker, "")
    assert list(backend.list(HOUR)) == []
    assert list(backend.list_directories()) == []


@pytest.mark.parametrize("place", [TOMBSTONES, EXPIRING])
def test_foreign_names_among_the_records_stop_nothing(
    backend: ObjectBackend, bucket: MemoryBucket, place: str
) -> None:
    put(backend, key_of(1))
    for name in ("README", "notes~1", "a/b"):
        bucket.objects[place + name] = MemoryObject(b"x", "")
    old = ObjectBackend(MemoryStore(bucket), tombstone_retention=0.0)
    assert list(old.recover()) == []
    assert list(old.list_tombstones()) == []
    assert [entry.key for entry in old.list(HOUR)] == [key_of(1)]
    assert place + "README" in bucket.objects


def test_a_store_below_the_prefix_of_another_is_not_taken_in(
    backend: ObjectBackend, bucket: MemoryBucket
) -> None:
    """One bucket holds a store without a prefix, and one with: the first must not take the files of the second in."""
    put(backend, key_of(1))
    other = {
        "se-02/.artstore/element.json": b"{}",
        f"se-02/{key_of(2)}": b"half of an upload",
        f"se-02/{sidecar_name(key_of(3))}": SIDECAR,
    }
    bucket.objects |= {name: MemoryObject(content, "") for name, content in other.items()}
    assert list(backend.list_directories()) == [HOUR]
    assert other.items() <= {n: o.content for n, o in bucket.objects.items()}.items()


def test_verify_asks_for_the_tombstones_a_fixed_number_of_times(
    backend: ObjectBackend, store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artstore.maintenance.verify.PAUSE", 0)
    for n in range(30):
        delete(backend, 3 * n)  # data and tombstones stay
    orphans = {Key(f"{HOUR}/report_ivanov_20261128T223045_aaaaaa{n:02x}.txt") for n in range(30)}
    for key in orphans:
        store.put(key, b"data")
    naming = DatedNaming(DatedNaming.Settings(), make_context(tmp_path))
    store.requests.clear()
    findings = list(Survey(backend=backend, naming=naming, cache=None).findings())
    assert {(f.kind, f.key) for f in findings} == {(Kind.ORPHAN_DATA, key) for key in orphans}
    assert (
        sum(request.startswith("GET") for request in store.requests) <= 4 * 30
    )  # not one for each pair of them
