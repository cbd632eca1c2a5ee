"""The end of what a process has staged and cannot end itself: it died, or it was fenced off."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import DISK_FULL_ERRNOS
from artstore.ids import Key
from artstore.posix import OwnedFile
from artstore.spi import Recovered, split_key
from artstore_local import disk
from artstore_local.staging import LOCK, SHARDS, UPDATE, Staging, staged_key, staged_name
from artstore_local.tree import Tree

log = logging.getLogger("artstore.local")


class _Shard:
    """A shard of another process, held open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, disk.DIRECTORY)

    def close(self) -> None:
        os.close(self.fd)


class Recovery:
    """Finishes or undoes what other processes have staged. Safe when this process dies in the middle."""

    def __init__(self, mine: Staging, tree: Tree) -> None:
        self._mine = mine
        self._tree = tree

    def recover(self) -> Iterator[Recovered]:
        """Finish or undo every upload of a dead process, then remove its directory. Raises `OSError`."""
        for owner in self._mine.other_owners():
            lock = _seize(owner)
            if lock is None:
                continue
            try:
                for path in sorted(_directories_in(owner)):
                    with closing(_Shard(path)) as shard:
                        yield from self._recover_shard(shard)
                _remove(owner)
            except FileNotFoundError:  # removed by hand: then there is nothing to recover
                log.info("the staging directory %s disappeared during its recovery", owner.name)
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.ENOTDIR, errno.ELOOP):
                    raise
                log.warning("the staging directory %s holds something that is not ours", owner.name)
            finally:
                lock.close()

    def _recover_shard(self, shard: _Shard) -> Iterator[Recovered]:
        # Tokens first: data is removed only by the process that has its token, or when there never was a token.
        for name in sorted(os.listdir(shard.fd), key=lambda n: (not n.endswith(SIDECAR_SUFFIX), n)):
            key = staged_key(name.removeprefix(UPDATE))
            if key is None or name.startswith(UPDATE):
                _remove_leftover(name, shard)
                if key is not None:
                    yield Recovered(key=key, outcome="undone")
            elif name.endswith(SIDECAR_SUFFIX):
                if self._undo(name, key, shard):
                    yield Recovered(key=key, outcome="undone")
            elif disk.exists(name, shard.fd):
                yield self._finish(name, key, shard)

    def revoke(self, key: Key) -> None:
        """Undo every upload of `key` that another process has staged, be it alive: its writer was fenced off.

        None of them is published after this; one may have been published before. What this process has staged is
        left: it may be a retry, which is published only after `key` was resolved. Raises `OSError`.
        """
        for owner in self._mine.other_owners():
            for n in range(SHARDS):
                self._revoke_in(owner / str(n), key)

    def _revoke_in(self, path: Path, key: Key) -> None:
        data = staged_name(key)
        token = data + SIDECAR_SUFFIX
        try:
            shard = _Shard(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        with closing(shard):
            # Without its data a token is worth nothing. One that its writer makes meanwhile is found in the next round.
            while disk.exists(token, shard.fd) or disk.exists(data, shard.fd):
                if disk.exists(token, shard.fd):
                    self._undo(token, key, shard)
                else:
                    disk.unlink(data, shard.fd)

    def _undo(self, token: str, key: Key, shard: _Shard) -> bool:
        """Undo an upload without a published sidecar: move its token away, then remove the data, staged or in place.

        Returns False, and does nothing, when another process has moved the token away first.
        """
        data = token.removesuffix(SIDECAR_SUFFIX)
        with self._place_for_tokens(shard) as place:
            try:
                os.rename(token, token, src_dir_fd=shard.fd, dst_dir_fd=place)
            except FileNotFoundError:
                return False
            self._remove_data_in_place(data, key, shard)
            disk.unlink(data, shard.fd)
            disk.unlink(token, place)
        return True

    def _remove_data_in_place(self, data: str, key: Key, shard: _Shard) -> None:
        directory, name = split_key(key)
        try:
            with self._tree.open(directory) as target:
                # If there is a sidecar, the data in place belongs to another upload, or to this one, published. If the
                # data is still staged, the data in place is another's, perhaps of a live process in its publication.
                if not disk.exists(name + SIDECAR_SUFFIX, target) and not disk.differ(
                    data, shard.fd, name, target
                ):
                    disk.unlink(name, target)
                    os.fsync(target)
        except FileNotFoundError:
            pass

    @contextmanager
    def _place_for_tokens(self, shard: _Shard) -> Iterator[int]:
        """Yield the directory that a token of `shard` is moved to. On a full disk, where this process may have no
        staging directory, that is another shard of the same owner."""
        try:
            place = os.dup(self._mine.shard())
        except OSError as e:
            others = [p for p in sorted(_directories_in(shard.path.parent)) if p != shard.path]
            if e.errno not in DISK_FULL_ERRNOS or not others:
                raise
            place = os.open(others[0], disk.DIRECTORY)
        try:
            yield place
        finally:
            os.close(place)

    def _finish(self, data: str, key: Key, shard: _Shard) -> Recovered:
        """End an upload that has staged data and no token.

        Its sidecar was published, and a power cut kept the later rename only; or it was never staged.
        """
        directory, name = split_key(key)
        try:
            with self._tree.open(directory) as target:
                if disk.exists(name + SIDECAR_SUFFIX, target):
                    try:
                        disk.rename_new(data, name, src_dir_fd=shard.fd, dst_dir_fd=target)
                        os.fsync(target)
                    except FileExistsError:
                        disk.unlink(data, shard.fd)
                    return Recovered(key=key, outcome="finished")
        except FileNotFoundError:
            pass
        disk.unlink(data, shard.fd)
        return Recovered(key=key, outcome="undone")


def _seize(owner: Path) -> OwnedFile | None:
    """Own the lock of a dead process. Returns None when the process is alive, or its directory is gone."""
    try:
        # The lock is made when it does not exist: a process that has made its directory, but not yet its lock, then
        # fails to make it, and does not lose a directory that it believes to own.
        return OwnedFile.acquire(owner / LOCK)
    except FileNotFoundError:
        return None


def _directories_in(owner: Path) -> list[Path]:
    return [p for p in owner.iterdir() if p.is_dir()]


def _remove(owner: Path) -> None:
    for shard in _directories_in(owner):
        shard.rmdir()
    (owner / LOCK).unlink(missing_ok=True)
    owner.rmdir()


def _remove_leftover(name: str, shard: _Shard) -> None:
    """Remove a file that undoes nothing. A directory is not ours to remove."""
    try:
        disk.unlink(name, shard.fd)
    except (IsADirectoryError, PermissionError):
        log.warning("left %s in the staging area: it is not ours", name)
