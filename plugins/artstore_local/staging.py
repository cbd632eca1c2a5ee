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
from contextlib import suppress
from pathlib import Path

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import DISK_FULL_ERRNOS, NotFound
from artstore.ids import Key
from artstore_local import disk
from artstore_local.tree import INTERNAL, split

log = logging.getLogger("artstore.local")

SHARDS = 8
"""Many threads creating and renaming in one directory wait for each other: measured, 4 times slower."""

UPDATE = "~update~"
"""Before the name of a sidecar that is to replace one: losing it undoes nothing."""

_ESCAPES = (("%", "%25"), (",", "%2C"), ("~", "%7E"))
"""Marks that a stranger's naming may write in a directory, and that mean something to us."""


def staged_name(key: Key) -> str:
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
                if e.errno not in DISK_FULL_ERRNOS:
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
        for shard in self._everybodys():
            try:
                names = os.listdir(shard)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                key = None if name.startswith(UPDATE) else staged_key(name)
                if key is not None:
                    yield key

    def named(self, key: Key) -> Iterator[str]:
        """`key`, for each file that is staged of it: asked by name, among however many."""
        name = staged_name(key)
        for shard in self._everybodys():
            for one in (name, name + SIDECAR_SUFFIX):
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.lstat(f"{shard}/{one}")
                    yield key

    def _everybodys(self) -> Iterator[str]:
        for owner in (*self.others(), *([self.path] if self._lock >= 0 else [])):
            yield from (f"{owner}/{shard}" for shard in range(SHARDS))

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
