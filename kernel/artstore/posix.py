"""What the system calls of POSIX are to us: owned files, fsync of a directory, and errors in our words."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artstore.errors import DISK_FULL_ERRNOS, StorageFull, Unavailable, startup_error


class OwnedFile:
    """A file that one open descriptor owns, by `flock`, from `create` or `seize` until `close` or the process's death.

    A file that nobody owns was left by a dead process: `seize` takes it over. A child that inherits the descriptor
    owns it too, so it is opened close-on-exec. An instance belongs to one thread at a time.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        """-1 once the file is no longer owned."""

    @classmethod
    def create(cls, path: Path, mode: int = 0o640) -> OwnedFile:
        """Create `path` and own it. Nothing is durable. Raises `FileExistsError` and other `OSError`s.

        A process that seizes the file between its creation and its lock removes or renames it: then it is made again.
        """
        while True:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                if _lock_in_place(fd, path):
                    return cls(path, fd)
            except BaseException:
                os.close(fd)
                path.unlink(missing_ok=True)
                raise
            os.close(fd)

    @classmethod
    def seize(cls, path: Path) -> OwnedFile | None:
        """Own a file that a dead process left; None when a live one owns it or it is gone. Raises `OSError`."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            if _lock_in_place(fd, path):
                return cls(path, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def remove(self) -> None:
        """Remove the file, then give it up: nobody can seize it in between. A second call has no effect."""
        if self.fd >= 0:
            self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Give the file up and leave it: another process may seize it. A second call has no effect."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _lock_in_place(fd: int, path: Path) -> bool:
    """Lock `fd`; return whether it is locked and still the file at `path`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(fd).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turn an `OSError` into `StorageFull` or `Unavailable`. `what` begins the sentence of the error."""
    try:
        yield
    except OSError as e:
        kind = StorageFull if e.errno in DISK_FULL_ERRNOS else Unavailable
        raise kind(f"{what}: {os.strerror(e.errno or 0)}.") from e


@contextmanager
def translate_startup_errors(directory: Path, name: str = "directory") -> Iterator[None]:
    """The same for a directory of the home at start: what the operator can mend is a `ConfigError`."""
    try:
        yield
    except OSError as e:
        raise startup_error(
            e,
            f"The {name} {directory} cannot be used",
            place="--home or ARTSTORE_HOME",
            cure="Make it a directory that this user may read and write.",
        ) from e
