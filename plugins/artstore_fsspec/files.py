"""Any fsspec file system as a store of objects, as far as it goes.

Conditions are kept by locks: threads and processes of one home see each other, other machines do not. A file
comes to its name by a move from the staging area where the file system moves in one step, and by one call that
writes it whole where it does not.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import fsspec

from artstore.errors import ArtstoreError, Damaged, StorageFull, Unavailable, Undecided
from artstore.spi import PIECE, Span
from artstore_fsspec.objects import Content, Stored
from artstore_fsspec.places import INTERNAL

STAGING = f"{INTERNAL}/staging/"
_SHARDS = 16
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Where file systems tell when a file came; each has a word of its own."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Whatever a file system raises, as one of our errors."""
    try:
        yield
    except (ArtstoreError, FileNotFoundError):
        raise
    except OSError as e:
        if e.errno in (28, 122):  # ENOSPC, EDQUOT
            raise StorageFull(f"There is no space left for {what}.") from e
        raise Unavailable(f"The file system failed at {what}: {e.strerror or type(e).__name__}.") from e
    except Exception as e:  # each library behind fsspec has errors of its own
        raise Unavailable(f"The file system failed at {what}: {type(e).__name__}.") from e


class FsspecObjects:
    """Objects in the files below `root`. `moves`: the file system renames a file onto another in one step."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, locks: Path, *, moves: bool) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self._moves = moves
        self._locks = locks
        self._mutexes = [threading.Lock() for _ in range(_SHARDS)]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).removeprefix(self._fs.root_marker).strip("/")

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """Nobody else of this home looks at `name` and puts something there."""
        shard = crc32(name.encode()) % _SHARDS
        with self._mutexes[shard]:
            fd = os.open(self._locks / f"store-{shard}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    def look(self, name: str) -> Stored | None:
        with translated(name):
            try:
                found = self._fs.info(self._path(name))
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
                content = bytes(self._fs.cat_file(self._path(name), start=0, end=limit))
            except FileNotFoundError:
                return None
        return Content(content, hashlib.sha256(content).hexdigest(), "")

    def put(
        self, name: str, content: bytes, *, mark: str = "", absent: bool = False, tag: str | None = None
    ) -> bool:
        with translated(name), self._held(name):
            if absent and self._fs.exists(self._path(name)):
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
            raise Undecided(e.detail) from error
        if there is None or there.content != content:
            raise error

    def _place(self, name: str, content: bytes) -> None:
        if not self._moves:
            self.make_room(name)
            self._fs.pipe_file(self._path(name), content)
            return
        staged = f"{STAGING}{secrets.token_hex(12)}"
        self.make_room(staged)
        try:
            self._fs.pipe_file(self._path(staged), content)
            self.move(staged, name)
        except BaseException:
            self._remove(staged)  # its name is nobody else's, and a lock is held already: perhaps the same
            raise

    def make_room(self, name: str) -> None:
        """Make the directory of `name`, where there are directories."""
        self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    def move(self, source: str, target: str) -> None:
        """From the staging area to its place."""
        self.make_room(target)
        self._fs.mv(self._path(source), self._path(target))

    def claim(self, staged: str, name: str) -> bool:
        """Move a staged file to a name that is free; False when it is not."""
        with translated(name), self._held(name):
            if self._fs.exists(self._path(name)):
                return False
            self.move(staged, name)
        return True

    def delete(self, name: str, tag: str | None = None) -> None:
        with translated(name), self._held(name):
            if tag is not None:
                there = self.get(name, 2 * PIECE)
                if there is None or there.tag != tag:
                    return
            self._remove(name)

    def _remove(self, name: str) -> None:
        try:
            self._fs.rm_file(self._path(name))
        except (FileNotFoundError, KeyError):
            pass

    def copy(self, source: Stored, target: str) -> None:
        with translated(source.name):
            self.make_room(target)
            self._fs.cp_file(self._path(source.name), self._path(target))

    def list(self, prefix: str) -> Iterator[Stored | str]:
        with translated(prefix):
            try:
                found = self._fs.ls(self._path(prefix).rstrip("/") or self._fs.root_marker, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in found:
            name = prefix + entry["name"].rstrip("/").rpartition("/")[2]
            if entry["type"] == "directory":
                yield f"{name}/"
            elif self._path(name) != self._path(prefix.rstrip("/")):  # some list a file as its own content
                yield self._stored(name, entry)

    def walk(self, prefix: str) -> Iterator[Stored]:
        for found in list(self.list(prefix)):
            if isinstance(found, str):
                yield from self.walk(found)
            else:
                yield found

    def upload(self, name: str, mark: str) -> FsspecUpload:
        staged = f"{STAGING}{secrets.token_hex(12)}"
        with translated(name):
            self.make_room(staged)
            return FsspecUpload(self, self._fs.open(self._path(staged), "wb"), staged, name)

    def open(self, name: str, key: str) -> FsspecReader | None:
        stored = self.look(name)
        if stored is None:
            return None
        with translated(name):
            try:
                if "memory" in self._fs.protocol:  # whose open files all share one position
                    return FsspecReader(io.BytesIO(self._fs.cat_file(self._path(name))), stored.size, key)
                return FsspecReader(self._fs.open(self._path(name), "rb"), stored.size, key)
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
        with translated("the store"):
            self._fs.exists(self._path(INTERNAL))

    def close(self) -> None:
        """Nothing is held."""


class FsspecUpload:
    """A large file in the staging area: whatever the file system does to it when we die, it is no file yet."""

    def __init__(self, objects: FsspecObjects, file: Any, staged: str, name: str) -> None:
        self._objects = objects
        self._file = file
        self._staged = staged
        self._name = name

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with translated("this file"):
            self._file.write(bytes(piece))

    def finish(self) -> bool:
        with translated("this file"):
            self._file.close()
        return self._objects.claim(self._staged, self._name)

    def abort(self) -> None:
        try:
            with translated("this file"):
                self._file.close()
            self._objects.delete(self._staged)
        except (ArtstoreError, FileNotFoundError):
            pass  # it goes when it is older than the grace


class FsspecReader:
    """A file held open."""

    path: str | None = None

    def __init__(self, file: Any, size: int, key: str) -> None:
        self._file = file
        self._key = key
        self._lock = threading.Lock()
        self.size = size

    def pieces(self, span: Span) -> Iterator[bytes]:
        offset, left = span
        while left:
            with translated(self._key), self._lock:
                self._file.seek(offset)
                piece = self._file.read(min(left, PIECE))
            if not piece:
                raise Damaged(f"The data of {self._key} ends at {offset}, before it should.")
            yield piece
            offset += len(piece)
            left -= len(piece)

    def close(self) -> None:
        self._file.close()
