"""Decides whether the database file is believed. It is a cache: on any doubt an empty one replaces it.

A file that artstore did not make is neither believed nor replaced: it is refused before anything is locked, written or
made beside it.

    What lies at the path (`require_ours`)          What happens
    nothing, an empty file, a database of no tables a cache is made in it
    a database or a WAL with artstore's id          ours, whatever else is wrong with it
    a database without the id                       refused, unless its stamp is the recorded one: of an early version
    another regular file                            refused, unless its inode is the recorded one: it is damaged
    an empty directory                              refused, unless there is a record
    anything else                                   refused

In the element's own state a file that is no database counts as a damaged cache: nothing else is written there.

SQLite has no checksums, and believes any WAL that lies beside a database. But in WAL mode only checkpoints write to the
database file, and only artstore's processes checkpoint, under `exclusive`. So after each checkpoint `<path>.lock`
records the boot of the machine and the file's stamp: its inode, its time of change, its length.

    When it is opened (`reason_to_replace`)         What happens
    `<path>.doubt` exists                           put aside: a process met damage, a failed fsync or a bad row
    there is a WAL and no file, or no regular file  put aside
    the stamp differs from the recorded one         put aside; at start the inode may differ: the file was moved
    no stamp is recorded                            believed: a process died in a checkpoint, which the WAL repeats
    a WAL that no process uses, of this boot        believed: a process was killed, and what it wrote is intact
    a WAL that no process uses, of another boot     power failed: `quick_check` reads all of it; put aside if damaged
    anything else                                   believed

    Before each call (`is_unchanged`)
    the stamp is the one that this process saw      used; costs two stats
    the stamp is another process's checkpoint       used (`accept_checkpoint`)
    anything else, or `<path>.doubt` exists         opened again, by the rules above; a foreign file is refused

    Before each use of a connection (`identity`)
    the file has another inode                      connected again: another process put the old file aside
    the WAL or its index has another inode, or none suspect (`mark_suspect`): the last writes are lost
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from artstore.errors import ConfigError
from artstore_sql.sqlite.first_page import is_wal_marked, read_first_page
from artstore_sql.sqlite.shared_memory import SharedMemory

log = logging.getLogger("artstore.sql")

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NO_STAMP = "?"
_RECORD_LENGTH = 120
"""Bytes of the record: it is padded, so that a shorter one overwrites a longer one."""
_TIME = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
"""The time in the name of a file that was put aside."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_CUT = sqlite3.SQLITE_IOERR_SHORT_READ
"""A truncated WAL: SQLite reports this error until the WAL is removed."""


class Stamp(NamedTuple):
    """What shows that a file is still the same. The file itself is never opened for it (see `Sqlite`)."""

    inode: int
    changed: int
    length: int

    def is_copied_from(self, other: Stamp) -> bool:
        """Return whether this may be the other file, moved to another disk along with its time."""
        return self[1:] == other[1:]


