"""The store as a tree of directories: walked part by part, never through a link, never outside."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import NotFound
from artstore.ids import Key
from artstore.spi import Entry
from artstore_local import disk
from artstore_local.fsync import Health

INTERNAL = ".artstore"
_FSCK = "lost+found"
"""At the root of a volume, for nobody but fsck."""
_NOWHERE = frozenset({"", ".", ".."})


_PART = r"(?!\.{1,2}(?:/|$))[^/\0]+"
_KEY = re.compile(
    rf"(?!{re.escape(INTERNAL)}/)({_PART}(?:/{_PART})*)/({_PART})(?<!{re.escape(SIDECAR_SUFFIX)})"
)


def split(key: Key) -> tuple[str, str]:
    """Directory and name of a key. Raises `NotFound` for what cannot be one: nothing lies there."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise NotFound(f"There is no {key}.")
    return found[1], found[2]


class Tree:
    """The directories below `root`. Descriptors are opened for each use: a tree that was restored under us
    is seen as it is, not as it was."""

    def __init__(self, root: str, health: Health) -> None:
        self.root = os.open(root, disk.DIRECTORY)
        self._health = health
        self._made: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def open(self, directory: str) -> Iterator[int]:
        """A descriptor of `directory`. Raises `FileNotFoundError`, `OSError(ELOOP, ENOTDIR)` for a link."""
        parts = directory.split("/")
        if parts[0] == INTERNAL or not _NOWHERE.isdisjoint(parts):
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
        """Make `directory`; durable on return. Costs nothing when this process made it before."""
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
                    # Also for one that was there: a neighbour may have made it a moment ago, unsynced.
                    self._health.fsync(fd)
                    parent, fd = fd, os.open(part, disk.DIRECTORY, dir_fd=fd)
                    if parent != self.root:
                        os.close(parent)
            finally:
                if fd != self.root:
                    os.close(fd)
            self._made.add(directory)

    def forget_made(self, directory: str) -> None:
        """Somebody removed `directory` under us: make it again next time."""
        self._made.discard(directory)

    def scan(self, directory: str) -> Iterator[Entry]:
        """What lies in `directory`, by key."""
        try:
            with self.open(directory) as fd, os.scandir(fd) as entries:
                places = {e.name: e.is_dir(follow_symlinks=False) for e in entries}
        except FileNotFoundError:
            return
        names = {n for n, is_dir in places.items() if not is_dir}
        # A directory where data or a sidecar should be belongs to its other half; any other is a place of its own.
        halves = {n + SIDECAR_SUFFIX for n in names} | {n.removesuffix(SIDECAR_SUFFIX) for n in names}
        names |= halves & places.keys()
        keys = {n.removesuffix(SIDECAR_SUFFIX) for n in names}
        for name in keys:
            yield Entry(
                key=Key(f"{directory}/{name}"), data=name in names, sidecar=name + SIDECAR_SUFFIX in names
            )

    def directories(self, since: str) -> Iterator[str]:
        """Directories that hold files, sorted, from `since` on."""
        yield from self._below("", since)

    def _below(self, directory: str, since: str) -> Iterator[str]:
        if directory and directory < since[: len(directory)]:
            return
        try:
            fd = os.open(directory or ".", disk.DIRECTORY, dir_fd=self.root)
        except OSError as e:
            # Removed meanwhile, or a link: neither holds files of ours. One that cannot be read may: whoever
            # passed over it would take its files for lost.
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) or directory == _FSCK:
                return
            raise disk.translate(e, directory) from e
        try:
            with os.scandir(fd) as found:
                entries = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in found)
        finally:
            os.close(fd)
        if directory >= since and directory and not all(is_dir for _, is_dir in entries):
            yield directory
        for name, is_dir in entries:
            if is_dir and not (directory == "" and name == INTERNAL):
                yield from self._below(f"{directory}/{name}" if directory else name, since)

    def foreign(self) -> Iterator[Entry]:
        """Yield what lies in the root and is no directory: no key leads there."""
        with os.scandir(self.root) as found:
            names = sorted(e.name for e in found if not e.is_dir(follow_symlinks=False))
        yield from (Entry(key=Key(name), data=True, sidecar=False) for name in names)

    def close(self) -> None:
        if self.root >= 0:
            os.close(self.root)
            self.root = -1
