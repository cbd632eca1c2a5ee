"""Where unfinished things lie: a directory per process, held by `flock` for as long as the process lives.

    .artstore/staging/<owner>/lock          held: alive, hands off; free: dead, reap
    .artstore/staging/<owner>/<shard>/<key with commas for slashes>[.attr.json]

The names carry the keys, so the staged files are the durable trace of their uploads. A staged sidecar is the
token of its upload: whoever renames it away, the writer to publish it or a reaper to undo it, has won.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import NotFound
from artstore.spi import Settled
from artstore_local import disk
from artstore_local.tree import INTERNAL, Tree, split

log = logging.getLogger("artstore.local")

SHARDS = 8
"""Many threads creating and renaming in one directory wait for each other: measured, 4 times slower."""

UPDATE = "~update~"
"""Before the name of a sidecar that is to replace one: losing it undoes nothing."""

_ESCAPES = (("%", "%25"), (",", "%2C"), ("~", "%7E"))
"""Marks that a stranger's naming may write in a directory, and that mean something to us."""


def staged_name(key: str) -> str:
    """The name under which data of `key` is staged."""
    directory, name = split(key)
    for mark, escape in _ESCAPES:
        directory = directory.replace(mark, escape)
    return f"{directory.replace('/', ',')},,{name}"


def staged_key(name: str) -> str | None:
    """The key a staged name carries, of data and of sidecars alike; None for a stranger's name."""
    directory, comma, filename = name.removesuffix(SIDECAR_SUFFIX).partition(",,")
    directory = directory.replace(",", "/")
    for mark, escape in reversed(_ESCAPES):
        directory = directory.replace(escape, mark)
    try:
        split(f"{directory}/{filename}")
    except NotFound:
        return None
    return f"{directory}/{filename}" if comma else None


class Staging:
    """This process's own staging directory; none without `claim`, for a process that only looks, and none on a
    full disk until there is room for it: reading and deleting need none."""

    def __init__(self, root: Path, *, claim: bool = True) -> None:
        self._all = root / INTERNAL / "staging"
        self._lock = -1
        self.owner = ""
        self._shards: list[int] = []
        self._begins = threading.Lock()
        self._claims = claim
        self._turn = itertools.count()
        if claim:
            try:
                self._begin()
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                log.warning("the disk is full: files can be read and deleted only")

    def _begin(self) -> None:
        while self._lock < 0:
            self.owner = f"{os.getpid()}-{secrets.token_hex(6)}"
            self.path = self._all / self.owner
            self._lock = self._claim()
        try:
            for n in range(SHARDS):
                (self.path / str(n)).mkdir(mode=0o750)
                self._shards.append(os.open(self.path / str(n), disk.DIRECTORY))
        except OSError:
            self._leave()
            raise

    def _claim(self) -> int:
        """Make and hold the directory; -1 when a reaper was faster between the two."""
        self.path.mkdir(mode=0o750, parents=True)
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except FileNotFoundError:
            return -1
        except OSError:
            self.path.rmdir()
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(self.path / "lock").st_ino == os.fstat(fd).st_ino:
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        return -1

    def shard(self) -> int:
        """The descriptor of one of the shards, in turn. Raises `OSError` while the disk is too full to have any."""
        if len(self._shards) < SHARDS:
            with self._begins:
                if not self._claims:
                    raise OSError(errno.EBADF, "no staging directory")
                if len(self._shards) < SHARDS:
                    self._begin()
        return self._shards[next(self._turn) % SHARDS]

    def others(self) -> Iterator[Path]:
        """The directories of other owners, dead and alive."""
        try:
            found = sorted(self._all.iterdir())
        except FileNotFoundError:
            return
        yield from (p for p in found if p.name != self.owner and p.is_dir() and not p.is_symlink())

    def keys(self) -> Iterator[str]:
        """The keys of all that is staged as a new file, by whomever."""
        for owner in (*self.others(), *([self.path] if self._lock >= 0 else [])):
            for shard in range(SHARDS):
                try:
                    names = os.listdir(owner / str(shard))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                for name in names:
                    key = None if name.startswith(UPDATE) else staged_key(name)
                    if key is not None:
                        yield key

    def close(self) -> None:
        """Remove what is empty and let the lock go; what is not empty is for a reaper."""
        self._claims = False
        self._leave()

    def _leave(self) -> None:
        if self._lock < 0:
            return
        shards, self._shards = self._shards, []
        for fd in shards:
            os.close(fd)
        try:
            for shard in [p for p in self.path.iterdir() if p.is_dir()]:
                shard.rmdir()
            (self.path / "lock").unlink()
            self.path.rmdir()
        except OSError:
            log.info("left unfinished uploads in %s", self.path)
        os.close(self._lock)
        self._lock = -1


def alive(owner: Path) -> bool:
    """Whether the process of a staging directory lives."""
    held = _seize(owner)
    if held is None:
        return True
    if held >= 0:
        os.close(held)
    return False


def reap(mine: Staging, tree: Tree) -> Iterator[Settled]:
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


def _reap_shard(shard: Path, mine: Staging, tree: Tree) -> Iterator[Settled]:
    fd, own = os.open(shard, disk.DIRECTORY), -1
    try:
        names = set(os.listdir(fd))
        # Tokens first: data is removed only under a token in our hands, or when no token was ever made.
        for name in sorted(names, key=lambda n: (not n.endswith(SIDECAR_SUFFIX), n)):
            key = staged_key(name.removeprefix(UPDATE))
            if key is None or name.startswith(UPDATE):
                _drop(name, fd)
                if key is not None:
                    yield Settled(key=key, outcome="undone")
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
        if e.errno not in (errno.ENOSPC, errno.EDQUOT) or not beside:
            raise
        return os.open(beside[0], disk.DIRECTORY)


def _undo(token: str, key: str, fd: int, own: int, tree: Tree) -> Iterator[Settled]:
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
    yield Settled(key=key, outcome="undone")


def _drop(name: str, fd: int) -> None:
    """Remove a leftover that undoes nothing; a directory that somebody put there is not ours to remove."""
    try:
        disk.unlink(name, fd)
    except (IsADirectoryError, PermissionError):
        log.warning("left %s in the staging area: it is not ours", name)


def _finish(data: str, key: str, fd: int, tree: Tree) -> Settled:
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
                return Settled(key=key, outcome="finished")
    except FileNotFoundError:
        pass
    disk.unlink(data, fd)
    return Settled(key=key, outcome="undone")
