"""One store, one home: the processes of two homes share neither locks nor cache, and would not see each other."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from artstore.errors import ConfigError
from artstore_local.tree import INTERNAL

_FLOCK = "hhqqi4x"
"""`struct flock`."""


def occupy(root: Path, home: Path) -> int:
    """Hold the store for `home`; the descriptor holds it until it is closed. Raises `ConfigError`, `OSError`."""
    fd = os.open(root / INTERNAL / "home", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    mine = os.fsencode(home)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else: the store is ours
            if os.pread(fd, 4096, 0) != mine:  # on a full disk what is given up is not had again
                os.ftruncate(fd, 0)
                os.pwrite(fd, mine, 0)
        except BlockingIOError:
            pass
        fcntl.flock(fd, fcntl.LOCK_SH)
        # The same once more, of a kind that can be asked for: `alone`. On NFS the two kinds meet: it may have to wait.
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0))
        if (other := os.pread(fd, 4096, 0)) != mine:
            raise ConfigError(
                f"The store {root} is in use by an element with home {os.fsdecode(other)}.",
                place="backend.local.root",
                cure="Stop that element, or serve this one with the same home.",
            )
    except BaseException:  # or the next try would wait for this one's lock
        os.close(fd)
        raise
    return fd


def alone(fd: int) -> bool:
    """Whether nobody else occupies the store held by `fd`, be it a process without room for a place of its own."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    met: int = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
    return met == fcntl.F_UNLCK