class Integrity:
    """What this process last saw of the file, and what all processes recorded of it."""

    def __init__(self, path: Path, *, in_state: bool = False) -> None:
        """`in_state`: the file lies in the element's own state, under the name that artstore chose."""
        self._path = path
        self._in_state = in_state
        self._wal = path.with_name(f"{path.name}-wal")
        self._shm = path.with_name(f"{path.name}-shm")
        self._record = path.with_name(f"{path.name}.lock")
        self._suspect_file = path.with_name(f"{path.name}.doubt")
        self._boot = _current_boot()
        self._seen: Stamp | None = None
        self._suspect = 0
        """The inode of the file that this process found suspect."""
        self._changing = False
        self._syncs = True

    # --- before anything is locked, written or made ---

    def require_ours(self) -> None:
        """Raise `ConfigError` unless artstore made the file, or may make it. Raises `OSError`."""
        now = _stamp(self._path)
        if now is not None and self._seen is not None and now.inode == self._seen.inode:
            return  # this process opened it, and may have connections to it
        if not self._is_record_ours():
            raise _foreign(self._record)
        if not (self._may_be_made() if now is None else self._is_ours(now)):
            raise _foreign(self._path)

    def _may_be_made(self) -> bool:
        """Return whether nothing at the path is foreign: not a WAL without its database either."""
        if os.path.lexists(self._path):  # a symbolic link to nothing
            return False
        return not self.has_wal() or self._read_record()[0] != "" or is_wal_marked(self._wal)

    def _is_ours(self, now: Stamp) -> bool:
        mode, (boot, recorded) = self._path.stat().st_mode, self._read_record()
        if stat.S_ISDIR(mode):
            return boot != "" and not any(self._path.iterdir())
        if not stat.S_ISREG(mode):
            return False
        if now.length == 0:
            return True
        page = read_first_page(self._path)
        if page.is_marked:
            return True
        if page.is_database:
            return not page.has_tables or now == recorded
        return self._in_state or (recorded is not None and now.inode == recorded.inode)

    def _is_record_ours(self) -> bool:
        """Return whether `<path>.lock` is a record, perhaps a torn one, and not a file that another program made."""
        status = _status(self._record)
        return status is None or not stat.S_ISREG(status.st_mode) or status.st_size <= _RECORD_LENGTH + 1

    # --- when the file is opened, under `exclusive` ---

    def reason_to_replace(self, *, starting: bool, alone: bool) -> str:
        """Return why an empty cache has to replace the file; an empty text when the file is believed.

        `starting`: this process has not used the file yet. `alone`: no other process uses it.
        """
        if self.is_suspect():
            return "it was suspect"
        now, (boot, recorded) = _stamp(self._path), self._read_record()
        if now is None or not self._path.is_file():
            return "it was removed" if self.has_wal() or os.path.lexists(self._path) else ""
        if recorded is not None and now != recorded and not (starting and now.is_copied_from(recorded)):
            return "something other than artstore replaced or changed it"
        # The last process that closes the database removes the WAL. So a dead process left a WAL that no process uses.
        abandoned = starting and alone and now.length > 0 and self.has_wal()
        if abandoned and boot != self._boot and not self._passes_quick_check():
            return "it is damaged"
        return ""

    def _passes_quick_check(self) -> bool:
        log.warning("power failed while the cache %s was in use: quick_check reads all of it", self._path)
        SharedMemory(self._shm).require_space()
        try:
            # No deadline: a large file takes as long as it takes to read. Read only: otherwise the close would remove
            # the WAL, and a start after this one, which may die before it has replaced the file, would believe it.
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)) as connection:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError as e:
            if is_damage(e):
                return False
            raise

    def put_aside(self, why: str) -> None:
        """Rename the file and its WAL, so that an empty cache can begin. No connection of this process is open."""
        path, time = self._path, datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = path.with_name(f"{path.name}.broken-{time}")
        log.warning("the cache %s is put aside as %s and replaced by an empty one: %s", path, aside.name, why)
        # The WAL goes last: beside an empty database SQLite drops it, beside the old one it would be missed.
        for old, new in ((path, aside), (self._wal, f"{aside}-wal")):
            with suppress(FileNotFoundError):
                os.rename(old, new)
        self._shm.unlink(missing_ok=True)
        self._delete_older(aside.name)
        self._suspect_file.unlink(missing_ok=True)

    def _delete_older(self, kept: str) -> None:
        """Delete the databases that were put aside before: they may be large, and the sidecars hold all of it.

        A file that lacks artstore's id stays, whatever its name.
        """
        prefix = f"{self._path.name}.broken-"
        for path in list(self._path.parent.iterdir()):
            name = path.name.removesuffix("-wal")
            if name == kept or not name.startswith(prefix) or not _TIME.fullmatch(name[len(prefix) :]):
                continue
            database = path.with_name(name)
            with suppress(OSError):
                if not os.path.lexists(database) or (
                    database.is_file() and read_first_page(database).is_marked
                ):
                    path.unlink()

    # --- while the file is used ---

    def is_unchanged(self) -> bool:
        """Return whether the file is the one that this process opened, changed only by itself. Costs two stats."""
        if self._seen is None or self.is_suspect():
            return False
        return self._changing or _stamp(self._path) == self._seen

    def is_replaced(self) -> bool:
        """Return whether the file is another one than this process opened, and is not being opened now."""
        return not self._changing and self._seen is not None and self._seen.inode != _inode(self._path)

    def accept_checkpoint(self) -> bool:
        """Return whether another process's checkpoint is the only change of the file. Call it under `exclusive`."""
        now, (_, recorded) = _stamp(self._path), self._read_record()
        same = now is not None and self._seen is not None and now.inode == self._seen.inode
        if not same or recorded not in (None, now) or self.is_suspect():
            return False
        self._seen = now
        return True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Allow this process to change the file within the block. Call it under `exclusive`."""
        self._changing = True
        self.forget_stamp()  # a process that dies within the block leaves a file that is believed
        try:
            yield
            self._seen = _stamp(self._path)
            self._write_record(self._seen)
        finally:
            self._changing = False

    def forget_stamp(self) -> None:
        """Record no stamp: the file is believed whatever its stamp."""
        self._write_record(None)

    def has_wal(self) -> bool:
        """Return whether there is a WAL: a process uses the file, or died."""
        try:
            return self._wal.stat().st_size > 0
        except FileNotFoundError:
            return False

    def identity(self) -> tuple[int, int, int]:
        """Return the inodes of the file, its WAL and the WAL's index; 0 for one that is missing."""
        return _inode(self._path), _inode(self._wal), _inode(self._shm)

    def mark_suspect(self, why: str) -> None:
        """Have the file put aside when a process opens it next."""
        self._suspect = _inode(self._path)
        log.warning("the cache %s will be replaced by an empty one: %s", self._path, why)
        try:
            os.close(os.open(self._suspect_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as e:
            log.warning("other processes cannot be informed of it: %s", os.strerror(e.errno or 0))

    def is_suspect(self) -> bool:
        """Return whether this process, or another one, marked the file as suspect."""
        if os.path.exists(self._suspect_file):
            return True
        return self._suspect != 0 and self._suspect == _inode(self._path)

    # --- the record ---

    def _read_record(self) -> tuple[str, Stamp | None]:
        """Return the boot in which the file was last believed, and its stamp; None when none is recorded."""
        try:
            words = self._record.read_text("ascii", "replace").split()
        except (FileNotFoundError, NotADirectoryError):
            return "", None
        if not words:
            return "", None
        if words[1:] == [_NO_STAMP]:
            return words[0], None
        try:
            return words[0], Stamp(*map(int, words[1:]))
        except (ValueError, TypeError):  # not our text: differs from the stamp of every file
            return "", Stamp(-1, -1, -1)

    def _write_record(self, stamp: Stamp | None) -> None:
        text = " ".join([self._boot, *(map(str, stamp) if stamp else (_NO_STAMP,))])
        # In place and padded: it works on a full disk as well.
        fd = os.open(self._record, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, text.ljust(_RECORD_LENGTH).encode() + b"\n", 0)
            if self._syncs:
                os.fdatasync(fd)
        except OSError:
            self._syncs = False  # no further sync of this file: a stale record costs a rebuild at worst
            raise
        finally:
            os.close(fd)


def _foreign(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} is not of artstore's making. It is left as it is.",
        place="cache.sql.url",
        cure="Name a file of its own for the cache. If this was a cache, delete it: it is rebuilt from the sidecars.",
    )


def is_damage(error: BaseException | None) -> bool:
    """Return whether `error`, or what caused it, shows that the file is no sound database."""
    while error is not None:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in _DAMAGED or code == _CUT:
            return True
        error = error.__cause__
    return False


def _current_boot() -> str:
    """Return the id of this boot of the machine; where there is none, a text that equals no other."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return f"unknown-{os.urandom(8).hex()}"


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stamp(path: Path) -> Stamp | None:
    status = _status(path)
    return None if status is None else Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


def _inode(path: Path) -> int:
    stamp = _stamp(path)
    return 0 if stamp is None else stamp.inode
