"""How what is staged ends when its process does not end it: the dead are reaped, the fenced lose what they hold."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import DISK_FULL_ERRNOS
from artstore.ids import Key
from artstore.spi import Recovered
from artstore_local import disk
from artstore_local.staging import SHARDS, UPDATE, Staging, staged_key, staged_name
from artstore_local.tree import Tree, split

log = logging.getLogger("artstore.local")


def reap(mine: Staging, tree: Tree) -> Iterator[Recovered]:
    """Settle what each dead owner left, then remove its directory."""
    for owner in mine.others():
        held = _seize(owner)
        if held is None:
            continue
        try:
            for shard in sorted(p for p in owner.iterdir() if p.is_dir()):
                yield from _reap_shard(shard, mine, tree)
            for shard in (p for p in owner.iterdir() if p.is_dir()):
                shard.rmdir()
            (owner / "lock").unlink(missing_ok=True)
            owner.rmdir()
        except FileNotFoundError:  # somebody removed it by hand: then there is nothing to settle
            log.info("staging directory %s vanished while it was settled", owner.name)
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.ENOTDIR, errno.ELOOP):
                raise
            log.warning("staging directory %s holds what is not ours", owner.name)
        finally:
            if held >= 0:
                os.close(held)


def revoke(mine: Staging, tree: Tree, key: Key) -> None:
    """Take from the living as well what is staged of `key`: its writer was fenced off.

    Nobody publishes it any more, unless somebody did by now. What this process has staged is left: it may be a retry,
    whose key has to be settled first.
    """
    data = staged_name(key)
    token = data + SIDECAR_SUFFIX
    for owner in mine.others():
        for shard in (owner / str(n) for n in range(SHARDS)):
            try:
                fd = os.open(shard, disk.DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                # Without its data a token is worth nothing; one that is made meanwhile is met in the next round.
                while disk.exists(token, fd) or disk.exists(data, fd):
                    if disk.exists(token, fd):
                        own = _aside(shard, mine)
                        try:
                            list(_undo(token, key, fd, own, tree))
                        finally:
                            os.close(own)
                    else:
                        disk.unlink(data, fd)
            finally:
                os.close(fd)


def _seize(owner: Path) -> int | None:
    """The lock of a dead owner, -1 when there is no such owner any more, None when it lives."""
    try:
        # Made when it is not there: an owner that is just being born must meet our lock, not lose its own.
        fd = os.open(owner / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _reap_shard(shard: Path, mine: Staging, tree: Tree) -> Iterator[Recovered]:
    fd, own = os.open(shard, disk.DIRECTORY), -1
    try:
        names = set(os.listdir(fd))
        # Tokens first: data is removed only under a token in our hands, or when no token was ever made.
        for name in sorted(names, key=lambda n: (not n.endswith(SIDECAR_SUFFIX), n)):
            key = staged_key(name.removeprefix(UPDATE))
            if key is None or name.startswith(UPDATE):
                _drop(name, fd)
                if key is not None:
                    yield Recovered(key=key, outcome="undone")
            elif name.endswith(SIDECAR_SUFFIX):
                own = _aside(shard, mine) if own < 0 else own
                yield from _undo(name, key, fd, own, tree)
            elif disk.exists(name, fd):
                yield _finish(name, key, fd, tree)
    finally:
        os.close(fd)
        if own >= 0:
            os.close(own)


def _aside(shard: Path, mine: Staging) -> int:
    """Where the tokens of a shard are taken to; on a full disk, where we may have no place of our own, beside it."""
    try:
        return os.dup(mine.shard())
    except OSError as e:
        beside = sorted(p for p in shard.parent.iterdir() if p.is_dir() and p != shard)
        if e.errno not in DISK_FULL_ERRNOS or not beside:
            raise
        return os.open(beside[0], disk.DIRECTORY)


def _undo(token: str, key: Key, fd: int, own: int, tree: Tree) -> Iterator[Recovered]:
    """The sidecar was never published: take it, then the data, staged or already in its place."""
    try:
        os.rename(token, token, src_dir_fd=fd, dst_dir_fd=own)
    except FileNotFoundError:
        return
    directory, name = split(key)
    data = token.removesuffix(SIDECAR_SUFFIX)
    try:
        with tree.open(directory) as target:
            # With a sidecar in place the data there is another upload's, or this one's: it was published.
            # With data still staged the data there is another's, on its way perhaps in a live process.
            if not disk.exists(name + SIDECAR_SUFFIX, target) and not disk.differ(data, fd, name, target):
                disk.unlink(name, target)
                os.fsync(target)
    except FileNotFoundError:
        pass
    disk.unlink(data, fd)
    disk.unlink(token, own)
    yield Recovered(key=key, outcome="undone")


def _drop(name: str, fd: int) -> None:
    """Remove a leftover that undoes nothing; a directory that somebody put there is not ours to remove."""
    try:
        disk.unlink(name, fd)
    except (IsADirectoryError, PermissionError):
        log.warning("left %s in the staging area: it is not ours", name)


def _finish(data: str, key: Key, fd: int, tree: Tree) -> Recovered:
    """Data without a token: its sidecar was published (a power cut kept the later rename only), or never made."""
    directory, name = split(key)
    try:
        with tree.open(directory) as target:
            if disk.exists(name + SIDECAR_SUFFIX, target):
                try:
                    disk.rename_new(data, name, src_dir_fd=fd, dst_dir_fd=target)
                    os.fsync(target)
                except FileExistsError:
                    disk.unlink(data, fd)
                return Recovered(key=key, outcome="finished")
    except FileNotFoundError:
        pass
    disk.unlink(data, fd)
    return Recovered(key=key, outcome="undone")
