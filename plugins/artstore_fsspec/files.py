"""Any fsspec file system as a store of objects, as far as it goes.

Conditions are kept by locks: threads and processes of one home see each other, other machines do not. A file
comes to its name by a move from the staging area, or by one write where that shows nothing before its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

from artstore.errors import ArtstoreError, OutcomeUnknown
from artstore.ids import Key
from artstore.spi import INTERNAL, PIECE, Span
from artstore_fsspec.connections import Connections
from artstore_fsspec.streams import FsspecReader, FsspecUpload, translated
from artstore_objects.store import Content, Stored

STAGING = f"{INTERNAL}/staging/"
DEADLINE = 30.0
"""Seconds after which a call to a store of objects is cancelled; by themselves some try again for minutes."""
_SHARDS = 16
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Where file systems tell when a file came; each has a word of its own."""


class FsspecObjects:
    """Objects in the files below `root`. `staged`: a file gets whole by a move, otherwise by the write itself."""

    def __init__(self, connections: Connections, root: str, locks: Path, *, staged: bool) -> None:
        self._fs = connections
        self._root = root.rstrip("/")
        self._staged = staged
        self._within = {} if staged else {"timeout": DEADLINE}
        self._locks = locks
        self._mutexes = [threading.Lock() for _ in range(_SHARDS + 1)]

    def path(self, name: str) -> str:
        """Where `name` lies in the file system."""
        return f"{self._root}/{name}"

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Nobody else of this home looks at `name` and puts something there."""
        with self._alone(crc32(name.encode()) % _SHARDS):
            yield

    @contextmanager
    def _alone(self, lock: int) -> Iterator[None]:
        with self._mutexes[lock]:
            fd = os.open(self._locks / f"store-{lock}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    def look(self, name: str) -> Stored | None:
        with translated(name):
            try:
                with self._fs.lent() as fs:
                    found = fs.info(self.path(name), **self._within)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return self._stored(name, found) if found["type"] == "file" else None

    def _stored(self, name: str, found: dict[str, Any]) -> Stored:
        came = next((found[told] for told in _TIMES if found.get(told)), None)
        age = 0.0
        if isinstance(came, str):
            came = datetime.fromisoformat(came)
        if isinstance(came, datetime):
            came = (came if came.tzinfo else came.replace(tzinfo=UTC)).timestamp()
        if isinstance(came, int | float):
            age = max(0.0, datetime.now(UTC).timestamp() - came)
        return Stored(name=name, size=int(found["size"] or 0), tag="", age=age)

    def get(self, name: str, limit: int) -> Content | None:
        with translated(name):
            if self.look(name) is None:  # of a directory each file system says something else
                return None
            try:
                with self._fs.lent() as fs:
                    content = bytes(fs.cat_file(self.path(name), start=0, end=limit, **self._within))
            except FileNotFoundError:
                return None
        return Content(content, hashlib.sha256(content).hexdigest(), "")

    def put(
        self, name: str, content: bytes, *, mark: str = "", absent: bool = False, tag: str | None = None
    ) -> bool:
        with translated(name), self.held(name):
            if absent and self.look(name) is not None:  # `exists` says no when nobody answers
                return False
            if tag is not None:
                there = self.get(name, 2 * PIECE)
                if there is None or there.tag != tag:
                    return False
            try:
                self._place(name, content)
            except Exception as e:
                self._require_undone(name, content, e)
        return True

    def _require_undone(self, name: str, content: bytes, error: Exception) -> None:
        """It failed: raise, unless it was done all the same."""
        try:
            there = self.get(name, len(content) + 1)
        except ArtstoreError as e:
            raise OutcomeUnknown(e.detail) from error
        if there is None or there.content != content:
            if isinstance(error, TimeoutError | ConnectionError | EOFError):  # it may yet come
                raise OutcomeUnknown("The file system did not say whether it was done.") from error
            raise error

    def _place(self, name: str, content: bytes) -> None:
        if not self._staged:
            with self._fs.lent() as fs:
                fs.pipe_file(self.path(name), content, **self._within)
            return
        staged = self.staged()
        try:
            with self._fs.lent() as fs:
                fs.pipe_file(self.path(staged), content)
            self.move(staged, name)
        except BaseException:
            with suppress(Exception):  # it goes when it is older than the grace
                self.remove(staged)  # its name is nobody else's, and a lock is held already: perhaps the same
            raise

    def staged(self) -> str:
        """A new name in the staging area."""
        name = f"{STAGING}{secrets.token_hex(12)}"
        self._make_room(name)
        return name

    def _make_room(self, name: str) -> None:
        """Make the directory of `name`. Alone: of two who make one, some file systems fail the later."""
        directory = self.path(name).rpartition("/")[0]
        with self._fs.lent() as fs:
            if not fs.isdir(directory):
                with self._alone(_SHARDS):
                    fs.makedirs(directory, exist_ok=True)

    def move(self, source: str, target: str) -> None:
        """From the staging area to its place."""
        self._make_room(target)
        with self._fs.lent() as fs:
            fs.mv(self.path(source), self.path(target))

    def delete(self, name: str, tag: str | None = None) -> None:
        with translated(name), self.held(name):
            if tag is not None:
                there = self.get(name, 2 * PIECE)
                if there is None or there.tag != tag:
                    return
            self.remove(name)

    def remove(self, name: str) -> None:
        """Without a lock. Not there: no error."""
        with self._fs.lent() as fs:
            try:
                fs.rm_file(self.path(name), **self._within)
            except (FileNotFoundError, KeyError):
                pass

    def copy(self, source: Stored, target: str) -> None:
        """Through us: not every file system copies, and some say they have before they are done."""
        reader = self.open(source.name, source.name)
        if reader is None:
            return
        upload = self.upload(target, "")
        try:
            for piece in reader.pieces(Span(0, reader.size)):
                upload.write(piece)
            upload.finish()
        finally:
            upload.abort()
            reader.close()

    def list(self, prefix: str) -> Iterator[Stored | str]:
        with translated(prefix or "the store"):
            try:
                with self._fs.lent() as fs:
                    found = fs.ls(
                        self.path(prefix).rstrip("/") or fs.root_marker, detail=True, **self._within
                    )
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in found:
            name = prefix + entry["name"].rstrip("/").rpartition("/")[2]
            if entry["type"] == "directory":
                yield f"{name}/"
            elif self.path(name) != self.path(prefix.rstrip("/")):  # some list a file as its own content
                yield self._stored(name, entry)

    def walk(self, prefix: str) -> Iterator[Stored]:
        for found in list(self.list(prefix)):
            if isinstance(found, str):
                yield from self.walk(found)
            else:
                yield found

    def upload(self, name: str, mark: str) -> FsspecUpload:
        with translated(name):
            return FsspecUpload(self, self._fs, name, staged=self.staged() if self._staged else None)

    def open(self, name: str, key: Key) -> FsspecReader | None:
        stored = self.look(name)
        if stored is None:
            return None
        with translated(key):
            try:
                return FsspecReader(self._fs, self.path(name), stored.size, key)
            except FileNotFoundError:
                return None

    def under_way(self) -> Iterator[str]:
        yield from ()

    def drop_uploads(self, name: str | None = None, *, older: float = 0.0) -> None:
        if name is None:
            for staged in self.walk(STAGING):
                if staged.age > older:
                    self.delete(staged.name)

    def check(self, *, writing: bool) -> None:
        if writing:
            self.put(f"{INTERNAL}/probe", b"")
        self.look(INTERNAL)

    def close(self) -> None:
        self._fs.close()
