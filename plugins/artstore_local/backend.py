"""The backend `local`: data and sidecars as plain files that people can read, copy and back up."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
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
    missing_store,
    startup_error,
)
from artstore.ids import Key
from artstore.spi import (
    API,
    INTERNAL,
    PIECE,
    Backend,
    Capabilities,
    Context,
    Entry,
    Recoverable,
    Recovered,
    split_key,
)
from artstore_local import disk, preallocation
from artstore_local.fsync import Syncer
from artstore_local.group_commit import Committer
from artstore_local.home_lock import is_only_holder, lock_for_home
from artstore_local.reader import LocalReader
from artstore_local.recovery import Recovery
from artstore_local.reserve import Reserve
from artstore_local.staging import UPDATE, Staging, staged_key, staged_name
from artstore_local.tree import Tree
from artstore_local.writer import LocalWriter

_STAGING = "staging"
_TOMBSTONES = "tombstones"
_QUARANTINE = "quarantine"


class LocalBackend(Backend, Recoverable):
    """A directory on a local disk. `disk.py` tells what each step is worth after a power cut."""

    API: ClassVar[int] = API
    capabilities = Capabilities(durable=True, atomic_sidecar=True, shared=False)

    class Settings(BaseModel, extra="forbid"):
        """`[backend.local]`"""

        root: Path | None = None
        """Where the files lie; `files` below the home unless set."""

    def __init__(self, settings: Settings, context: Context) -> None:
        root = (settings.root or context.files).absolute()
        self.capabilities = replace(LocalBackend.capabilities, max_file_size=disk.max_file_size())
        self._root = root
        self._path = os.fspath(root)
        self._syncer = Syncer()
        try:
            with ExitStack() as opened:
                self._open(opened, context)
                self._opened = opened.pop_all()
        except OSError as e:
            cure = "Make it a directory that this user may read and write."
            raise startup_error(
                e, f"The store {root} cannot be used", place="backend.local.root", cure=cure
            ) from e
        self._recovery = Recovery(self._staging, self._tree)
        self._committer = Committer(self._tree, self._syncer)
        self._preallocates = self._internal >= 0 and preallocation.is_worth_it(self._internal)
        self._documents: dict[str, tuple[tuple[int, ...], bytes]] = {}
        """What was read of each document, with the identity of the file that it was read from."""
        self._document_lock = threading.Lock()
        self._durable_tombstones: set[Key] = set()
        """Keys whose tombstones this process has made durable."""
        self._unsynced_removals: set[str] = set()
        """Directories where data was removed since their last fsync."""
        self._closed = False

    def _open(self, opened: ExitStack, context: Context) -> None:
        writes = not context.read_only
        internal = self._root / INTERNAL
        if context.expects_store and not internal.is_dir():
            raise missing_store(f"The directory {self._root}", place="backend.local.root")
        if writes:
            self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
            for name in (_STAGING, _TOMBSTONES, _QUARANTINE):
                (internal / name).mkdir(mode=0o750, parents=True, exist_ok=True)
            disk.fsync_parents(self._root)
        self._tree = Tree(self._path, self._syncer)
        opened.callback(self._tree.close)
        # A copy that is only inspected may lack some of these: some tools leave empty directories out.
        self._internal = disk.open_directory(internal, missing=not writes)
        opened.callback(disk.close, self._internal)
        self._tombstones = disk.open_directory(internal / _TOMBSTONES, missing=not writes)
        opened.callback(disk.close, self._tombstones)
        if writes:
            os.fsync(self._internal)
        self._home_lock = lock_for_home(self._root, context.home) if writes else -1
        opened.callback(disk.close, self._home_lock)
        self._reserve = Reserve(self._internal if writes else -1)
        opened.callback(self._reserve.close)
        self._staging = Staging(self._root, claim=writes)
        opened.callback(self._staging.close)

    # --- files --------------------------------------------------------------------------------------------

    def create(self, key: Key) -> LocalWriter:
        directory, name = split_key(key)
        self._syncer.require_writable()
        with disk.translate_errors("a new file"):
            self._tree.make(directory)
            # A tombstone takes the name too: the process that finishes that deletion must not remove newer data.
            if (
                os.path.lexists(f"{self._path}/{key}")
                or os.path.lexists(f"{self._path}/{key}{SIDECAR_SUFFIX}")
                or disk.exists(staged_name(key) + SIDECAR_SUFFIX, self._tombstones)
            ):
                raise Conflict(f"The name {name} is taken.")
            try:
                return LocalWriter(
                    key, self._staging, self._committer, self._syncer, preallocate=self._preallocates
                )
            except FileExistsError:
                raise Conflict(f"The name {name} is taken.") from None

    def read(self, key: Key) -> LocalReader:
        directory, name = split_key(key)
        with disk.translate_errors(key), self._tree.open(directory) as fd:
            return LocalReader(disk.open_plain(name, fd), key, f"{self._path}/{key}")

    def read_sidecar(self, key: Key) -> bytes:
        directory, name = split_key(key)
        with disk.translate_errors(f"sidecar of {key}"), self._tree.open(directory) as fd:
            return _read_small(name + SIDECAR_SUFFIX, fd, SIDECAR_LIMIT + 1)

    def replace_sidecar(self, key: Key, sidecar: bytes, *, if_match: bytes) -> None:
        with self._lock_sidecar(key, if_match) as (fd, name):
            self._write_durably(UPDATE + staged_name(key) + SIDECAR_SUFFIX, sidecar, fd, name)

    def delete(self, key: Key, *, if_match: bytes) -> None:
        tombstone = staged_name(key) + SIDECAR_SUFFIX
        with self._lock_sidecar(key, if_match) as (fd, name):
            self._reserve.rename(name, tombstone, src_dir_fd=fd, dst_dir_fd=self._tombstones)
            # The tombstone becomes durable first. If only the removal of the sidecar were durable, recovery
            # would not learn of the data.
            try:
                self._syncer.fsync(self._tombstones)
            except OSError:
                # The file is not deleted. Move the sidecar back, or the next fsync of its directory would remove it.
                os.rename(tombstone, name, src_dir_fd=self._tombstones, dst_dir_fd=fd)
                raise
            self._syncer.fsync(fd)
        self._durable_tombstones.add(key)

    @contextmanager
    def _lock_sidecar(self, key: Key, expected: bytes) -> Iterator[tuple[int, str]]:
        """Yield the directory and the name of a sidecar that equals `expected`. No other process changes it within."""
        directory, name = split_key(key)
        self._syncer.require_writable()
        with (
            disk.translate_errors(f"sidecar of {key}"),
            self._tree.open(directory) as fd,
            disk.lock_file(name + SIDECAR_SUFFIX, fd) as sidecar,
        ):
            if os.read(sidecar, SIDECAR_LIMIT + 1) != expected:
                raise PreconditionFailed("The file was changed meanwhile.")
            yield fd, name + SIDECAR_SUFFIX

    def _write_durably(self, temp: str, content: bytes, target: int, name: str) -> None:
        """Write a temporary file, fsync it, rename it, fsync the directory."""
        shard = self._staging.shard()
        disk.unlink(temp, shard)
        try:
            fd = disk.create(temp, shard)
            try:
                disk.write_all(fd, content)
                self._syncer.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temp, name, src_dir_fd=shard, dst_dir_fd=target)
            self._syncer.fsync(target)
        finally:
            disk.unlink(temp, shard)

    def list(self, directory: str) -> Iterator[Entry]:
        with disk.translate_errors(directory or "the store"):
            yield from self._tree.list(directory) if directory else self._tree.list_root()

    def list_directories(self, since: str = "") -> Iterator[str]:
        with disk.translate_errors("the store"):
            yield from self._tree.list_directories(since)

    # --- documents ----------------------------------------------------------------------------------------

    def read_document(self, name: str) -> bytes | None:
        if self._internal < 0:
            return None
        try:
            with disk.translate_errors(name):
                self._require_place()
                # The kernel asks before every change: one stat shows whether the document has changed.
                stat = os.stat(name, dir_fd=self._internal, follow_symlinks=False)
                identity = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
                known = self._documents.get(name)
                if known is None or known[0] != identity:
                    known = (identity, _read_small(name, self._internal, PIECE))
                    self._documents[name] = known
                return known[1]
        except NotFound:
            return None

    def _require_place(self) -> None:
        """Raise `Unavailable` when another directory, or none, lies in the place of the store since it was opened.

        What is open stays usable then, but what is written there is hidden: by a volume that was mounted over it, or
        because it was moved away.
        """
        try:
            for fd, path in ((self._tree.root, self._path), (self._internal, f"{self._path}/{INTERNAL}")):
                if not os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                    break
            else:
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise Unavailable(
            "The directory of the store was moved or unmounted, or another one lies in its place."
        )

    def write_document(
        self, name: str, document: bytes, *, if_absent: bool = False, if_match: bytes | None = None
    ) -> None:
        self._syncer.require_writable()
        with self._document_lock, disk.translate_errors(name), ExitStack() as stack:
            if if_absent and disk.exists(name, self._internal):
                raise Conflict(f"There is a {name} already.")
            if if_match is not None:
                present = stack.enter_context(disk.lock_file(name, self._internal))
                if os.read(present, PIECE) != if_match:
                    raise PreconditionFailed(f"{name} was changed meanwhile.")
            self._write_durably(f"{UPDATE}{name}", document, self._internal, name)

    # --- recovery -----------------------------------------------------------------------------------------

    def delete_data(self, key: Key) -> None:
        directory, name = split_key(key)
        with suppress(NotFound), disk.translate_errors(key), self._tree.open(directory) as fd:
            if disk.exists(name + SIDECAR_SUFFIX, fd):
                return
            if key not in self._durable_tombstones:
                # The process that removed the sidecar may have died before that was durable: it could come back.
                self._syncer.fsync(self._tombstones)
                self._syncer.fsync(fd)
            disk.unlink(name, fd)
        self._unsynced_removals.add(directory)
        self._reserve.fill()

    def list_tombstones(self) -> Iterator[Key]:
        with disk.translate_errors("the tombstones"):
            names = os.listdir(self._tombstones) if self._tombstones >= 0 else []
        for name in names:
            key = staged_key(name)
            if key is not None:
                yield key

    def purge(self, key: Key) -> None:
        directory, _ = split_key(key)
        with disk.translate_errors("the tombstones"):
            # The removal of the data becomes durable first. If only that of the tombstone were durable, nothing would
            # tell recovery of the data.
            self._sync_removals(directory)
            disk.unlink(staged_name(key) + SIDECAR_SUFFIX, self._tombstones)
        self._durable_tombstones.discard(key)

    def _sync_removals(self, directory: str) -> None:
        """Make all removals of data in `directory` durable, with one fsync."""
        if directory not in self._unsynced_removals:
            return
        self._unsynced_removals.discard(directory)
        try:
            with self._tree.open(directory) as fd:
                self._syncer.fsync(fd)
        except FileNotFoundError:
            pass
        except OSError:
            self._unsynced_removals.add(directory)
            raise

    def quarantine(self, key: Key) -> None:
        directory, name = split_key(key)
        with suppress(NotFound), disk.translate_errors(key), self._tree.open(directory) as fd:
            found = [n for n in (name, name + SIDECAR_SUFFIX) if disk.exists(n, fd)]
            if found:
                self._move_to_quarantine(directory, found, fd)
                self._syncer.fsync(fd)

    def _move_to_quarantine(self, directory: str, names: Sequence[str], fd: int) -> None:
        with closing(Tree(f"{self._path}/{INTERNAL}/{_QUARANTINE}", self._syncer)) as tree:
            tree.make(directory)
            with tree.open(directory) as target:
                for name in names:
                    _move_to_free_name(name, fd, target)
                # Synced before the old place: after a power cut a file may lie in both places, but never in none.
                self._syncer.fsync(target)

    def age(self, key: Key) -> float:
        directory, name = split_key(key)
        youngest = 0.0
        with disk.translate_errors(key), self._tree.open(directory) as fd:
            for n in (name, name + SIDECAR_SUFFIX):
                try:
                    youngest = max(youngest, os.stat(n, dir_fd=fd, follow_symlinks=False).st_ctime)
                except FileNotFoundError:
                    continue
        if not youngest:
            raise NotFound(f"There is no {key}.")
        return max(0.0, time.time() - youngest)

    def in_progress(self, key: Key | None = None) -> Iterator[Key]:
        with disk.translate_errors("the staging area"):
            if key is None:
                yield from self._staging.keys()
            elif self._staging.holds(key):
                yield key

    def recover(self) -> Iterator[Recovered]:
        with disk.translate_errors("the staging area"):
            yield from self._recovery.recover()

    def resolve(self, key: Key) -> bool:
        # Without its token no process publishes the upload.
        directory, name = split_key(key)
        if not os.path.lexists(f"{self._path}/{key}{SIDECAR_SUFFIX}"):
            with disk.translate_errors("the staging area"):
                self._recovery.revoke(key)
        try:
            with disk.translate_errors(key), self._tree.open(directory) as fd:
                data, sidecar = _look_for_halves(name, fd)
                if data != sidecar and self._is_abandoned(key):
                    data, sidecar = _look_for_halves(name, fd)  # a publication may have ended meanwhile
                    if data != sidecar:
                        # The disk lost the other half. Recovery does the same with the halves that it finds.
                        self.quarantine(key)
                        sidecar = False
                # A writer that died before its fsync has published the file for now only: make it durable.
                self._syncer.fsync(fd)
                return sidecar
        except NotFound:
            return False

    def _is_abandoned(self, key: Key) -> bool:
        """Return whether half a file belongs to no upload and to no deletion."""
        return not self._staging.holds(key) and not disk.exists(
            staged_name(key) + SIDECAR_SUFFIX, self._tombstones
        )

    def is_sole_writer(self) -> bool:
        with disk.translate_errors("the store"):
            return self._home_lock >= 0 and is_only_holder(self._home_lock)

    # --- the store ----------------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        with disk.translate_errors("the store"):
            volume = os.statvfs(self._tree.root)
        if volume.f_files and not volume.f_favail:  # a volume without a free inode has no room for a file
            return 0
        return volume.f_bavail * volume.f_frsize

    def check(self, *, writing: bool) -> None:
        try:
            self._require_place()
            if writing:
                self._syncer.require_writable()
                probe, shard = f"{UPDATE}probe-{time.monotonic_ns()}", self._staging.shard()
                os.close(disk.create(probe, shard))
                disk.unlink(probe, shard)
        except OSError as e:
            if e.errno in DISK_FULL_ERRNOS:
                return  # a full disk is not broken: reading and deleting go on
            raise Unavailable(f"The store does not answer: {os.strerror(e.errno or 0)}.") from e

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._committer.close()
        self._opened.close()


def _look_for_halves(name: str, dir_fd: int) -> tuple[bool, bool]:
    """Return whether the data exists, and whether the sidecar does."""
    return disk.exists(name, dir_fd), disk.exists(name + SIDECAR_SUFFIX, dir_fd)


def _read_small(name: str, dir_fd: int, limit: int) -> bytes:
    fd = disk.open_plain(name, dir_fd)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _move_to_free_name(name: str, dir_fd: int, target: int) -> None:
    """Move to a directory where the name may be taken; then a number is added to it."""
    for number in itertools.count():
        try:
            free = f"{name}~{number}" if number else name
            disk.rename_new(name, free, src_dir_fd=dir_fd, dst_dir_fd=target)
        except FileExistsError:
            continue
        return
