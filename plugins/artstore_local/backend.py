"""The backend `local`: data and sidecars as plain files that people can read, copy and back up."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from artstore.attr import SIDECAR_LIMIT, SIDECAR_SUFFIX
from artstore.errors import (
    DISK_FULL_ERRNOS,
    Conflict,
    NotFound,
    PreconditionFailed,
    Unavailable,
    startup_error,
)
from artstore.ids import Key
from artstore.spi import API, PIECE, Backend, Capabilities, Context, Entry, Recoverable, Recovered
from artstore_local import disk, reaping, staging
from artstore_local.fsync import Health
from artstore_local.home_lock import alone, occupy
from artstore_local.preallocation import Ahead
from artstore_local.reader import LocalReader
from artstore_local.reserve import Reserve
from artstore_local.staging import Staging, staged_key, staged_name
from artstore_local.tree import INTERNAL, Tree, split
from artstore_local.writer import Committer, LocalWriter

_TOMB = "trash"
_QUARANTINE = "quarantine"


class LocalBackend(Backend, Recoverable):
    """A directory on a local disk. See `disk.py` for what each step is worth after a power cut."""

    API: ClassVar[int] = API
    capabilities = Capabilities(durable=True, atomic_sidecar=True, shared=False)

    class Settings(BaseModel, extra="forbid"):
        """`[backend.local]`"""

        root: Path | None = None
        """Where the files lie; `files` below the home unless set."""

    def __init__(self, settings: Settings, context: Context) -> None:
        root = (settings.root or context.files).absolute()
        self._health = Health()
        try:
            with ExitStack() as held:
                if not context.read_only:
                    root.mkdir(mode=0o750, parents=True, exist_ok=True)
                    for name in ("staging", _TOMB, _QUARANTINE):
                        (root / INTERNAL / name).mkdir(mode=0o750, parents=True, exist_ok=True)
                    disk.fsync_up(root)
                self._tree = Tree(os.fspath(root), self._health)
                held.callback(self._tree.close)
                # Not all of them are in a copy that is only looked at: some tools leave empty directories out.
                self._internal = disk.open_directory(root / INTERNAL, missing=context.read_only)
                held.callback(disk.close, self._internal)
                self._trash = disk.open_directory(root / INTERNAL / _TOMB, missing=context.read_only)
                held.callback(disk.close, self._trash)
                if not context.read_only:
                    os.fsync(self._internal)
                    held.callback(os.close, home := occupy(root, context.home))
                self._reserve = Reserve(-1 if context.read_only else self._internal)
                held.callback(self._reserve.close)
                self._staging = Staging(root, claim=not context.read_only)
                held.callback(self._staging.close)
                self._home = -1 if context.read_only else home
                self._held = held.pop_all()
        except OSError as e:
            cure = "Make it a directory that this user may read and write."
            raise startup_error(
                e, f"The store {root} cannot be used", place="backend.local.root", cure=cure
            ) from e
        self._root = root
        self._path = os.fspath(root)
        self._committer = Committer(self._tree, self._health)
        self._ahead = Ahead(self._internal)
        self._records: dict[str, tuple[tuple[int, ...], bytes]] = {}
        self._writes_record = threading.Lock()
        self._entombed: set[str] = set()
        """Keys whose tombstones this process made durable."""
        self._emptied: set[str] = set()
        """Directories where data was removed and nothing was synced since."""
        self._closed = False

    def create(self, key: Key) -> LocalWriter:
        directory, name = split(key)
        self._health.require()
        with disk.translated("a new file"):
            self._tree.make(directory)
            # A tombstone takes the name as well: who finishes that deletion must not meet a successor's data.
            if (
                os.path.lexists(f"{self._path}/{key}")
                or os.path.lexists(f"{self._path}/{key}{SIDECAR_SUFFIX}")
                or disk.exists(staged_name(key) + SIDECAR_SUFFIX, self._trash)
            ):
                raise Conflict(f"The name {name} is taken.")
            try:
                return LocalWriter(key, self._staging, self._committer, self._health, self._ahead)
            except FileExistsError:
                raise Conflict(f"The name {name} is taken.") from None

    def read_sidecar(self, key: Key) -> bytes:
        directory, name = split(key)
        with disk.translated(f"sidecar of {key}"), self._tree.open(directory) as fd:
            return _read_small(name + SIDECAR_SUFFIX, fd, SIDECAR_LIMIT + 1)

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        with self._unchanged(key, if_match) as (fd, name):
            self._write_durably(staging.UPDATE + staged_name(key) + SIDECAR_SUFFIX, sidecar, fd, name)

    @contextmanager
    def _unchanged(self, key: Key, old: bytes) -> Iterator[tuple[int, str]]:
        """The directory and the name of a sidecar that is `old`, and stays so but for what is done within."""
        directory, name = split(key)
        self._health.require()
        with (
            disk.translated(f"sidecar of {key}"),
            self._tree.open(directory) as fd,
            disk.held(name + SIDECAR_SUFFIX, fd) as sidecar,
        ):
            if os.read(sidecar, SIDECAR_LIMIT + 1) != old:
                raise PreconditionFailed("The file was changed meanwhile.")
            yield fd, name + SIDECAR_SUFFIX

    def _write_durably(self, temp: str, content: bytes, target: int, name: str) -> None:
        """Temp, write, fsync, rename, fsync of the directory."""
        shard = self._staging.shard()
        disk.unlink(temp, shard)
        try:
            fd = disk.create(temp, shard)
            try:
                disk.write_all(fd, content)
                self._health.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temp, name, src_dir_fd=shard, dst_dir_fd=target)
            self._health.fsync(target)
        finally:
            disk.unlink(temp, shard)

    def delete(self, key: Key, *, if_match: bytes) -> None:
        tomb = staged_name(key) + SIDECAR_SUFFIX
        with self._unchanged(key, if_match) as (fd, name):
            self._reserve.rename(name, tomb, src_dir_fd=fd, dst_dir_fd=self._trash)
            # The trace before the loss: were the name's removal durable alone, nobody would know of the data.
            try:
                self._health.fsync(self._trash)
            except OSError:
                # Not deleted, then; or the next fsync of this directory would take the last name away.
                os.rename(tomb, name, src_dir_fd=self._trash, dst_dir_fd=fd)
                raise
            self._health.fsync(fd)
        self._entombed.add(key)

    def delete_data(self, key: Key) -> None:
        directory, name = split(key)
        try:
            with disk.translated(key), self._tree.open(directory) as fd:
                if disk.exists(name + SIDECAR_SUFFIX, fd):
                    return
                if key not in self._entombed:
                    # Whoever took the sidecar away may have died before that was durable: it could come back.
                    self._health.fsync(self._trash)
                    self._health.fsync(fd)
                disk.unlink(name, fd)
        except NotFound:
            pass
        self._emptied.add(directory)
        self._reserve.keep()

    def list_tombstones(self) -> Iterator[Key]:
        with disk.translated("the trash"):
            names = os.listdir(self._trash) if self._trash >= 0 else []
        for name in names:
            key = staged_key(name)
            if key is not None:
                yield key

    def purge(self, key: Key) -> None:
        directory, _ = split(key)
        with disk.translated("the trash"):
            if directory in self._emptied:  # one fsync for all that were removed there
                self._emptied.discard(directory)
                try:
                    # The data's removal first: were the tombstone's durable alone, nobody would know of the data.
                    with self._tree.open(directory) as fd:
                        self._health.fsync(fd)
                except FileNotFoundError:
                    pass
                except OSError:
                    self._emptied.add(directory)
                    raise
            disk.unlink(staged_name(key) + SIDECAR_SUFFIX, self._trash)
        self._entombed.discard(key)

    def quarantine(self, key: Key) -> None:
        directory, name = split(key)
        try:
            with disk.translated(key), self._tree.open(directory) as fd:
                found = [n for n in (name, name + SIDECAR_SUFFIX) if disk.exists(n, fd)]
                if found:
                    aside = Tree(f"{self._path}/{INTERNAL}/{_QUARANTINE}", self._health)
                    with closing(aside):
                        aside.make(directory)
                        with aside.open(directory) as place:
                            for n in found:
                                _move_aside(n, fd, place)
                            self._health.fsync(place)  # there first: in doubt twice rather than nowhere
                    self._health.fsync(fd)
        except NotFound:
            pass

    def read(self, key: Key) -> LocalReader:
        directory, name = split(key)
        with disk.translated(key), self._tree.open(directory) as fd:
            return LocalReader(disk.open_plain(name, fd), key, f"{self._path}/{key}")

    def list(self, directory: str) -> Iterator[Entry]:
        with disk.translated(directory or "the store"):
            yield from self._tree.scan(directory) if directory else self._tree.foreign()

    def age(self, key: Key) -> float:
        directory, name = split(key)
        youngest = 0.0
        with disk.translated(key), self._tree.open(directory) as fd:
            for n in (name, name + SIDECAR_SUFFIX):
                try:
                    youngest = max(youngest, os.stat(n, dir_fd=fd, follow_symlinks=False).st_ctime)
                except FileNotFoundError:
                    continue
        return max(0.0, time.time() - youngest)

    def list_directories(self, since: str = "") -> Iterator[str]:
        with disk.translated("the store"):
            yield from self._tree.directories(since)

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        with disk.translated("the staging area"):
            yield from self._staging.keys() if key is None else self._staging.named(key)

    def recover(self) -> Iterator[Recovered]:
        with disk.translated("the staging area"):
            yield from reaping.reap(self._staging, self._tree)

    def resolve(self, key: Key) -> bool:
        # Without its token nobody publishes. What was published by one that died before its fsync is there for now:
        # make it so for good.
        directory, name = split(key)
        if not os.path.lexists(f"{self._path}/{key}{SIDECAR_SUFFIX}"):
            with disk.translated("the staging area"):
                reaping.revoke(self._staging, self._tree, key)
        try:
            with disk.translated(key), self._tree.open(directory) as fd:
                data, sidecar = _halves(name, fd)
                if data != sidecar and self._is_nobodys(key):
                    data, sidecar = _halves(name, fd)  # or one was on its way until a moment ago
                    if data != sidecar:
                        # The disk lost the other: where recovery looks by itself it does the same.
                        self.quarantine(key)
                        sidecar = False
                self._health.fsync(fd)
                return sidecar
        except NotFound:
            return False

    def _is_nobodys(self, key: Key) -> bool:
        """Whether half a file belongs to no upload and to no deletion."""
        return key not in self.in_progress(key) and not disk.exists(
            staged_name(key) + SIDECAR_SUFFIX, self._trash
        )

    def is_sole_writer(self) -> bool:
        with disk.translated("the store"):
            return self._home >= 0 and alone(self._home)

    def read_document(self, name: str) -> bytes | None:
        if self._internal < 0:
            return None
        try:
            with disk.translated(name):
                # Asked before every change: one stat tells that it is what it was.
                seen = os.stat(name, dir_fd=self._internal, follow_symlinks=False)
                mark = (seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size)
                known = self._records.get(name)
                if known is None or known[0] != mark:
                    known = (mark, _read_small(name, self._internal, PIECE))
                    self._records[name] = known
                return known[1]
        except NotFound:
            return None

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        self._health.require()
        with self._writes_record, disk.translated(name), ExitStack() as stack:
            if if_absent and disk.exists(name, self._internal):
                raise Conflict(f"There is a {name} already.")
            if if_match is not None:
                there = stack.enter_context(disk.held(name, self._internal))
                if os.read(there, PIECE) != if_match:
                    raise PreconditionFailed(f"{name} was changed meanwhile.")
            self._write_durably(f"{staging.UPDATE}{name}", document, self._internal, name)

    def free_bytes(self) -> int | None:
        with disk.translated("the store"):
            volume = os.statvfs(self._tree.root)
        free = volume.f_bavail * volume.f_frsize + self._ahead.unwritten()
        return free

    def check(self, *, writing: bool) -> None:
        try:
            os.stat(self._root / INTERNAL)
            if writing:
                self._health.require()
                probe, shard = f"{staging.UPDATE}probe-{time.monotonic_ns()}", self._staging.shard()
                os.close(disk.create(probe, shard))
                disk.unlink(probe, shard)
        except OSError as e:
            if e.errno in DISK_FULL_ERRNOS:
                return  # full is not broken: reading and deleting go on
            raise Unavailable(f"The store does not answer: {os.strerror(e.errno or 0)}.") from e

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._committer.close()
        self._held.close()


def _halves(name: str, dir_fd: int) -> tuple[bool, bool]:
    """Whether data and sidecar are there."""
    return disk.exists(name, dir_fd), disk.exists(name + SIDECAR_SUFFIX, dir_fd)


def _read_small(name: str, dir_fd: int, limit: int) -> bytes:
    fd = disk.open_plain(name, dir_fd)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _move_aside(name: str, dir_fd: int, place: int) -> None:
    """Move to a directory where the name may be taken already."""
    for number in itertools.count():
        try:
            free = f"{name}~{number}" if number else name
            disk.rename_new(name, free, src_dir_fd=dir_fd, dst_dir_fd=place)
        except FileExistsError:
            continue
        return
