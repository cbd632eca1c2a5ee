"""The store as a tree of directories. It is walked name by name: never through a link, never out of the store."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from artstore.attr import SIDECAR_SUFFIX
from artstore.ids import Key
from artstore.spi import INTERNAL, Entry
from artstore_local import disk
from artstore_local.fsync import Syncer

_FSCK = "lost+found"
"""In the root of a volume; only fsck reads it."""
_NOT_A_NAME = frozenset({"", ".", ".."})


class Tree:
    """The directories below `root`. Used by many threads.

    Descriptors are opened for each use, so that a tree that an operator has just restored from a copy is seen as it is.
    """

    def __init__(self, root: str, syncer: Syncer) -> None:
        self.root = os.open(root, disk.DIRECTORY)
        self._syncer = syncer
        self._made: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def open(self, directory: str) -> Iterator[int]:
        """Yield a descriptor of `directory`. Raises `FileNotFoundError`; `OSError(ELOOP, ENOTDIR)` for a link."""
        parts = directory.split("/")
        if parts[0] == INTERNAL or not _NOT_A_NAME.isdisjoint(parts):
            raise FileNotFoundError(errno.ENOENT, "not a directory of files", directory)
        fd = self.root
        try:
            for part in parts:
                parent, fd = fd, os.open(part, disk.DIRECTORY, dir_fd=fd)
                if parent != self.root:
                    os.close(parent)
            yield fd
        finally:
            if fd != self.root:
                os.close(fd)

    def make(self, directory: str) -> None:
        """Make `directory` with its parents; durable on return. Costs nothing when this process has made it before."""
        if directory in self._made:
            return
        with self._lock:
            fd = self.root
            try:
                for part in directory.split("/"):
                    try:
                        os.mkdir(part, 0o750, dir_fd=fd)
                    except FileExistsError:
                        pass
                    # Also when it existed: another process may have made it a moment ago and not synced it yet.
                    self._syncer.fsync(fd)
                    parent, fd = fd, os.open(part, disk.DIRECTORY, dir_fd=fd)
                    if parent != self.root:
                        os.close(parent)
            finally:
                if fd != self.root:
                    os.close(fd)
            self._made.add(directory)

    def forget_made(self, directory: str) -> None:
        """Let the next `make` of `directory` make it again: it was removed, and not by this process."""
        self._made.discard(directory)

    def list(self, directory: str) -> Iterator[Entry]:
        """Yield what `directory` holds, by key and in no order. A directory that does not exist holds nothing."""
        try:
            with self.open(directory) as fd, os.scandir(fd) as entries:
                is_directory = {e.name: e.is_dir(follow_symlinks=False) for e in entries}
        except FileNotFoundError:
            return
        names = {n for n, is_dir in is_directory.items() if not is_dir}
        # A directory that lies where the data or the sidecar of a file should be counts as that half of the file. Any
        # other directory is one of the tree.
        halves = {n + SIDECAR_SUFFIX for n in names} | {n.removesuffix(SIDECAR_SUFFIX) for n in names}
        names |= halves & is_directory.keys()
        keys = {n.removesuffix(SIDECAR_SUFFIX) for n in names}
        for name in keys:
            yield Entry(
                key=Key(f"{directory}/{name}"), data=name in names, sidecar=name + SIDECAR_SUFFIX in names
            )

    def list_directories(self, since: str) -> Iterator[str]:
        """Yield the directories that hold files, sorted, from `since` on. Raises `Unavailable`."""
        yield from self._below("", since)

    def _below(self, directory: str, since: str) -> Iterator[str]:
        if directory and directory < since[: len(directory)]:
            return
        try:
            fd = os.open(directory or ".", disk.DIRECTORY, dir_fd=self.root)
            try:
                with os.scandir(fd) as found:
                    entries = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in found)
            finally:
                os.close(fd)
        except OSError as e:
            # One that was removed meanwhile, and a link, hold no files of ours. One that cannot be read may hold some,
            # so `list` raises for it: if it were skipped here, its files would count as lost.
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) or directory == _FSCK:
                return
            if not directory:
                raise
            yield directory
            return
        if directory >= since and directory and not all(is_dir for _, is_dir in entries):
            yield directory
        for name, is_dir in entries:
            if is_dir and not (directory == "" and name == INTERNAL):
                yield from self._below(f"{directory}/{name}" if directory else name, since)

    def list_root(self) -> Iterator[Entry]:
        """Yield what is in the root and is no directory. No key leads there."""
        with os.scandir(self.root) as found:
            names = sorted(e.name for e in found if not e.is_dir(follow_symlinks=False))
        yield from (Entry(key=Key(name), data=True, sidecar=False) for name in names)

    def close(self) -> None:
        root, self.root = self.root, -1
        disk.close(root)
