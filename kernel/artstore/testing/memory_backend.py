"""A backend in the memory of one process: the reference for `BackendSuite`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel

from artstore.attr import SIDECAR_LIMIT
from artstore.errors import Conflict, Damaged, NotFound, PreconditionFailed, Unavailable
from artstore.ids import Key
from artstore.spi import (
    PIECE,
    Backend,
    Capabilities,
    Context,
    Entry,
    NoSettings,
    Reader,
    Recoverable,
    Recovered,
    Span,
    Writer,
)


@dataclass(slots=True)
class Kept:
    """Bytes, and when they came to their place."""

    content: bytes
    since: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class MemoryStore:
    """What outlives a `MemoryBackend`: give it to another one to open the same store again."""

    data: dict[Key, Kept] = field(default_factory=dict)
    sidecars: dict[Key, Kept] = field(default_factory=dict)
    tombstones: dict[Key, bytes] = field(default_factory=dict)
    quarantine: list[tuple[Key, bytes | None, bytes | None]] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[int, list[Key]] = field(default_factory=dict)
    """The keys that each owner, dead or alive, has an upload in progress for."""
    alive: set[int] = field(default_factory=set)
    owners: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def is_taken(self, key: Key) -> bool:
        return key in self.data or key in self.sidecars or key in self.tombstones

    def all_keys(self) -> set[Key]:
        return self.data.keys() | self.sidecars.keys()


class MemoryWriter(Writer):
    """New data in a list of pieces."""

    def __init__(self, backend: MemoryBackend, key: Key) -> None:
        self._backend = backend
        self._key = key
        self._pieces: list[bytes] = []
        self._closed = False
        with backend.locked() as store:
            store.uploads[backend.owner].append(key)

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with self._backend.locked():
            self._pieces.append(bytes(piece))

    def publish(self, sidecar: bytes) -> None:
        try:
            with self._backend.locked() as store:
                if self._closed or self._key not in store.uploads[self._backend.owner]:
                    raise Unavailable("The upload was ended.")
                if store.is_taken(self._key):
                    raise Conflict(f"The key {self._key} is taken.")
                store.data[self._key] = Kept(b"".join(self._pieces))
                store.sidecars[self._key] = Kept(sidecar)
        finally:
            self.abort()

    def abort(self) -> None:
        store = self._backend.store
        with store.lock:
            uploads = store.uploads.get(self._backend.owner, [])
            if not self._closed and self._backend.owner in store.alive and self._key in uploads:
                uploads.remove(self._key)
            self._closed = True
            self._pieces.clear()


class MemoryReader(Reader):
    """Data held open: removing the entry of a dictionary does not remove the bytes."""

    path: str | None = None

    def __init__(self, data: bytes, key: Key) -> None:
        self._data = data
        self._key = key
        self.size = len(data)

    def pieces(self, span: Span) -> Iterator[bytes]:
        end = span.offset + span.length
        for offset in range(span.offset, end, PIECE):
            piece = self._data[offset : min(offset + PIECE, end)]
            if piece:
                yield piece
            if offset + len(piece) < min(offset + PIECE, end):
                raise Damaged(f"The data of {self._key} ends before it should.")

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class MemoryBackend(Backend, Recoverable):
    """A store in dictionaries. It lives as long as its `MemoryStore`."""

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = NoSettings
    capabilities = Capabilities(durable=False, atomic_sidecar=True, shared=False, multi_process=False)

    def __init__(
        self,
        settings: BaseModel | None = None,
        context: Context | None = None,
        *,
        store: MemoryStore | None = None,
    ) -> None:
        self.store = MemoryStore() if store is None else store
        with self.store.lock:
            self.store.owners += 1
            self.owner = self.store.owners
            self.store.alive.add(self.owner)
            self.store.uploads[self.owner] = []

    @contextmanager
    def locked(self) -> Iterator[MemoryStore]:
        """Hold the store for one step. Raises `Unavailable` once this backend is closed."""
        with self.store.lock:
            if self.owner not in self.store.alive:
                raise Unavailable("The store is closed.")
            yield self.store

    def create(self, key: Key) -> MemoryWriter:
        with self.locked() as store:
            if store.is_taken(key):
                raise Conflict(f"The key {key} is taken.")
            return MemoryWriter(self, key)

    def read(self, key: Key) -> MemoryReader:
        with self.locked() as store:
            if key not in store.data:
                raise NotFound(f"There is no {key}.")
            return MemoryReader(store.data[key].content, key)

    def read_sidecar(self, key: Key) -> bytes:
        with self.locked() as store:
            if key not in store.sidecars:
                raise NotFound(f"There is no sidecar of {key}.")
            return store.sidecars[key].content[: SIDECAR_LIMIT + 1]

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        with self.locked() as store:
            if self.read_sidecar(key) != if_match:
                raise PreconditionFailed("The file was changed meanwhile.")
            store.sidecars[key] = Kept(sidecar)

    def delete(self, key: Key, *, if_match: bytes) -> None:
        with self.locked() as store:
            if self.read_sidecar(key) != if_match:
                raise PreconditionFailed("The file was changed meanwhile.")
            store.tombstones[key] = if_match
            del store.sidecars[key]

    def list(self, directory: str) -> Iterator[Entry]:
        with self.locked() as store:
            found = [
                Entry(key=key, data=key in store.data, sidecar=key in store.sidecars)
                for key in store.all_keys()
                if key.rpartition("/")[0] == directory
            ]
        yield from found

    def list_directories(self, since: str = "") -> Iterator[str]:
        with self.locked() as store:
            found = {key.rpartition("/")[0] for key in store.all_keys()}
        yield from sorted(directory for directory in found if directory >= since)

    def read_document(self, name: str) -> bytes | None:
        with self.locked() as store:
            return store.documents.get(name)

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        with self.locked() as store:
            if if_absent and name in store.documents:
                raise Conflict(f"There is a {name} already.")
            if if_match is not None and store.documents.get(name) != if_match:
                raise PreconditionFailed(f"{name} was changed meanwhile.")
            store.documents[name] = document

    def check(self, *, writing: bool) -> None:
        with self.locked():
            pass

    def close(self) -> None:
        with self.store.lock:
            self.store.alive.discard(self.owner)

    # --- what recovery needs ---

    def delete_data(self, key: Key) -> None:
        with self.locked() as store:
            if key not in store.sidecars:
                store.data.pop(key, None)

    def list_tombstones(self) -> Iterator[Key]:
        with self.locked() as store:
            keys = [*store.tombstones]
        yield from keys

    def purge(self, key: Key) -> None:
        with self.locked() as store:
            store.tombstones.pop(key, None)

    def quarantine(self, key: Key) -> None:
        with self.locked() as store:
            data, sidecar = store.data.pop(key, None), store.sidecars.pop(key, None)
            if data or sidecar:
                store.quarantine.append(
                    (key, data.content if data else None, sidecar.content if sidecar else None)
                )

    def age(self, key: Key) -> float:
        with self.locked() as store:
            times = [parts[key].since for parts in (store.data, store.sidecars) if key in parts]
        if not times:
            raise NotFound(f"There is no {key}.")
        return time.monotonic() - max(times)

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        with self.locked() as store:
            keys = [k for uploads in store.uploads.values() for k in uploads if key in (None, k)]
        yield from keys

    def recover(self) -> Iterator[Recovered]:
        with self.locked() as store:
            dead = store.uploads.keys() - store.alive
            keys = [key for owner in dead for key in store.uploads.pop(owner)]
        for key in keys:
            yield Recovered(key=key, outcome="undone")

    def resolve(self, key: Key) -> bool:
        with self.locked() as store:
            for owner, uploads in store.uploads.items():
                if owner != self.owner:
                    uploads[:] = [k for k in uploads if k != key]
            return key in store.sidecars

    def is_sole_writer(self) -> bool:
        with self.locked() as store:
            return store.alive == {self.owner}
