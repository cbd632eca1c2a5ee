"""Group commit: one thread makes the uploads of many threads durable and moves them into place."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import Conflict, Unavailable
from artstore.ids import Key
from artstore.spi import split_key
from artstore_local import disk
from artstore_local.fsync import Syncer
from artstore_local.staging import staged_name
from artstore_local.tree import Tree

FSYNC_THREADS = 64
"""Most files that are fsynced at the same moment."""


@dataclass(slots=True, eq=False)
class Publication:
    """One staged pair of data and sidecar that waits to be made durable and moved into place."""

    key: Key
    shard: int
    """The descriptor of the staging directory that holds the pair."""
    unsynced: tuple[int, ...]
    """The open files of the pair that have to be fsynced."""
    error: BaseException | None = None
    durable: bool = False
    """Set last of all: if the leader fails in an unforeseen way, no upload counts as durable that is not."""
    leads: bool = False
    """This publication's thread is woken up to lead the next batch."""
    _wakeup: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._wakeup.acquire()

    def wait(self) -> None:
        """Return once the outcome is known, or once this thread has to lead."""
        self._wakeup.acquire()

    def wake(self) -> None:
        """Let `wait` return."""
        self._wakeup.release()


class Committer:
    """Makes staged pairs durable and moves them into place, one batch at a time, in two serial barriers.

    The first thread leads: it does the work of all that came meanwhile, then wakes the next leader. Barrier 1: all
    files of the batch are fsynced at the same moment, so that the file system commits its journal and flushes the
    disk once for many of them (one by one, each upload costs 2.4 flushes). Barrier 2: one fsync of the directory for
    all renames in it; the lock of the directory would make them wait for each other anyway.
    """

    def __init__(self, tree: Tree, syncer: Syncer) -> None:
        self._tree = tree
        self._syncer = syncer
        self._pool = ThreadPoolExecutor(FSYNC_THREADS, "fsync")
        self._lock = threading.Lock()
        self._waiting: deque[Publication] = deque()
        self._has_leader = False

    def publish(self, publication: Publication) -> None:
        """Move the pair into place; it is durable on return. Raises `Conflict`, `OSError`, `Unavailable`."""
        with self._lock:
            self._waiting.append(publication)
            leads = not self._has_leader
            self._has_leader = True
        if not leads:
            publication.wait()
        if leads or publication.leads:
            self._lead(publication)
        if publication.error is not None:
            raise publication.error
        if not publication.durable:
            raise Unavailable("The batch of this upload failed; try again.")

    def _lead(self, mine: Publication) -> None:
        with self._lock:
            batch = list(self._waiting)
            self._waiting.clear()
        try:
            self._sync_files(batch)
            by_directory: dict[str, list[Publication]] = {}
            for p in batch:
                if p.error is None:
                    by_directory.setdefault(split_key(p.key)[0], []).append(p)
            for directory, publications in by_directory.items():
                self._move_all(directory, publications)
        finally:
            with self._lock:
                successor = self._waiting[0] if self._waiting else None
                self._has_leader = successor is not None
                if successor is not None:
                    successor.leads = True
            if successor is not None:
                successor.wake()
            for p in batch:
                if p is not mine:
                    p.wake()

    def _sync_files(self, batch: list[Publication]) -> None:
        """Barrier 1. An fsync that fails, fails its own upload alone."""
        *others, (last, last_fd) = [(p, fd) for p in batch for fd in p.unsynced]
        running: list[tuple[Publication, Future[None]]] = []
        try:
            for p, fd in others:
                running.append((p, self._pool.submit(self._syncer.fsync, fd)))
            self._syncer.fsync(last_fd)
        except OSError as e:
            last.error = e
        finally:
            for p, future in running:  # wait for every one: their files are closed after this
                p.error = future.exception() or p.error

    def _move_all(self, directory: str, batch: list[Publication]) -> None:
        """Barrier 2, for the pairs of one directory."""
        moved: list[Publication] = []
        try:
            with self._tree.open(directory) as target:
                for p in batch:
                    if self._move(p, target):
                        moved.append(p)
                if moved:
                    self._syncer.fsync(target)
            for p in moved:
                p.durable = True
        except FileNotFoundError as e:
            self._tree.forget_made(directory)
            _fail_all(batch, e)
        except BaseException as e:
            # The new names may be on the disk or not: none of these uploads may be acknowledged.
            _fail_all(batch, e)
            for p in moved:
                self._withdraw(directory, p)

    def _move(self, p: Publication, target: int) -> bool:
        staged, (_, name) = staged_name(p.key), split_key(p.key)
        try:
            disk.rename_new(staged, name, src_dir_fd=p.shard, dst_dir_fd=target)
        except FileExistsError:
            p.error = Conflict(f"Another file took the name {name} in this second; try again.")
            return False
        except OSError as e:
            p.error = e
            return False
        try:
            # The token. A plain rename: of the writer and a process that recovers, exactly one succeeds.
            os.rename(staged + SIDECAR_SUFFIX, name + SIDECAR_SUFFIX, src_dir_fd=p.shard, dst_dir_fd=target)
        except OSError as e:
            p.error = e
            disk.unlink(name, target)
            return False
        return True

    def _withdraw(self, directory: str, p: Publication) -> None:
        """Remove a pair after a failed fsync, if possible: the sidecar first, so that none is seen without data."""
        _, name = split_key(p.key)
        try:
            with self._tree.open(directory) as target:
                disk.unlink(name + SIDECAR_SUFFIX, target)
                disk.unlink(name, target)
        except OSError as e:
            p.error = e

    def close(self) -> None:
        """End the threads. No publication may be waiting."""
        self._pool.shutdown()


def _fail_all(batch: list[Publication], error: BaseException) -> None:
    for p in batch:
        if p.error is None:
            p.error = error
