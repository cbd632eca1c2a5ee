"""The backend contract over an object store: no rename, no lock, only puts with a condition.

The name of a sidecar is the register of its key. It goes absent -> sidecar -> marker, or absent -> marker, and a
marker stays until no late request can come any more (`grace`): so a key is used once, and of a writer and
whoever settles its upload exactly one wins, however late the other comes.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
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
    GRAVES,
    MARKER_SIZE,
    QUARANTINE,
    TRASH,
    Marker,
    decode_marker,
    register,
)
from artstore_objects.store import Content, Objects, Stored
from artstore_objects.writer import MORE_THAN_A_SIDECAR, ObjectWriter

SWEEP_EVERY = 600.0
"""Seconds between two looks at what is older than the grace."""


class ObjectBackend(Backend, Recoverable):
    """A store of objects. A subclass builds the `Objects` and declares its capabilities."""

    API: ClassVar[int] = API
    Settings: ClassVar[type[BaseModel]] = BaseModel
    capabilities: Capabilities

    def __init__(self, objects: Objects, *, grace: float) -> None:
        self._objects = objects
        self._grace = grace
        self._under_way: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._swept = float("-inf")

    # --- upload ---

    def create(self, key: Key) -> ObjectWriter:
        # Data without a sidecar is met at `publish`.
        if self._objects.look(register(key)) is not None:
            raise Conflict(f"The key {key} is taken.")
        with self._lock:
            self._under_way[key] += 1
        try:
            return ObjectWriter(self._objects, key, secrets.token_hex(12), lambda: self._ended(key))
        except BaseException:
            self._ended(key)
            raise

    def _ended(self, key: Key) -> None:
        with self._lock:
            self._under_way[key] -= 1

    def resolve(self, key: Key) -> bool:
        marker, there = self._register(key)
        if there is None:
            marker = Marker("aborted", secrets.token_hex(8))
            self._objects.put(GRAVES + key, b"")  # first: a marker that no grave knows of would stay for ever
            if not self._objects.put(register(key), marker.encode(), absent=True):
                marker, _ = self._register(key)
        if marker is None:
            return True
        self._objects.drop_uploads(key)
        self._objects.delete(key)
        return False

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        with self._lock:
            mine = list((+self._under_way).elements())
        yield from mine
        yield from (name for name in self._objects.under_way() if name not in mine)

    # --- sidecars ---

    def _register(self, key: Key) -> tuple[Marker | None, Content | None]:
        """The marker under `key`, if that is what is there; and what is there."""
        there = self._objects.get(register(key), MORE_THAN_A_SIDECAR)
        return (decode_marker(there.content) if there else None), there

    def _sidecar(self, key: Key) -> Content:
        marker, there = self._register(key)
        if there is None or marker is not None:
            raise NotFound(f"There is no sidecar of {key}.")
        return there

    def read_sidecar(self, key: Key) -> bytes:
        return self._sidecar(key).content[: SIDECAR_LIMIT + 1]

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        there = self._sidecar(key)
        if there.content != if_match or not self._objects.put(
            register(key), sidecar, mark=there.mark, tag=there.tag
        ):
            self._sidecar(key)
            raise PreconditionFailed("The file was changed meanwhile.")

    # --- deleting ---

    def delete(self, key: Key, *, if_match: bytes) -> None:
        by = secrets.token_hex(8)
        trace = f"{TRASH}{key}~{by}"
        traced = False
        while True:
            marker, there = self._register(key)
            gone = there is None or marker is not None
            if there is None or gone or there.content != if_match:
                if traced:
                    self._objects.delete(trace)
                if gone:
                    raise NotFound(f"There is no sidecar of {key}.")
                raise PreconditionFailed("The file was changed meanwhile.")
            if not traced:
                self._objects.put(trace, there.content)
                traced = True
            if self._objects.put(
                register(key), Marker("deleted", by).encode(), mark=there.mark, tag=there.tag
            ):
                return

    def delete_data(self, key: Key) -> None:
        try:
            marker, there = self._register(key)
        except NotFound:
            return
        if marker is not None:
            self._objects.delete(key)
        elif there is None and self._objects.look(key) is not None:
            self.resolve(key)  # perhaps on its way: its sidecar must not come after this

    def list_tombstones(self) -> Iterator[Key]:
        yield from (key for _, key, took_place in self._traces() if took_place)

    def _traces(self) -> Iterator[tuple[Stored, str, bool]]:
        """Each deletion that was begun, its key, and whether it took place."""
        for trace in self._objects.walk(TRASH):
            key, _, by = trace.name.removeprefix(TRASH).rpartition("~")
            try:
                marker, _ = self._register(key)
            except NotFound:  # a stranger's
                continue
            yield trace, key, marker is not None and marker.by == by

    def purge(self, key: Key) -> None:
        marker, _ = self._register(key)
        if marker is not None and marker.kind == "deleted":
            self._objects.put(GRAVES + key, b"")
            self._objects.delete(f"{TRASH}{key}~{marker.by}")

    def quarantine(self, key: Key) -> None:
        data = self._objects.look(key)
        sidecar = self._objects.look(register(key))
        marker, there = self._register(key)
        place = f"{QUARANTINE}{secrets.token_hex(8)}/"
        if data is not None:
            self._objects.copy(data, place + key)
        if sidecar is not None and marker is None:
            self._objects.copy(sidecar, place + register(key))
        if data is None and (there is None or marker is not None):
            return
        if marker is None:
            # Whoever changed the sidecar meanwhile, or published at last, keeps the file; the copy harms nobody.
            gone = Marker("quarantined", secrets.token_hex(8)).encode()
            self._objects.put(GRAVES + key, b"")
            if not self._objects.put(
                register(key), gone, absent=there is None, tag=there.tag if there else None
            ):
                return
        self._objects.delete(key)

    # --- reading and listing ---

    def read(self, key: Key) -> Reader:
        split_key(key)
        reader = self._objects.open(key, key)
        if reader is None:
            raise NotFound(f"There is no {key}.")
        return reader

    def list(self, directory: str) -> Iterator[Entry]:
        if not directory:
            for found in self._objects.list(""):
                if isinstance(found, Stored):
                    yield Entry(key=Key(found.name), data=True, sidecar=False)
            return
        try:
            split_key(Key(f"{directory}/x"))
        except NotFound:
            return
        yield from self._entries(o for o in self._objects.list(f"{directory}/") if isinstance(o, Stored))

    def _entries(self, objects: Iterator[Stored]) -> Iterator[Entry]:
        data: set[str] = set()
        sidecars: set[str] = set()
        for stored in objects:
            if not stored.name.endswith(SIDECAR_SUFFIX):
                data.add(stored.name)
            elif not self._is_marker(stored):
                sidecars.add(stored.name.removesuffix(SIDECAR_SUFFIX))
        for key in data | sidecars:
            # A listing of several pages may pass data before it comes, and its sidecar after.
            there = key in data or self._objects.look(key) is not None
            yield Entry(key=key, data=there, sidecar=key in sidecars)

    def _is_marker(self, stored: Stored) -> bool:
        if stored.size != MARKER_SIZE:
            return False
        there = self._objects.get(stored.name, MORE_THAN_A_SIDECAR)
        return there is not None and decode_marker(there.content) is not None

    def age(self, key: Key) -> float:
        found = [o.age for o in map(self._objects.look, (key, register(key))) if o is not None]
        return max(0.0, min(found, default=float("inf")))

    def list_directories(self, since: str = "") -> Iterator[str]:
        yield from self._below("", since)

    def _below(self, directory: str, since: str) -> Iterator[str]:
        if directory and directory < since[: len(directory)]:
            return
        files = False
        below: list[str] = []
        for found in self._objects.list(f"{directory}/" if directory else ""):
            if isinstance(found, str):
                below.append(found.removesuffix("/"))
            elif not files:
                files = not (found.name.endswith(SIDECAR_SUFFIX) and self._is_marker(found))
        if files and directory and directory >= since:
            yield directory
        for name in sorted(below):
            if name != INTERNAL:
                yield from self._below(name, since)

    # --- recovery ---

    def recover(self) -> Iterator[Recovered]:
        """Only the log tells the dead from the living here; what goes is what is older than the grace."""
        if time.monotonic() - self._swept > min(SWEEP_EVERY, self._grace):
            self._swept = time.monotonic()
            self._objects.drop_uploads(older=self._grace)
            for trace, _, took_place in self._traces():
                if trace.age > self._grace and not took_place:
                    self._objects.delete(trace.name)
            for grave in self._objects.walk(GRAVES):
                if grave.age > self._grace:
                    self._dig_up(grave)
        yield from ()

    def _dig_up(self, grave: Stored) -> None:
        key = grave.name.removeprefix(GRAVES)
        marker, there = self._register(key)
        if marker is not None and there is not None:
            self._objects.delete(key)  # what a late writer put there after all
            self._objects.delete(register(key), tag=there.tag)
        self._objects.delete(grave.name)

    def is_sole_writer(self) -> bool:
        return False

    # --- the element ---

    def read_document(self, name: str) -> bytes | None:
        there = self._objects.get(f"{INTERNAL}/{name}", PIECE)
        return None if there is None else there.content

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        tag = None
        if if_match is not None:
            there = self._objects.get(f"{INTERNAL}/{name}", PIECE)
            if there is None or there.content != if_match:
                raise PreconditionFailed(f"{name} was changed meanwhile.")
            tag = there.tag
        if not self._objects.put(f"{INTERNAL}/{name}", document, absent=if_absent, tag=tag):
            if if_absent:
                raise Conflict(f"There is a {name} already.")
            raise PreconditionFailed(f"{name} was changed meanwhile.")

    def free_bytes(self) -> int | None:
        return None

    def check(self, *, writing: bool) -> None:
        self._objects.check(writing=writing)

    def close(self) -> None:
        self._objects.close()
