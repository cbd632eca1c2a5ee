"""An object store in the memory of one process: the smallest `ObjectStore`, and the backend over it.

`artstore plugin new NAME --role object-store` copies this file as the beginning of a new backend.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel

from artstore.errors import Damaged, Unavailable
from artstore.ids import Key
from artstore.spi import API, PIECE, Capabilities, Context, NoSettings, Reader, Span
from artstore_objects.backend import ObjectBackend
from artstore_objects.store import Content, ObjectInfo, ObjectStore, Upload


@dataclass(frozen=True, slots=True)
class MemoryObject:
    """One object. Its content never changes: a put replaces the whole object."""

    content: bytes
    writer_id: str
    etag: str = field(default_factory=lambda: secrets.token_hex(16))
    put_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class MemoryBucket:
    """The objects by their names. It outlives a backend: open the same store again with the same bucket."""

    objects: dict[str, MemoryObject] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while a condition is checked and the object is put: both happen as one step."""


class MemoryUpload(Upload):
    """A new object, in a list of pieces until it is finished."""

    def __init__(self, store: MemoryStore, name: str, writer_id: str) -> None:
        self._store = store
        self._name = name
        self._writer_id = writer_id
        self._pieces: list[bytes] = []

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with self._store.open_bucket():
            self._pieces.append(bytes(piece))

    def finish(self) -> bool:
        content = b"".join(self._pieces)
        return self._store.put(self._name, content, writer_id=self._writer_id, if_absent=True)

    def abort(self) -> None:
        self._pieces.clear()


class MemoryReader(Reader):
    """An object that is open for reading. It stays readable after the object is deleted."""

    path: str | None = None

    def __init__(self, key: Key, content: bytes) -> None:
        self._key = key
        self._content = content
        self.size = len(content)

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        while left:
            piece = self._content[offset : offset + min(left, PIECE)]
            if not piece:
                raise Damaged(f"The data of {self._key} ends at {offset}, before it should.")
            yield piece
            offset += len(piece)
            left -= len(piece)

    def close(self) -> None:
        """Nothing to release: the content is garbage-collected."""


class MemoryStore(ObjectStore):
    """The seven methods that every object store needs, over a dictionary."""

    def __init__(self, bucket: MemoryBucket) -> None:
        self._bucket = bucket
        self._closed = False

    @contextmanager
    def open_bucket(self) -> Iterator[dict[str, MemoryObject]]:
        """Hold the lock and give the objects. Raises `Unavailable` after `close`."""
        with self._bucket.lock:
            if self._closed:
                raise Unavailable("The store is closed.")
            yield self._bucket.objects

    def head(self, name: str) -> ObjectInfo | None:
        with self.open_bucket() as objects:
            found = objects.get(name)
        return None if found is None else _describe(name, found)

    def get(self, name: str, limit: int) -> Content | None:
        with self.open_bucket() as objects:
            found = objects.get(name)
        return None if found is None else Content(found.content[:limit], found.etag, found.writer_id)

    def put(
        self,
        name: str,
        content: bytes,
        *,
        writer_id: str = "",
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> bool:
        with self.open_bucket() as objects:
            found = objects.get(name)
            if if_absent and found is not None:
                return False
            if if_match is not None and (found is None or found.etag != if_match):
                return False
            objects[name] = MemoryObject(content, writer_id)
            return True

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        with self.open_bucket() as objects:
            found = objects.get(name)
            if found is not None and if_match in (None, found.etag):
                del objects[name]

    def list(self, prefix: str) -> Iterator[ObjectInfo | str]:
        with self.open_bucket() as objects:
            below = {name: found for name, found in objects.items() if name.startswith(prefix)}
        deeper = set()
        for name, found in below.items():
            part, slash, _ = name.removeprefix(prefix).partition("/")
            if slash:
                deeper.add(f"{prefix}{part}/")
            else:
                yield _describe(name, found)
        yield from deeper

    def upload(self, name: str, writer_id: str) -> MemoryUpload:
        with self.open_bucket():
            return MemoryUpload(self, name, writer_id)

    def open(self, name: str, key: Key) -> MemoryReader | None:
        with self.open_bucket() as objects:
            found = objects.get(name)
        return None if found is None else MemoryReader(key, found.content)

    def close(self) -> None:
        self._closed = True


def _describe(name: str, found: MemoryObject) -> ObjectInfo:
    age = time.monotonic() - found.put_at
    return ObjectInfo(name, len(found.content), found.etag, age, found.writer_id)


class MemoryBackend(ObjectBackend):
    """The backend over this store. `bucket` holds its objects; without one, the backend gets a bucket of its own."""

    API: ClassVar[int] = API
    Settings: ClassVar[type[BaseModel]] = NoSettings
    capabilities = Capabilities(
        durable=False,
        atomic_sidecar=True,
        shared=False,
        multi_process=False,
        lists_uploads=False,
        keys_reusable=False,
    )

    def __init__(
        self,
        settings: BaseModel | None = None,
        context: Context | None = None,
        *,
        bucket: MemoryBucket | None = None,
        tombstone_retention: float = 86_400,
    ) -> None:
        store = MemoryStore(MemoryBucket() if bucket is None else bucket)
        super().__init__(store, tombstone_retention=tombstone_retention)
