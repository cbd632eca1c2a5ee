"""One store, one home: the processes of two homes share neither locks nor an index, and would overwrite each other.

Not an `OwnedFile`: all processes of one home hold the lock together.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from artstore.errors import ConfigError
from artstore.spi import INTERNAL

_STRUCT_FLOCK = "hhqqi4x"
_FIRST_BYTE = (os.SEEK_SET, 0, 1, 0)


def lock_for_home(root: Path, home: Path) -> int:
    """Lock the store for `home`. Raises `ConfigError` when another home has it, and `OSError`.

    Returns the descriptor that holds the lock until it is closed. Other processes of the same home may hold it too.
    """
    fd = os.open(root / INTERNAL / "home", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    mine = os.fsencode(home)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no other process has the store: it becomes ours
            # Not rewritten when it is right: on a full disk a block that is given up cannot be had again.
            if os.pread(fd, 4096, 0) != mine:
                os.ftruncate(fd, 0)
                os.pwrite(fd, mine, 0)
        except BlockingIOError:
            pass
        fcntl.flock(fd, fcntl.LOCK_SH)
        # A second lock, of a kind whose holders can be asked for: see `is_only_holder`. On NFS a `flock` is such a
        # lock too, so this may have to wait for the exclusive lock of another process that starts.
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, struct.pack(_STRUCT_FLOCK, fcntl.F_RDLCK, *_FIRST_BYTE))
        if (other := os.pread(fd, 4096, 0)) != mine:
            raise ConfigError(
                f"The store {root} is in use by an element with home {os.fsdecode(other)}.",
                place="backend.local.root",
                cure="Stop that element, or serve this one with the same home.",
            )
    except BaseException:  # an open descriptor would make the next try wait for its own lock
        os.close(fd)
        raise
    return fd


def is_only_holder(fd: int) -> bool:
    """Return whether no other process holds the lock of `fd`, one without a staging directory included."""
    query = struct.pack(_STRUCT_FLOCK, fcntl.F_WRLCK, *_FIRST_BYTE)
    conflict: int = struct.unpack(_STRUCT_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0]
    return conflict == fcntl.F_UNLCK
