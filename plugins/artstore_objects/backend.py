"""The backend contract over an object store that has no rename and no lock, only conditional puts.

The name of the sidecar decides the state of its key. It changes from absent to a sidecar and from a sidecar to a
marker, or from absent to a marker. A marker stays until no late request can arrive any more (`tombstone_retention`).
So a key is used once; and when a writer and the process that resolves its upload race, exactly one of them wins,
however late the other comes.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import BaseModel

from artstore.attr import SIDECAR_LIMIT, SIDECAR_SUFFIX
from artstore.errors import Conflict, NotFound, PreconditionFailed
from artstore.ids import Key
from artstore.spi import (
    API,
    INTERNAL,
    PIECE,
    Backend,
    Capabilities,
    Entry,
    Reader,
    Recoverable,
    Recovered,
    split_key,
)
from artstore_objects.layout import (
    EXPIRING,
    MARKER_SIZE,
    QUARANTINE,
    READ_LIMIT,
    TOMBSTONES,
    Marker,
    decode_marker,
    sidecar_name,
)
from artstore_objects.store import Content, ObjectInfo, ObjectStore
from artstore_objects.writer import ObjectWriter

SWEEP_INTERVAL = 600.0
"""The most seconds between two searches for what is older than the retention."""


class ObjectBackend(Backend, Recoverable):
    """A backend over an `ObjectStore`. A subclass builds the store and declares the capabilities.

    `tombstone_retention`: seconds after which a request of the past cannot arrive any more. Until then a deleted or
    aborted key keeps its marker and stays taken; unfinished uploads that are older are aborted.
    """

    API: ClassVar[int] = API
    Settings: ClassVar[type[BaseModel]] = BaseModel
    capabilities: Capabilities

    def __init__(self, store: ObjectStore, *, tombstone_retention: float) -> None:
        self._store = store
        self._retention = tombstone_retention
        self._open_writers: Counter[Key] = Counter()
        self._lock = threading.Lock()  # of `_open_writers`
        self._last_sweep = float("-inf")

    # --- upload ---

    def create(self, key: Key) -> ObjectWriter:
        # Data without a sidecar is found by `publish`.
        # Read, and not only looked for: the answer to a HEAD does not tell a missing object from a missing bucket.
        if self._read(key)[1] is not None:
            raise Conflict(f"The key {key} is taken.")
        with self._lock:
            self._open_writers[key] += 1
        try:
            return ObjectWriter(self._store, key, secrets.token_hex(12), lambda: self._forget_writer(key))
        except BaseException:
            self._forget_writer(key)
            raise

    def _forget_writer(self, key: Key) -> None:
        with self._lock:
            self._open_writers[key] -= 1

    def resolve(self, key: Key) -> bool:
        marker, present = self._read(key)
        if present is None:
            marker = Marker("aborted", secrets.token_hex(8))
            self._list_as_expiring(key)
            if not self._store.put(sidecar_name(key), marker.encode(), if_absent=True):
                marker, _ = self._read(key)
        if marker is None:
            return True
        self._store.abort_uploads(key)
        self._store.delete(key)
        return False

    def _list_as_expiring(self, key: Key) -> None:
        """Note that `key` has a marker. Called before the marker is put: one that is not listed would never expire."""
        self._store.put(EXPIRING + key, b"")

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        with self._lock:
            ours = list((+self._open_writers).elements())
        yield from ours
        yield from (Key(name) for name in self._store.list_uploads() if name not in ours)

    # --- sidecars ---

    def _read(self, key: Key) -> tuple[Marker | None, Content | None]:
        """Return the marker of `key`, or None; and the marker or sidecar itself, or None."""
        present = self._store.get(sidecar_name(key), READ_LIMIT)
        return (decode_marker(present.content) if present else None), present

    def _require_sidecar(self, key: Key) -> Content:
        marker, present = self._read(key)
        if present is None or marker is not None:
            raise NotFound(f"There is no sidecar of {key}.")
        return present

    def read_sidecar(self, key: Key) -> bytes:
        return self._require_sidecar(key).content[: SIDECAR_LIMIT + 1]

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        present = self._require_sidecar(key)
        if present.content != if_match or not self._store.put(
            sidecar_name(key), sidecar, writer_id=present.writer_id, if_match=present.etag
        ):
            self._require_sidecar(key)
            raise PreconditionFailed("The file was changed meanwhile.")

    # --- deleting ---

    def delete(self, key: Key, *, if_match: bytes) -> None:
        deletion = secrets.token_hex(8)
        tombstone = f"{TOMBSTONES}{key}~{deletion}"
        has_tombstone = False
        while True:
            marker, present = self._read(key)
            if present is None or marker is not None or present.content != if_match:
                if has_tombstone:
                    self._store.delete(tombstone)
                if present is None or marker is not None:
                    raise NotFound(f"There is no sidecar of {key}.")
                raise PreconditionFailed("The file was changed meanwhile.")
            if not has_tombstone:
                self._store.put(tombstone, present.content)
                has_tombstone = True
            if self._store.put(
                sidecar_name(key),
                Marker("deleted", deletion).encode(),
                writer_id=present.writer_id,
                if_match=present.etag,
            ):
                return

    def delete_data(self, key: Key) -> None:
        try:
            marker, present = self._read(key)
        except NotFound:
            return
        if marker is not None:
            self._store.delete(key)
        elif present is None and self._store.head(key) is not None:
            self.resolve(key)  # its writer may be alive: it must not put the sidecar after this

    def list_tombstones(self) -> Iterator[Key]:
        yield from (key for _, key, happened in self._deletions() if happened)

    def _deletions(self, *, older_than: float = -1.0) -> Iterator[tuple[ObjectInfo, Key, bool]]:
        """Yield the tombstone of each deletion that was started, its key, and whether the deletion happened."""
        for tombstone in self._store.walk(TOMBSTONES):
            if tombstone.age <= older_than:
                continue
            name, _, deletion = tombstone.name.removeprefix(TOMBSTONES).rpartition("~")
            key = Key(name)
            try:
                marker, _ = self._read(key)
            except NotFound:  # a foreign name
                continue
            yield tombstone, key, marker is not None and marker.by == deletion

    def purge(self, key: Key) -> None:
        marker, _ = self._read(key)
        if marker is not None and marker.kind == "deleted":
            self._list_as_expiring(key)
            self._store.delete(f"{TOMBSTONES}{key}~{marker.by}")

    def quarantine(self, key: Key) -> None:
        data = self._store.head(key)
        sidecar = self._store.head(sidecar_name(key))
        marker, present = self._read(key)
        place = f"{QUARANTINE}{secrets.token_hex(8)}/"
        if data is not None:
            self._store.copy(data, place + key)
        if sidecar is not None and marker is None:
            self._store.copy(sidecar, place + sidecar_name(key))
        if data is None and (present is None or marker is not None):
            return
        if marker is None:
            # If the sidecar was changed or published meanwhile, the file stays; the copy does no harm.
            self._list_as_expiring(key)
            if not self._store.put(
                sidecar_name(key),
                Marker("quarantined", secrets.token_hex(8)).encode(),
                if_absent=present is None,
                if_match=present.etag if present else None,
            ):
                return
        self._store.delete(key)

    # --- reading and listing ---

    def read(self, key: Key) -> Reader:
        split_key(key)
        reader = self._store.open(key, key)
        if reader is None:
            raise NotFound(f"There is no {key}.")
        return reader

    def list(self, directory: str) -> Iterator[Entry]:
        if not directory:
            for found in self._store.list(""):
                if isinstance(found, ObjectInfo):
                    yield Entry(key=Key(found.name), data=True, sidecar=False)
            return
        try:
            split_key(Key(f"{directory}/x"))
        except NotFound:
            return
        yield from self._entries(o for o in self._store.list(f"{directory}/") if isinstance(o, ObjectInfo))

    def _entries(self, objects: Iterator[ObjectInfo]) -> Iterator[Entry]:
        data: set[Key] = set()
        sidecars: set[Key] = set()
        doubtful: list[ObjectInfo] = []
        for info in objects:
            if not info.name.endswith(SIDECAR_SUFFIX):
                data.add(Key(info.name))
            elif info.size == MARKER_SIZE:
                doubtful.append(info)
            else:
                sidecars.add(Key(info.name.removesuffix(SIDECAR_SUFFIX)))
        sidecars.update(
            Key(info.name.removesuffix(SIDECAR_SUFFIX)) for info in self._without_markers(doubtful)
        )
        for key in data | sidecars:
            # While a listing of several pages is read, an upload may be published: then only its sidecar is listed.
            has_data = key in data or self._store.head(key) is not None
            yield Entry(key=key, data=has_data, sidecar=key in sidecars)

    def _without_markers(self, objects: Sequence[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Yield those of `objects` that are no markers. They lie in one directory and have the size of a marker.

        Each marker is announced before it is put, so two lists of names tell almost all of them: a directory of which
        many files were deleted costs no request for each. What is not announced is foreign, or its marker expires in
        this moment: it is read. The order matters: the directory was listed first, and `purge` announces a key as
        expiring before it removes the tombstone.
        """
        if not objects:
            return
        directory = objects[0].name.rpartition("/")[0]
        announced = {
            tombstone.name.removeprefix(TOMBSTONES).rpartition("~")[0]
            for tombstone in self._store.list(f"{TOMBSTONES}{directory}/")
            if isinstance(tombstone, ObjectInfo)
        }
        announced.update(
            expiring.name.removeprefix(EXPIRING)
            for expiring in self._store.list(f"{EXPIRING}{directory}/")
            if isinstance(expiring, ObjectInfo)
        )
        for info in objects:
            if info.name.removesuffix(SIDECAR_SUFFIX) not in announced:
                present = self._store.get(info.name, READ_LIMIT)
                if present is not None and decode_marker(present.content) is None:
                    yield info

    def age(self, key: Key) -> float:
        found = [o.age for o in map(self._store.head, (key, sidecar_name(key))) if o is not None]
        if not found:
            raise NotFound(f"There is no {key}.")
        return max(0.0, min(found))

    def list_directories(self, since: str = "") -> Iterator[str]:
        yield from self._walk_directories("", since)

    def _walk_directories(self, directory: str, since: str) -> Iterator[str]:
        if directory and directory < since[: len(directory)]:
            return
        has_files = False
        deeper: list[str] = []
        doubtful: list[ObjectInfo] = []
        for found in self._store.list(f"{directory}/" if directory else ""):
            if isinstance(found, str):
                deeper.append(found.removesuffix("/"))
            elif found.name.endswith(SIDECAR_SUFFIX) and found.size == MARKER_SIZE:
                doubtful.append(found)
            else:
                has_files = True
        if directory and f"{directory}/{INTERNAL}" in deeper:
            return  # another store, whose prefix lies below ours: nothing in it is ours
        if (
            directory
            and directory >= since
            and (has_files or any(True for _ in self._without_markers(doubtful)))
        ):
            yield directory
        for name in sorted(deeper):
            if name != INTERNAL:
                yield from self._walk_directories(name, since)

    # --- recovery ---

    def recover(self) -> Iterator[Recovered]:
        """Remove what is older than the retention. Only the log knows which writers are dead, so nothing is yielded."""
        if time.monotonic() - self._last_sweep > min(SWEEP_INTERVAL, self._retention):
            self._last_sweep = time.monotonic()
            self._store.abort_uploads(older_than=self._retention)
            for tombstone, _, happened in self._deletions(older_than=self._retention):
                if not happened:
                    self._store.delete(tombstone.name)
            for expiring in self._store.walk(EXPIRING):
                if expiring.age > self._retention:
                    self._expire(expiring)
        yield from ()

    def _expire(self, expiring: ObjectInfo) -> None:
        """Remove the marker of a key. From now on the key is free."""
        key = Key(expiring.name.removeprefix(EXPIRING))
        try:
            marker, present = self._read(key)
        except NotFound:  # a foreign name
            return
        if marker is not None and present is not None:
            self._store.delete(key)  # a late writer may have put data there
            self._store.delete(sidecar_name(key), if_match=present.etag)
        self._store.delete(expiring.name)

    # --- the element ---

    def read_document(self, name: str) -> bytes | None:
        present = self._store.get(f"{INTERNAL}/{name}", PIECE)
        return None if present is None else present.content

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        etag = None
        if if_match is not None:
            present = self._store.get(f"{INTERNAL}/{name}", PIECE)
            if present is None or present.content != if_match:
                raise PreconditionFailed(f"{name} was changed meanwhile.")
            etag = present.etag
        if not self._store.put(f"{INTERNAL}/{name}", document, if_absent=if_absent, if_match=etag):
            if if_absent:
                raise Conflict(f"There is a {name} already.")
            raise PreconditionFailed(f"{name} was changed meanwhile.")

    def check(self, *, writing: bool) -> None:
        self._store.check(writing=writing)

    def close(self) -> None:
        self._store.close()
