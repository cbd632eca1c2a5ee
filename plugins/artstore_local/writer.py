"""An upload on its way to the disk, and the committer that moves many into place at once."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import Conflict, NotFound, Unavailable
from artstore.ids import Key
from artstore_local import disk
from artstore_local.fsync import Health
from artstore_local.preallocation import Ahead
from artstore_local.staging import Staging, staged_name
from artstore_local.tree import Tree, split

FSYNCS = 64
"""Files fsynced at the same moment."""
SMALL = 1 << 20
"""Bytes of data up to which others wait for its fsync; more of them are made durable before joining a batch."""


@dataclass(slots=True, eq=False)
class Publication:
    """One staged pair that waits to be made durable and moved into place; `unsynced` are its open files."""

    key: Key
    shard: int
    unsynced: tuple[int, ...]
    error: BaseException | None = None
    durable: bool = False
    """Set at the very end: whatever else may happen to its leader, nothing is taken for done that is not."""
    leads: bool = False
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._turn.acquire()

    def wait(self) -> None:
        """Until it is settled, or its thread is to lead."""
        self._turn.acquire()

    def wake(self) -> None:
        self._turn.release()


class Committer:
    """Makes staged pairs durable and moves them into place, one batch at a time, in two serial barriers.

    Whoever comes first leads and does the work of all that came meanwhile. Barrier 1: all files of the batch are
    fsynced at the same moment, so that the file system commits its journal and flushes the disk once for many
    (one by one as they came, each upload cost 2.4 flushes). Barrier 2: one fsync of the directory for all
    renames; its own lock would make them wait for each other anyway.
    """

    def __init__(self, tree: Tree, health: Health) -> None:
        self._tree = tree
        self._health = health
        self._pool = ThreadPoolExecutor(FSYNCS, "fsync")
        self._lock = threading.Lock()
        self._waiting: deque[Publication] = deque()
        self._led = False

    def publish(self, publication: Publication) -> None:
        """Both names in place and durable on return. Raises what the renames or the fsync raised."""
        with self._lock:
            self._waiting.append(publication)
            leads = not self._led
            self._led = True
        if not leads:
            publication.wait()
        if leads or publication.leads:
            self._lead(publication)
        if publication.error is not None:
            raise publication.error
        if not publication.durable:
            raise Unavailable("The batch that this upload went with was given up; try again.")

    def _lead(self, mine: Publication) -> None:
        with self._lock:
            batch = list(self._waiting)
            self._waiting.clear()
        try:
            self._sync(batch)
            by_directory: dict[str, list[Publication]] = {}
            for p in batch:
                if p.error is not None:
                    continue
                by_directory.setdefault(split(p.key)[0], []).append(p)
            for directory, some in by_directory.items():
                self._settle(directory, some)
        finally:
            with self._lock:
                heir = self._waiting[0] if self._waiting else None
                self._led = heir is not None
                if heir is not None:
                    heir.leads = True
            if heir is not None:
                heir.wake()
            for p in batch:
                if p is not mine:
                    p.wake()

    def _sync(self, batch: list[Publication]) -> None:
        """Barrier 1. One fsync that fails fails its own upload alone."""
        *others, (last, last_fd) = [(p, fd) for p in batch for fd in p.unsynced]
        begun: list[tuple[Publication, Future[None]]] = []
        try:
            for p, fd in others:
                begun.append((p, self._pool.submit(self._health.fsync, fd)))
            self._health.fsync(last_fd)
        except OSError as e:
            last.error = e
        finally:
            for p, future in begun:  # to the last one: their files are closed when this returns
                p.error = future.exception() or p.error

    def close(self) -> None:
        """End the threads; nothing may be waiting."""
        self._pool.shutdown()

    def _settle(self, directory: str, batch: list[Publication]) -> None:
        moved: list[Publication] = []
        try:
            with self._tree.open(directory) as target:
                for p in batch:
                    if self._move(p, target):
                        moved.append(p)
                if moved:
                    self._health.fsync(target)
            for p in moved:
                p.durable = True
        except FileNotFoundError as e:
            self._tree.forget_made(directory)
            _fail(batch, e)
        except BaseException as e:
            # The names may or may not be on the disk: none of these uploads may be acknowledged.
            _fail(batch, e)
            for p in moved:
                self._withdraw(directory, p)

    def _move(self, p: Publication, target: int) -> bool:
        staged, (_, name) = staged_name(p.key), split(p.key)
        try:
            disk.rename_new(staged, name, src_dir_fd=p.shard, dst_dir_fd=target)
        except FileExistsError:
            p.error = Conflict(f"Another file took the name {name} in this second; try again.")
            return False
        except OSError as e:
            p.error = e
            return False
        try:
            # The token. A plain rename: exactly one of writer and reaper succeeds.
            os.rename(staged + SIDECAR_SUFFIX, name + SIDECAR_SUFFIX, src_dir_fd=p.shard, dst_dir_fd=target)
        except OSError as e:
            p.error = e
            disk.unlink(name, target)
            return False
        return True

    def _withdraw(self, directory: str, p: Publication) -> None:
        """Best effort after a failed fsync: sidecar first, so that no reader ever sees one without data."""
        _, name = split(p.key)
        try:
            with self._tree.open(directory) as target:
                disk.unlink(name + SIDECAR_SUFFIX, target)
                disk.unlink(name, target)
        except OSError as e:
            p.error = e


def _fail(batch: list[Publication], error: BaseException) -> None:
    for p in batch:
        if p.error is None:
            p.error = error


class LocalWriter:
    """Data staged for one key."""

    def __init__(
        self, key: Key, staging: Staging, committer: Committer, health: Health, ahead: Ahead
    ) -> None:
        self._key = key
        self._name = staged_name(key)
        self._shard = staging.shard()
        self._committer = committer
        self._health = health
        self._size = 0
        self._fd = disk.create(self._name, self._shard)
        self._advance = ahead.begin(self._fd)
        self._over = False

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        with disk.translated("this file"):
            self._advance.reach(self._size, len(piece))
            disk.write_all(self._fd, piece)
        self._size += len(piece)

    def publish(self, sidecar: bytes) -> None:
        try:
            with disk.translated("this file"):
                self._publish(sidecar)
            self._over = True
        except NotFound:
            raise Unavailable(
                "The staged upload or its directory was taken away meanwhile; try again."
            ) from None
        finally:
            self.abort()

    def _publish(self, sidecar: bytes) -> None:
        fd = disk.create(self._name + SIDECAR_SUFFIX, self._shard)
        try:
            disk.write_all(fd, sidecar)
            self._advance.give_back(self._size)
            unsynced: tuple[int, ...] = (self._fd, fd)
            if self._size > SMALL:
                self._health.fsync(self._fd)
                unsynced = (fd,)
            self._committer.publish(Publication(self._key, self._shard, unsynced))
        finally:
            os.close(fd)

    def abort(self) -> None:
        self._advance.over()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self._over:
            self._over = True
            try:
                # Sidecar last: as long as it is there, a reaper knows of this upload.
                disk.unlink(self._name, self._shard)
                disk.unlink(self._name + SIDECAR_SUFFIX, self._shard)
            except OSError:
                self._health.note_litter(self._name)
