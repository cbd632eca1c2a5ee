"""Writes down, in their order, all operations by which processes change a directory, and what they acknowledged.

The calls of `os` are wrapped, `renameat2` and whatever else goes past them too; one lock, shared by all threads and
processes, keeps an operation and its line on the tape together. What SQLite does in C is not seen: instead its files
are copied after each commit, while the right to write is still held. `test_power.py` compares the tape with
the directory itself, so that nothing can go past it unnoticed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pickle
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artstore_local import disk
from artstore_sql.sqlite import writer as sql_writer

DEAD = 99
_RAW = {name: getattr(os, name) for name in (
    "open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "rename", "replace", "unlink", "remove", "link",
    "mkdir", "rmdir", "close", "lseek", "fstat", "stat", "lstat", "pread", "readlink", "posix_fallocate",
)}  # fmt: skip

Fault = Callable[[str, str], OSError | int | None]
"""What becomes of an operation (its name, the path it is done to) before it is done; of a write, how much is done."""


class Tape:
    """The record of everything below `root`; one for all processes forked after it was made."""

    def __init__(self, root: Path, place: Path) -> None:
        self.root = root
        self._device = root.stat().st_dev
        self._place = place
        self._log = _RAW["open"](place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._mutex = threading.RLock()
        self._locks: dict[int, int] = {}
        self._kept: dict[tuple[int, int], int] = {}
        self.fault: Fault = lambda _op, _path: None

    def read(self) -> list[tuple[Any, ...]]:
        found = []
        with self._place.open("rb") as f:
            while True:
                try:
                    found.append(pickle.load(f))
                except EOFError:
                    return found

    def add(self, *record: Any) -> None:
        with self.alone():
            _RAW["write"](self._log, pickle.dumps(record))

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._mutex:
            pid = os.getpid()
            if pid not in self._locks:  # flock belongs to the open file, and forked processes share those
                self._locks[pid] = _RAW["open"](f"{self._place}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fd = self._locks[pid]
            held = getattr(self, "_held", False)
            if not held:
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._held = True
            try:
                yield
            finally:
                if not held:
                    self._held = False
                    fcntl.flock(fd, fcntl.LOCK_UN)

    # --- places ---

    def _parent(self, path: Any, dir_fd: int | None) -> tuple[int, str] | None:
        """The directory (its inode) and the name, when it is a place of ours."""
        text = os.fsdecode(path)
        head, _, name = text.rpartition("/")
        if dir_fd is None and (not text.startswith(f"{self.root}/") or "/state/metrics/" in text):
            return None  # counters are mapped into memory, and of no concern after power loss
        if head:
            seen = _RAW["stat"](head or "/", dir_fd=dir_fd)
        elif dir_fd is not None:
            seen = _RAW["fstat"](dir_fd)
        else:
            return None
        if seen.st_dev != self._device or name.startswith("cache.db"):
            return None
        return seen.st_ino, name

    def _full(self, path: Any, dir_fd: int | None) -> str:
        text = os.fsdecode(path)
        return text if dir_fd is None else f"{_RAW['readlink'](f'/proc/self/fd/{dir_fd}')}/{text}"

    def _strike(self, op: str, path: str) -> int | None:
        found = self.fault(op, path)
        if isinstance(found, OSError):
            raise found
        return found

    # --- the calls ---

    def install(self) -> None:
        """From here on this process is recorded."""
        for name in ("open", "write", "pwrite", "ftruncate", "rename", "unlink", "link", "mkdir", "rmdir"):
            setattr(os, name, getattr(self, f"_{name}"))
        os.posix_fallocate = self._posix_fallocate
        os.replace = self._rename
        os.remove = self._unlink
        os.fsync = lambda fd: self._sync("fsync", fd)
        os.fdatasync = lambda fd: self._sync("fdatasync", fd)
        disk._renameat2 = self._renameat2  # type: ignore[assignment]
        commit, tape = sql_writer.Writer._commit, self

        def committed(writer: Any, jobs: Any) -> Any:
            done = commit(writer, jobs)
            tape.add("cache", _copy(os.fspath(writer._database.path), tape._kept))
            return done

        sql_writer.Writer._commit = committed  # type: ignore[method-assign]

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if not flags & (os.O_CREAT | os.O_TRUNC):
            return _RAW["open"](path, flags, mode, dir_fd=dir_fd)
        with self.alone():
            place = self._parent(path, dir_fd)
            if place is None:
                return _RAW["open"](path, flags, mode, dir_fd=dir_fd)
            try:
                _RAW["lstat"](path, dir_fd=dir_fd)
                there = True
            except FileNotFoundError:
                there = False
                self._strike("create", self._full(path, dir_fd))
            fd: int = _RAW["open"](path, flags, mode, dir_fd=dir_fd)
            if not there:
                self.add("create", *place, _RAW["fstat"](fd).st_ino)
            elif flags & os.O_TRUNC:
                self.add("truncate", _RAW["fstat"](fd).st_ino, 0)
            return fd

    def _file(self, fd: int) -> int | None:
        seen = _RAW["fstat"](fd)
        return seen.st_ino if seen.st_dev == self._device and stat.S_ISREG(seen.st_mode) else None

    def _write(self, fd: int, data: Any) -> int:
        ino = self._file(fd)
        if ino is None:
            return _RAW["write"](fd, data)
        with self.alone():
            most = self._strike("write", _RAW["readlink"](f"/proc/self/fd/{fd}"))
            n: int = _RAW["write"](fd, memoryview(data)[:most])
            self.add("write", ino, _RAW["lseek"](fd, 0, os.SEEK_CUR) - n, bytes(memoryview(data)[:n]))
            return n

    def _pwrite(self, fd: int, data: bytes, offset: int) -> int:
        with self.alone():
            n: int = _RAW["pwrite"](fd, data, offset)
            self.add("write", self._file(fd), offset, bytes(data[:n]))
            return n

    def _ftruncate(self, fd: int, size: int) -> None:
        with self.alone():
            _RAW["ftruncate"](fd, size)
            self.add("truncate", self._file(fd), size)

    def _posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        with self.alone():
            _RAW["posix_fallocate"](fd, offset, size)
            if "/state/metrics/" not in _RAW["readlink"](f"/proc/self/fd/{fd}"):
                self.add("truncate", self._file(fd), _RAW["fstat"](fd).st_size)

    def _sync(self, name: str, fd: int) -> None:
        with self.alone():
            ino, path = _RAW["fstat"](fd).st_ino, _RAW["readlink"](f"/proc/self/fd/{fd}")
            try:
                self._strike(name, path)
                _RAW[name](fd)
            except OSError:
                self.add("sync", ino, False)
                raise
            if path.endswith("/cache.db-wal"):
                self.add("cache synced", _copy(path.removesuffix("-wal"), self._kept))
            else:
                self.add("sync", ino, True)

    def _rename(self, old: Any, new: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None) -> None:
        with self.alone():
            self._strike("rename", self._full(new, dst_dir_fd))
            _RAW["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            self._note("rename", old, src_dir_fd, new, dst_dir_fd)

    def _renameat2(self, old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> int:
        with self.alone():
            try:
                self._strike("rename", self._full(new, new_fd))
            except OSError as e:
                ctypes.set_errno(e.errno or 5)
                return -1
            code: int = _RENAMEAT2(old_fd, old, new_fd, new, flags)
            if code == 0:
                self._note("rename", old, old_fd, new, new_fd)
            return code

    def _link(
        self, old: Any, new: Any, *, src_dir_fd: Any = None, dst_dir_fd: Any = None, **more: Any
    ) -> None:
        with self.alone():
            _RAW["link"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **more)
            self._note("link", old, src_dir_fd, new, dst_dir_fd)

    def _note(self, what: str, old: Any, old_fd: int | None, new: Any, new_fd: int | None) -> None:
        source, target = self._parent(old, old_fd), self._parent(new, new_fd)
        if source is not None and target is not None:
            self.add(what, *source, *target)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self.alone():
            place = self._parent(path, dir_fd)
            if place is not None:
                _RAW["lstat"](path, dir_fd=dir_fd)
                self._strike("unlink", self._full(path, dir_fd))
            _RAW["unlink"](path, dir_fd=dir_fd)
            if place is not None:
                self.add("unlink", *place)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self.alone():
            place = self._parent(path, dir_fd)
            _RAW["mkdir"](path, mode, dir_fd=dir_fd)
            if place is not None:
                self.add("mkdir", *place, _RAW["stat"](path, dir_fd=dir_fd).st_ino)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self.alone():
            place = self._parent(path, dir_fd)
            _RAW["rmdir"](path, dir_fd=dir_fd)
            if place is not None:
                self.add("unlink", *place)


_RENAMEAT2 = disk._renameat2
assert _RENAMEAT2 is not None


def _copy(path: str, kept: dict[tuple[int, int], int]) -> tuple[bytes, bytes]:
    """The database and its WAL as they lie there. A descriptor of the database is never closed: that would drop the
    locks that SQLite holds in this process."""

    def whole(name: str) -> bytes:
        try:
            seen = _RAW["stat"](name)
        except FileNotFoundError:
            return b""
        owner = (os.getpid(), seen.st_ino)
        if owner not in kept:
            kept[owner] = _RAW["open"](name, os.O_RDONLY | os.O_CLOEXEC)
        return _RAW["pread"](kept[owner], seen.st_size, 0)  # type: ignore[no-any-return]

    return whole(path), whole(f"{path}-wal")
