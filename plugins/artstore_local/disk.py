"""The few things that a disk is asked to do, and what each is worth after a power cut.

Sources: POSIX rename() and fsync(); Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014):
a name is durable only once its directory was fsynced; Rebello et al., "Can Applications Recover from fsync
Failures?" (ATC 2020): a failed fsync must not be tried again.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artstore.errors import (
    DISK_FULL_ERRNOS,
    ArtstoreError,
    Damaged,
    NotFound,
    StorageFull,
    TooLarge,
    Unavailable,
)

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1

_NOT_PLAIN = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turn an `OSError` into the error of `artstore.errors` that tells what happened to `what`."""
    try:
        yield
    except OSError as e:
        raise translate(e, what) from e


def translate(error: OSError, what: str) -> ArtstoreError:
    """Return the error: the disk is full, `what` is too large, is missing or no plain file, or the disk failed."""
    if error.errno in DISK_FULL_ERRNOS:
        return StorageFull(f"There is no space left for {what}.")
    if error.errno == errno.EFBIG:  # of the file system (FAT: 4 GiB), or of this process (RLIMIT_FSIZE)
        return TooLarge(f"The disk can hold no file as large as {what}.")
    if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
        return NotFound(f"There is no {what}.")
    if error.errno in _NOT_PLAIN:
        return Damaged(f"The place of {what} holds something that is not a plain file or directory.")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return Unavailable(f"The disk failed at {what}: {reason}.")


def max_file_size() -> int | None:
    """Return the most bytes that this process may write to a file, or None when there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def write_all(fd: int, piece: bytes | bytearray | memoryview) -> None:
    """Write every byte, also when the system writes fewer at a time."""
    written = os.write(fd, piece)
    if written < len(piece):
        rest = memoryview(piece)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def open_directory(path: Path, *, missing: bool = False) -> int:
    """Return a descriptor of a directory, or -1 when it does not exist and may be `missing`."""
    try:
        return os.open(path, DIRECTORY)
    except FileNotFoundError:
        if missing:
            return -1
        raise


def close(fd: int) -> None:
    """Close a descriptor; -1 stands for none."""
    if fd >= 0:
        os.close(fd)


def create(path: str, dir_fd: int) -> int:
    """Create a file and return a descriptor to write to. Raises `FileExistsError`."""
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640, dir_fd=dir_fd
    )


def open_plain(name: str, dir_fd: int) -> int:
    """Open a plain file for reading, following no link. Raises `OSError(ELOOP)` for anything else."""
    # O_NONBLOCK: if the name is a FIFO, opening it must not wait for a writer.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.ELOOP, "not a plain file", name)


@contextmanager
def lock_file(name: str, dir_fd: int) -> Iterator[int]:
    """Open a plain file for reading and lock it. Every process that replaces or moves the file holds this lock."""
    while True:
        fd = open_plain(name, dir_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=dir_fd, follow_symlinks=False)):
                yield fd
                return
        finally:
            os.close(fd)


def fsync_parents(path: Path) -> None:
    """Make every name on the way to the directory `path` durable, also those that another process made."""
    for directory in (path, *path.parents):
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:  # then this process did not make the name either
            continue
        try:
            os.fsync(fd)
        except OSError as e:
            if e.errno not in (
                errno.EINVAL,
                errno.EROFS,
            ):  # a directory that cannot be synced cannot be written
                raise
        finally:
            os.close(fd)


def exists(name: str, dir_fd: int) -> bool:
    """Return whether anything, a dangling link included, has this name."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def differ(one: str, one_dir_fd: int, other: str, other_dir_fd: int) -> bool:
    """Return whether both names exist and are names of two different files."""
    try:
        return not os.path.samestat(
            os.stat(one, dir_fd=one_dir_fd, follow_symlinks=False),
            os.stat(other, dir_fd=other_dir_fd, follow_symlinks=False),
        )
    except FileNotFoundError:
        return False


def unlink(name: str, dir_fd: int) -> None:
    """Remove a name. A name that does not exist is no error."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass


def _load_renameat2() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


_renameat2 = _load_renameat2()


def rename_new(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Rename, and never replace anything. Raises `FileExistsError`, `FileNotFoundError`."""
    if _renameat2 is not None:
        old, new = os.fsencode(source), os.fsencode(target)
        if _renameat2(src_dir_fd, old, dst_dir_fd, new, _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), target)
    # A file system without RENAME_NOREPLACE: link() refuses a taken name too.
    os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)
    os.unlink(source, dir_fd=src_dir_fd)
