"""Bugs planted in our own code, one at a time: each must be found, or the search finds nothing.

Each is what a programmer might write in good faith, put in place of what is there by a patch from the test's side: the
product holds no switch for them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from artstore import checkpoint, locks, recovery
from artstore.attr import SIDECAR_SUFFIX
from artstore.backlog import Backlog
from artstore.errors import NotFound
from artstore.host import boot, store_record
from artstore.ids import Key
from artstore.parts import Parts
from artstore.posix import OwnedFile
from artstore.spi import split_key
from artstore.testing.memory_cache import MemoryCache
from artstore_local import backend, disk, group_commit, staging
from artstore_local import fsync as fsync_module
from artstore_local import recovery as local_recovery
from artstore_wal import log, segment

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Bug:
    plant: Callable[[Patch], None]
    workload: str
    """The smallest that shows it."""


BUGS: dict[str, Bug] = {}


def planted(workload: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def keep(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        BUGS[plant.__name__] = Bug(plant, workload)
        return plant

    return keep


def _skip_fsync(patch: Patch, which: str) -> None:
    """No fsync of what has such a path."""
    real = fsync_module.Syncer.fsync

    def fsync(self: fsync_module.Syncer, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not re.search(which, path + "/" * stat.S_ISDIR(os.fstat(fd).st_mode)):
            real(self, fd)

    patch.setattr(fsync_module.Syncer, "fsync", fsync)


# --- fsync ------------------------------------------------------------------------------------------------


@planted("one_upload")
def no_fsync_of_data(patch: Patch) -> None:
    _skip_fsync(patch, r"/staging/.*\.(txt|bin)$")


@planted("one_upload")
def no_fsync_of_the_sidecar(patch: Patch) -> None:
    _skip_fsync(patch, r"/staging/.*\.attr\.json$")


@planted("one_upload")
def no_fsync_of_the_directory(patch: Patch) -> None:
    _skip_fsync(patch, r"/files/\d+/\d+/\d+/\d+/$")


@planted("new_hour")
def no_fsync_of_a_new_parent(patch: Patch) -> None:
    _skip_fsync(patch, r"/files/(\d+/){0,3}$")


@planted("modes")
def no_fsync_of_the_record(patch: Patch) -> None:
    _skip_fsync(patch, r"/staging/.*element\.json$")


@planted("delete_old")
def no_fsync_of_the_tombstones(patch: Patch) -> None:
    _skip_fsync(patch, r"/tombstones/$")


@planted("data_fsync_fails")
def a_failed_fsync_is_swallowed(patch: Patch) -> None:
    real = fsync_module.Syncer.fsync

    def fsync(self: fsync_module.Syncer, fd: int) -> None:
        try:
            real(self, fd)
        except OSError:
            pass

    patch.setattr(fsync_module.Syncer, "fsync", fsync)


@planted("directory_fsync_fails")
def a_failed_fsync_is_tried_again(patch: Patch) -> None:
    real = fsync_module.Syncer.fsync

    def fsync(self: fsync_module.Syncer, fd: int) -> None:
        try:
            real(self, fd)
        except OSError:
            os.fsync(fd)

    patch.setattr(fsync_module.Syncer, "fsync", fsync)


# --- upload -----------------------------------------------------------------------------------------------


@planted("a_batch")
def followers_are_renamed_behind_the_fsync(patch: Patch) -> None:
    def move_all(self: group_commit.Committer, directory: str, batch: list[group_commit.Publication]) -> None:
        with self._tree.open(directory) as target:
            for n, p in enumerate(batch):
                p.durable = self._move(p, target)
                if n == 0:
                    self._syncer.fsync(target)

    patch.setattr(group_commit.Committer, "_move_all", move_all)


@planted("one_upload")
def the_sidecar_is_renamed_before_the_data(patch: Patch) -> None:
    def move(self: group_commit.Committer, p: group_commit.Publication, target: int) -> bool:
        staged, (_, name) = staging.staged_name(p.key), split_key(p.key)
        for suffix in (SIDECAR_SUFFIX, ""):
            os.rename(staged + suffix, name + suffix, src_dir_fd=p.shard, dst_dir_fd=target)
        return True

    patch.setattr(group_commit.Committer, "_move", move)


@planted("the_leader_fails")
def a_batch_is_done_when_its_leader_is(patch: Patch) -> None:
    made = group_commit.Publication.__post_init__

    def hopeful(self: group_commit.Publication) -> None:
        made(self)
        self.durable = True

    patch.setattr(group_commit.Publication, "__post_init__", hopeful)


@planted("short_writes")
def a_short_write_is_ignored(patch: Patch) -> None:
    patch.setattr(disk, "write_all", lambda fd, piece: os.write(fd, piece))


# --- update -----------------------------------------------------------------------------------------------


@planted("update_old")
def the_sidecar_is_rewritten_in_place(patch: Patch) -> None:
    def write(self: Any, temp: str, content: bytes, target: int, name: str) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o640, dir_fd=target)
        os.write(fd, content)
        os.fsync(fd)
        os.close(fd)
        os.fsync(target)

    patch.setattr(backend.LocalBackend, "_write_durably", write)


@planted("update_old")
def an_update_leaves_no_durable_trace(patch: Patch) -> None:
    patch.setattr(log.FileIntent, "sync", lambda self: None)


@planted("update_old")
def the_name_of_the_log_is_not_durable(patch: Patch) -> None:
    patch.setattr(segment, "fsync_directory", lambda path: None)


@planted("two_change_one")
def the_revision_is_not_compared(patch: Patch) -> None:
    real = backend.LocalBackend.replace_sidecar
    patch.setattr(locks.Locks, "file", lambda self, file_id: ExitStack())
    patch.setattr(
        backend.LocalBackend,
        "replace_sidecar",
        lambda self, key, sidecar, *, if_match: real(self, key, sidecar, if_match=self.read_sidecar(key)),
    )


# --- delete -----------------------------------------------------------------------------------------------


@planted("delete_old")
def there_is_no_tombstone(patch: Patch) -> None:
    def delete(self: Any, key: Key, *, if_match: bytes) -> None:
        directory, name = split_key(key)
        try:
            with self._tree.open(directory) as fd:
                os.unlink(name + SIDECAR_SUFFIX, dir_fd=fd)
                os.fsync(fd)
        except FileNotFoundError:
            raise NotFound(key) from None

    patch.setattr(backend.LocalBackend, "delete", delete)


@planted("delete_old")
def the_tombstone_is_forgotten_at_once(patch: Patch) -> None:
    discard = Backlog.discard_data

    def purge(self: Backlog, key: Any) -> None:
        discard(self, key)
        self._parts.backend.purge(key)

    patch.setattr(Backlog, "discard_data", purge)


@planted("delete_old")
def the_tombstone_goes_before_the_data(patch: Patch) -> None:
    remove = backend.LocalBackend.delete_data

    def lazily(self: Any, key: str) -> None:
        remove(self, key)
        self._unsynced_removals.clear()

    patch.setattr(backend.LocalBackend, "delete_data", lazily)


@planted("delete_old")
def the_data_goes_before_the_tombstone(patch: Patch) -> None:
    delete = backend.LocalBackend.delete

    def hastily(self: Any, key: Key, *, if_match: bytes) -> None:
        os.unlink(f"{self._path}/{key}")
        delete(self, key, if_match=if_match)

    patch.setattr(backend.LocalBackend, "delete", hastily)


# --- recovery ---------------------------------------------------------------------------------------------


@planted("one_upload")
def recovery_trusts_the_rows(patch: Patch) -> None:
    patch.setattr(recovery.Recovery, "_reconcile_directory", lambda *_, **__: None)


@planted("delete_old")
def recovery_passes_over_tombstones(patch: Patch) -> None:
    patch.setattr(recovery.Recovery, "_finish_deletions", lambda *_: None)


@planted("update_old")
def recovery_does_not_read_the_log(patch: Patch) -> None:
    patch.setattr(log.FileLog, "abandoned", lambda self: iter(()))


@planted("a_live_neighbour")
def recovery_reaps_the_living(patch: Patch) -> None:
    def seize(owner: Any) -> OwnedFile:
        return OwnedFile(owner / "lock", os.open(owner / "lock", os.O_RDWR | os.O_CREAT, 0o640))

    patch.setattr(local_recovery, "_seize", seize)


@planted("a_damaged_pair")
def recovery_drops_what_is_broken(patch: Patch) -> None:
    def drop(self: Any, key: str) -> None:
        for suffix in ("", SIDECAR_SUFFIX):
            try:
                os.unlink(f"{self._path}/{key}{suffix}")
            except FileNotFoundError:
                continue

    patch.setattr(backend.LocalBackend, "quarantine", drop)


@planted("killed_in_a_deletion")
def recovery_takes_a_tombstone_for_durable(patch: Patch) -> None:
    class Everything(set[str]):
        def __contains__(self, key: object) -> bool:
            return True

    made = backend.LocalBackend.__init__

    def trusting(self: Any, *given: Any) -> None:
        made(self, *given)
        self._durable_tombstones = Everything()

    patch.setattr(backend.LocalBackend, "__init__", trusting)


@planted("killed_before_the_directory_is_synced")
def a_retry_takes_what_is_there_for_durable(patch: Patch) -> None:
    patch.setattr(
        backend.LocalBackend,
        "resolve",
        lambda self, key: os.path.lexists(f"{self._path}/{key}{SIDECAR_SUFFIX}"),
    )


# --- the store --------------------------------------------------------------------------------------------


@planted("first_start")
def the_home_remembers_its_store_first(patch: Patch) -> None:
    establish = boot.establish

    def hastily(store: Any, locks: Any, **more: Any) -> Any:
        if more["expected"] is None:
            store_record.write(locks._directory.parent, store_record.StoreRecord())
        return establish(store, locks, **more)

    patch.setattr(boot, "establish", hastily)


# --- cache ------------------------------------------------------------------------------------------------


@planted("checkpoint_moves")
def the_checkpoint_moves_before_the_flush(patch: Patch) -> None:
    advance = checkpoint.advance

    def hastily(parts: Parts, known: Any, generation: str, at: datetime, **more: Any) -> None:
        moved = known and known.model_copy(
            update={"directory": parts.naming.directory_at(at - checkpoint.MARGIN)}
        )
        advance(parts, moved, generation, at, **more)

    patch.setattr(checkpoint, "advance", hastily)


@planted("delete_old")
def the_stamp_is_not_looked_at(patch: Patch) -> None:
    class Everything(tuple[str, ...]):
        __slots__ = ()

        def __contains__(self, generation: object) -> bool:
            return True

    read = checkpoint.read

    def trusting(parts: Parts) -> checkpoint.Checkpoint | None:
        known = read(parts)
        return known and known.model_copy(update={"generations": Everything(known.generations)})

    patch.setattr(checkpoint, "read", trusting)
    patch.setattr(MemoryCache, "generation", lambda self: self._generation or "none")
    patch.setattr(MemoryCache, "set_generation", lambda self, stamp, **_: setattr(self, "_generation", stamp))


@contextmanager
def with_bug(name: str) -> Iterator[Bug]:
    """Our code with that bug in it."""
    with pytest.MonkeyPatch.context() as patch:
        BUGS[name].plant(patch)
        yield BUGS[name]
