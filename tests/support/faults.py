"""Fault injection: one system call of this process, chosen by its number, fails with a chosen error."""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from artstore_local import disk

SHORT = -1
FULL = (errno.ENOSPC, errno.EDQUOT)
_CREATES = (errno.EIO, *FULL)
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.EIO, errno.EMFILE, *FULL),
    "write": (errno.EIO, SHORT, *FULL),
    "pwrite": (errno.EIO, *FULL),
    "fsync": (errno.EIO, errno.EROFS, *FULL),
    "fdatasync": (errno.EIO, *FULL),
    "rename": (*_CREATES, errno.EROFS),
    "renameat2": _CREATES,
    "mkdir": _CREATES,
    "link": _CREATES,
    "unlink": (errno.EIO,),
    "rmdir": (errno.EIO,),
    "ftruncate": (errno.EIO,),
    "stat": (errno.EIO,),
    "lstat": (errno.EIO,),
    "statvfs": (errno.EIO,),
    "read": (errno.EIO,),
    "pread": (errno.EIO,),
    "listdir": (errno.EIO, errno.EMFILE),
    "scandir": (errno.EIO, errno.EMFILE),
    "flock": (errno.EIO,),
    "posix_fallocate": (errno.EIO, *FULL),
}
"""Every error that a call can fail with. SHORT: only a part is written."""


class Faults:
    """Stands between the store and the system. The `at`-th call since `arm` fails with its `kind`-th error."""

    def __init__(self, within: Path | None = None) -> None:
        """`within`: only calls that touch something in that directory are counted."""
        self._within = None if within is None else str(within)
        self._lock = threading.Lock()
        self._at = self._kind = self._count = 0
        self.hit: tuple[str, str] | None = None
        """The call that failed, and the name of its error."""
        self.kinds = 1
        """How many errors that call can have."""
        self._creations: dict[int, int] = {}
        self._unsynced: set[tuple[int, int]] = set()
        self.resynced: list[str] = []
        """Files that were fsynced again after an fsync of theirs had failed."""
        for name in ERRORS:
            if hasattr(os, name):
                setattr(os, name, self._wrap(name, getattr(os, name)))
        fcntl.flock = self._wrap("flock", fcntl.flock)  # type: ignore[assignment]
        builtins.open = io.open = self._wrap("open", builtins.open)
        assert disk._renameat2 is not None
        disk._renameat2 = self._wrap("renameat2", disk._renameat2)  # type: ignore[assignment]

    def arm(self, at: int, kind: int) -> None:
        self._at, self._kind, self._count, self.hit, self.kinds = at, kind, 0, None, 1

    def disarm(self) -> None:
        self._at = 0

    def forget_syncs(self) -> None:
        """Stand for a restart: a new process cannot know which fsync failed in the old one."""
        with self._lock:
            self._unsynced.clear()

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            error = self._next_error(name) if self._counts(args, kwargs) else None
            if name in ("fsync", "fdatasync"):
                self._record_sync(args[0], error)
            if error == SHORT:
                return real(args[0], bytes(args[1])[: max(1, len(args[1]) // 2)])
            if error is not None and name == "renameat2":
                disk.ctypes.set_errno(error)
                return -1
            if error is not None:
                raise OSError(error, os.strerror(error))
            result = real(*args, **kwargs)
            if name == "open" and isinstance(result, int) and len(args) > 1 and args[1] & os.O_EXCL:
                with self._lock:
                    number = os.fstat(result).st_ino
                    self._creations[number] = self._creations.get(number, 0) + 1
            return result

        return call

    def _counts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self._within is None or not self._at:
            return True
        path = args[0] if args else "."
        where = kwargs.get("src_dir_fd", kwargs.get("dir_fd"))
        if where is None or (isinstance(path, str) and path.startswith("/")):
            where = path.fileno() if hasattr(path, "fileno") else path
        if isinstance(where, int):
            where = os.readlink(f"/proc/self/fd/{where}")
        return os.fsdecode(where).startswith(self._within)

    def _next_error(self, name: str) -> int | None:
        with self._lock:
            if not self._at:
                return None
            self._count += 1
            if self._count != self._at:
                return None
            self._at = 0
            self.kinds = len(ERRORS[name])
            error = ERRORS[name][min(self._kind, self.kinds - 1)]
            self.hit = (name, errno.errorcode.get(error, "short"))
            return error

    def _record_sync(self, fd: int, error: int | None) -> None:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            return  # its next entry is another change, which is written again
        if os.readlink(f"/proc/self/fd/{fd}").endswith("-wal"):
            return  # SQLite creates and removes it, so another file may have its number; test_sql_cache checks it
        with self._lock:
            file = (status.st_ino, self._creations.get(status.st_ino, 0))
            if file in self._unsynced:
                self.resynced.append(os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2])
            if error is not None:
                self._unsynced.add(file)
