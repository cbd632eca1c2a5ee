"""Where unfinished uploads lie: one directory per process, which owns its lock file for as long as it lives.

    .artstore/staging/<owner>/lock          owned: the process is alive, hands off; not owned: it is dead, recover it
    .artstore/staging/<owner>/<shard>/<key with commas for slashes>[.attr.json]

The names carry the keys, so the staged files are the durable trace of their uploads. A staged sidecar is the token
of its upload: the process that renames it away decides the outcome, the writer to publish it or recovery to undo it.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from artstore.attr import SIDECAR_SUFFIX
from artstore.errors import DISK_FULL_ERRNOS, NotFound
from artstore.ids import Key
from artstore.posix import OwnedFile
from artstore.spi import INTERNAL, split_key
from artstore_local import disk

log = logging.getLogger("artstore.local")

SHARDS = 8
"""Directories per process. Many threads that create and rename in one directory wait for each other: measured, they
are 4 times slower."""
UPDATE = "~update~"
"""The prefix of a sidecar or a document that will replace another: if it is lost, nothing has to be undone."""
LOCK = "lock"

_ESCAPES = (("%", "%25"), (",", "%2C"), ("~", "%7E"))
"""Characters that a naming may use in a directory, and that have a meaning in a staged name."""


def staged_name(key: Key) -> str:
    """Return the name under which the data of `key` is staged."""
    directory, name = split_key(key)
    for character, escape in _ESCAPES:
        directory = directory.replace(character, escape)
    return f"{directory.replace('/', ',')},,{name}"


def staged_key(name: str) -> Key | None:
    """Return the key that the staged name of data or of a sidecar carries; None for a foreign name."""
    directory, comma, filename = name.removesuffix(SIDECAR_SUFFIX).partition(",,")
    directory = directory.replace(",", "/")
    for character, escape in reversed(_ESCAPES):
        directory = directory.replace(escape, character)
    key = Key(f"{directory}/{filename}")
    try:
        split_key(key)
    except NotFound:
        return None
    return key if comma else None


def _exists(path: str) -> bool:
    """Return whether `path` exists. Raises `OSError` when that cannot be known, unlike `os.path.lexists`."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


class Staging:
    """The staging directory of this process, and a view on those of others.

    Without `claim` the process has none: it only reads. On a full disk it has none until there is space for it:
    reading and deleting need none.
    """

    def __init__(self, root: Path, *, claim: bool = True) -> None:
        self._all = root / INTERNAL / "staging"
        self._lock: OwnedFile | None = None
        self.owner = ""
        self._shards: list[int] = []
        self._claiming = threading.Lock()
        self._may_claim = claim
        self._turn = itertools.count()
        if claim:
            try:
                self._claim()
            except OSError as e:
                if e.errno not in DISK_FULL_ERRNOS:
                    raise
                log.warning("the disk is full: files can only be read and deleted")

    def _claim(self) -> None:
        while self._lock is None:
            self.owner = f"{os.getpid()}-{secrets.token_hex(6)}"
            self.path = self._all / self.owner
            self._lock = self._make_owner_directory()
        try:
            for n in range(SHARDS):
                (self.path / str(n)).mkdir(mode=0o750)
                self._shards.append(os.open(self.path / str(n), disk.DIRECTORY))
        except OSError:
            self._leave()
            raise

    def _make_owner_directory(self) -> OwnedFile | None:
        """Make the directory and own its lock. Returns None when a process that recovers took it in between."""
        self.path.mkdir(mode=0o750, parents=True)
        try:
            return OwnedFile.create(self.path / LOCK)
        except (FileExistsError, FileNotFoundError):
            return None
        except OSError:
            self.path.rmdir()
            raise

    def shard(self) -> int:
        """Return the descriptor of one of the shards, in turn. Raises `OSError`, as long as the disk is too full."""
        if len(self._shards) < SHARDS:
            with self._claiming:
                if not self._may_claim:
                    raise OSError(errno.EBADF, "no staging directory")
                if len(self._shards) < SHARDS:
                    self._claim()
        return self._shards[next(self._turn) % SHARDS]

    def other_owners(self) -> Iterator[Path]:
        """Yield the directories of other processes, dead and alive."""
        try:
            found = sorted(self._all.iterdir())
        except FileNotFoundError:
            return
        yield from (p for p in found if p.name != self.owner and p.is_dir() and not p.is_symlink())

    def keys(self) -> Iterator[Key]:
        """Yield the keys of all uploads in progress, of all processes. A key may come twice."""
        for shard in self._all_shards():
            try:
                names = os.listdir(shard)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                key = None if name.startswith(UPDATE) else staged_key(name)
                if key is not None:
                    yield key

    def holds(self, key: Key) -> bool:
        """Return whether an upload of `key` is in progress. Looks for its names only, however many others there are."""
        name = staged_name(key)
        return any(
            _exists(f"{shard}/{staged}")
            for shard in self._all_shards()
            for staged in (name, name + SIDECAR_SUFFIX)
        )

    def _all_shards(self) -> Iterator[str]:
        for owner in (*self.other_owners(), *([self.path] if self._lock is not None else [])):
            yield from (f"{owner}/{shard}" for shard in range(SHARDS))

    def close(self) -> None:
        """Remove the directories that are empty and give up the lock. What is not empty is left to `recover`."""
        self._may_claim = False
        self._leave()

    def _leave(self) -> None:
        if self._lock is None:
            return
        shards, self._shards = self._shards, []
        for fd in shards:
            os.close(fd)
        try:
            for shard in [p for p in self.path.iterdir() if p.is_dir()]:
                shard.rmdir()
            self._lock.path.unlink()
            self.path.rmdir()
        except OSError:
            log.info("left unfinished uploads in %s", self.path)
        self._lock.close()
        self._lock = None
