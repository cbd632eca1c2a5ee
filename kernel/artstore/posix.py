"""Owned files, fsync of a directory, and the translation of an `OSError` into an error of `artstore.errors`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artstore.errors import DISK_FULL_ERRNOS, StorageFull, Unavailable, startup_error


class OwnedFile:
    """A file that at most one live process owns.

    The owner holds an exclusive `flock` through an open descriptor, until `close` or its death. A file without an
    owner was left by a process that died or closed it, and another process may take it over. A child process that
    inherits the descriptor would own the file too; it is opened close-on-exec, so only a plain fork does. An instance
    belongs to one thread at a time.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        """Open for reading and for appending; -1 once the file is given up."""

    @classmethod
    def create(cls, path: Path, mode: int = 0o640) -> OwnedFile:
        """Create `path` and own it. Nothing is durable. Raises `FileExistsError` and other `OSError`s.

        Another process may seize the file after it was created and before it is locked, and remove or rename it: then
        it is created again.
        """
        while True:
            fd = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, mode)
            try:
                if _lock_in_place(fd, path):
                    return cls(path, fd)
            except BaseException:
                os.close(fd)
                path.unlink(missing_ok=True)
                raise
            os.close(fd)

    @classmethod
    def acquire(cls, path: Path, mode: int = 0o640) -> OwnedFile | None:
        """Own the file at `path`, and create it if it does not exist. Raises `OSError`.

        Returns None when a live process owns it, or when its owner has removed it at this moment.
        """
        return cls._open(path, os.O_CREAT, mode)

    @classmethod
    def seize(cls, path: Path) -> OwnedFile | None:
        """Own a file that exists. Returns None when a live process owns it, or when it is gone. Raises `OSError`."""
        try:
            return cls._open(path, 0, 0)
        except FileNotFoundError:
            return None

    @classmethod
    def _open(cls, path: Path, flags: int, mode: int) -> OwnedFile | None:
        fd = os.open(path, _OPEN | flags, mode)
        try:
            if _lock_in_place(fd, path):
                return cls(path, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def remove(self) -> None:
        """Remove the file, then give it up: no process can seize it in between. A second call has no effect."""
        if self.fd >= 0:
            self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Give the file up and leave it in its place: another process may seize it. A second call has no effect."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


_OPEN = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def _lock_in_place(fd: int, path: Path) -> bool:
    """Lock `fd`. Return whether that worked and `fd` is still the file at `path`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(fd).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def fsync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turn an `OSError` into `StorageFull` or `Unavailable`. The sentence of the error begins with `what`."""
    try:
        yield
    except OSError as e:
        kind = StorageFull if e.errno in DISK_FULL_ERRNOS else Unavailable
        raise kind(f"{what}: {os.strerror(e.errno or 0)}.") from e


@contextmanager
def translate_startup_errors(directory: Path, name: str = "directory") -> Iterator[None]:
    """Do the same for a directory of the home at start. What the operator can mend becomes a `ConfigError`."""
    try:
        yield
    except OSError as e:
        raise startup_error(
            e,
            f"The {name} {directory} cannot be used",
            place="--home or ARTSTORE_HOME",
            cure="Make it a directory that this user may read and write.",
        ) from e
